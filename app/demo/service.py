"""The product as a user runs it: `serve` in a process of its own, with settings made for the occasion."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import httpx
from cryptography.fernet import Fernet

from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 40.0
SYNC_INTERVAL_SECONDS = 3
GRAPH_LAG_SECONDS = 6  # the simulated Graph's data is 5 seconds old; the real one's is given a minute


class DemoError(Exception):
    """The demo can't go on; the text says why."""


class Service(NamedTuple):
    """The running service, and the secrets it was given."""

    url: str
    api_key: str
    app_secret: str
    verify_token: str
    pid: int


@asynccontextmanager
async def service(folder: Path, *, port: int, graph_url: str, app_secret: str) -> AsyncIterator[Service]:
    """Run `serve` with its data and its log in `folder`, until the context ends.

    Raises:
        DemoError: it did not start; the end of its log is in the text.

    """
    port = port or free_port()
    api_key, verify_token = secrets.token_urlsafe(16), secrets.token_urlsafe(8)
    own = {
        "DATA_DIR": str(folder / "data"),
        "FACEBOOK_APP_SECRET": app_secret,
        "FACEBOOK_VERIFY_TOKEN": verify_token,
        "OPS_API_KEY": api_key,
        "TOKEN_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "GRAPH_API_URL": graph_url,
        "GRAPH_LAG_SECONDS": str(GRAPH_LAG_SECONDS),
        "SYNC_INTERVAL_SECONDS": str(SYNC_INTERVAL_SECONDS),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    names = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in names}
    log = folder / "serve.log"
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli.main", "serve"),
            cwd=folder,  # no .env of the user's is read
            env=inherited | own,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops this in order
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await _wait_until_ready(process, url, log)
        yield Service(url, api_key, app_secret, verify_token, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN_SECONDS):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(START_WITHIN_SECONDS):
        while True:
            if process.returncode is not None:
                raise DemoError(f"the service ended at its start:\n{_end_of(log)}")
            with suppress(httpx.TransportError):
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
