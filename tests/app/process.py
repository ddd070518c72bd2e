"""The service as a process of its own, told apart from others by what it logs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from app.settings import Settings
from tests.app.service import API_KEY, APP_SECRET, AUTHORIZATION, ENCRYPTION_KEY, OLD_API_KEY, VERIFY_TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVE = ("-m", "app.cli.main", "serve")
RUNNING_ON = re.compile(r"Uvicorn running on (http://[\d.:]+)")
WITHIN_SECONDS = 60


def environment(**changes: str | None) -> dict[str, str]:
    """What `serve` needs, and nothing that this machine sets; None leaves a variable out."""
    values: dict[str, str | None] = {
        "FACEBOOK_APP_SECRET": APP_SECRET,
        "FACEBOOK_VERIFY_TOKEN": VERIFY_TOKEN,
        "OPS_API_KEY": f"{API_KEY},{OLD_API_KEY}",
        "TOKEN_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "GRAPH_CALLS_PER_SECOND_PER_PAGE": "100",
        "PORT": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),  # this tree, whatever is installed
        **changes,
    }
    names = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    return inherited | {name: value for name, value in values.items() if value is not None}


class Process:
    """A started process: its output, line by line, and a client of what it serves."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: list[str] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @property
    def output(self) -> str:
        return "\n".join(self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._news:
                self._lines.append(line.decode().rstrip("\n"))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    def assert_alive(self) -> None:
        assert not self._reading.done(), f"it ended:\n{self.output}"

    async def said(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait until a line of the output has this in it."""
        async with asyncio.timeout(WITHIN_SECONDS), self._news:
            seen = 0
            while True:
                for line in self._lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self._lines)
                self.assert_alive()
                await self._news.wait()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        address = (await self.said(RUNNING_ON))[1]
        # several workers: the address is told before the first of them listens
        transport = httpx.AsyncHTTPTransport(retries=6)
        async with httpx.AsyncClient(
            base_url=address, headers=AUTHORIZATION, timeout=WITHIN_SECONDS, transport=transport
        ) as http:
            yield http

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process and of its output; returns its exit code."""
        async with asyncio.timeout(WITHIN_SECONDS):
            code = await self._process.wait()
            await self._reading
        return code

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Kill it with all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.ended()


@asynccontextmanager
async def process(folder: Path, *arguments: str, **changes: str | None) -> AsyncIterator[Process]:
    """Start a Python process in a folder; it is killed at the end of the context unless it ended."""
    made = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            *(arguments or SERVE),
            cwd=folder,
            env=environment(**changes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**24,
            start_new_session=True,
        )
    )
    try:
        yield made
    finally:
        await made.kill()
