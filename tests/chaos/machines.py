"""What a test of durability kills, stops and fills: a Postgres and a service of its own, and a load on it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import httpx

from app.demo.service import free_port
from sql import embedded
from sql.embedded_postmaster import Postmaster
from sql.pool import connect
from tests.app.process import SERVE, process
from tests.app.service import deliver, text_delivery
from tests.conftest import in_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.app.process import Process

PAGE = "104203300000001"
CLIENTS = 8
# As long as Facebook waits, in a long run, which has the machine for itself. Whoever waits for Postgres waits for ever.
ANSWER_WITHIN_SECONDS = 5.0 if "MIRROR_OUTAGE" in os.environ else 30.0
WITHIN_SECONDS = 120.0


class Database:
    """A Postgres server: `kill` it as `kill -9` does, `start` it again, let it stand still, ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holds: list[embedded.EmbeddedPostgres] = []
        self._postmaster = Postmaster(folder / "postgres" / "data")
        self._name = ""
        self.dsn = ""

    async def start(self) -> None:
        held = await asyncio.to_thread(embedded.start, self.folder)
        self._holds.append(held)
        self.dsn = in_database(held.dsn, self._name) if self._name else held.dsn

    async def empty(self) -> None:
        """Go on with an empty database of a name of its own."""
        self._name = f"mirror_{uuid4().hex}"
        connection = await connect(self._holds[-1].dsn)
        await connection.execute(f"CREATE DATABASE {self._name}")
        await connection.close()
        self.dsn = in_database(self._holds[-1].dsn, self._name)

    def pids(self) -> list[int]:
        """The postmaster and its children."""
        pid = self._postmaster.pid()
        if pid is None:
            return []
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [pid, *(int(child) for child in children.read_text().split())]

    def kill(self) -> None:
        """End every process of it at once."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Stop its processes, all of them, and let them go on at the end."""
        stopped = self.pids()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(stopped):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def fetch(self, query: str) -> list[str]:
        """Ask for one column."""
        connection = await connect(self.dsn, timeout=WITHIN_SECONDS)
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()

    def stop(self) -> None:
        for held in reversed(self._holds):
            held.stop()


@asynccontextmanager
async def database(folder: Path | None = None) -> AsyncIterator[Database]:
    """A started server, in a folder of its own unless one is given."""
    made = folder or Path(tempfile.mkdtemp(prefix="mirror-chaos-"))
    made.chmod(0o711)  # the account that runs Postgres may not be ours
    server = Database(made)
    try:
        await server.start()
        yield server
    finally:
        await asyncio.to_thread(server.stop)
        if folder is None:
            shutil.rmtree(made, ignore_errors=True)


class Service:
    """`serve` on a port that stays the same, however often it is killed and started.

    Without `dsn` it has an embedded Postgres.
    """

    command = SERVE

    def __init__(self, folder: Path, dsn: str | None, **settings: str) -> None:
        self._folder, self._stack = folder, AsyncExitStack()
        self._settings = {
            "DATABASE_URL": dsn,
            "RECONCILER_ENABLED": "false",
            "LOG_LEVEL": "warning",
            "PYTHONFAULTHANDLER": "1",
            **settings,
        }
        self._loads = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def start(self, *arguments: str) -> None:
        """Start it, and wait until it answers."""
        settings = {**self._settings, "PORT": str(self.port)}
        self.process = await self._stack.enter_async_context(
            process(self._folder, *self.command, *arguments, **settings)
        )
        async with httpx.AsyncClient() as http, asyncio.timeout(WITHIN_SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"{self.url}/healthz")).status_code == 200:
                        return
                self.process.assert_alive()

    async def kill(self) -> None:
        await self.process.kill()

    def numbers(self) -> int:
        """Where the numbers of another load may begin."""
        self._loads += 1
        return self._loads * 10**6

    async def spooled(self) -> int:
        """How many deliveries its spool holds."""
        async with httpx.AsyncClient(timeout=30) as http:
            held = (await http.get(f"{self.url}/readyz")).json()["spool"]
        return int(held["deliveries"])

    async def condition(self) -> str:
        """What `/readyz` and the log say, and where its threads are; it is killed for that."""
        try:
            async with httpx.AsyncClient(timeout=10) as http:
                ready = (await http.get(f"{self.url}/readyz")).text
        except httpx.TransportError as error:
            ready = repr(error)
        with suppress(ProcessLookupError):
            self.process.signal(signal.SIGABRT)
        await self.process.ended()
        return f"/readyz: {ready}\n{self.process.output}"

    async def is_drained(self) -> None:
        """Wait until nothing is left in its spool, and the database answers."""
        async with httpx.AsyncClient(timeout=30) as http, asyncio.timeout(WITHIN_SECONDS):
            while True:
                told = (await http.get(f"{self.url}/readyz")).json()
                if told.get("state") == "ready" and told["spool"]["deliveries"] == 0:
                    return
                self.process.assert_alive()


class Load:
    """Clients that post messages, each once, for as long as the context is open; on a new connection each if `is_new`.

    `acknowledged` are the mids of those answered 200; `refused` are other answers, `broken` posts without any.
    """

    def __init__(self, service: Service, *, clients: int = CLIENTS, first: int = 0, is_new: bool = False) -> None:
        self._service, self._clients = service, clients
        self._kept = httpx.Limits(max_keepalive_connections=0 if is_new else None)
        self.sent = first
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self.broken = 0
        self.slowest = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Condition()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def has_acknowledged(self, more: int) -> None:
        """Wait until so many more were acknowledged.

        Raises:
            AssertionError: they were not in time; it tells how the service is.

        """
        had, refused, broken = len(self.acknowledged), len(self.refused), self.broken
        try:
            async with asyncio.timeout(WITHIN_SECONDS), self._news:
                await self._news.wait_for(lambda: len(self.acknowledged) >= had + more)
        except TimeoutError:
            raise AssertionError(
                f"{len(self.acknowledged) - had} of {more} acknowledged, {len(self.refused) - refused} refused, "
                f"{self.broken - broken} without an answer in {WITHIN_SECONDS:.0f} s; "
                f"clients: {self._tasks}\n{await self._service.condition()}"
            ) from None

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(base_url=self._service.url, timeout=60, limits=self._kept) as http:
            while not self._stop.is_set():
                self.sent += 1
                mid = f"m_{self.sent}"
                began = loop.time()
                try:
                    response = await deliver(http, text_delivery(PAGE, f"p{self.sent % 50}", mid, f"text of {mid}"))
                except httpx.TransportError:
                    self.broken += 1
                    await asyncio.sleep(0)
                    continue
                self.slowest = max(self.slowest, loop.time() - began)
                if response.status_code != 200:
                    self.refused.append(response.status_code)
                    continue
                async with self._news:
                    self.acknowledged.append(mid)
                    self._news.notify_all()


async def assert_all_is_there(server: Database, acknowledged: list[str]) -> None:
    """Check that each acknowledged message has its row, and its delivery stands in the journal once."""
    rows = await server.fetch("SELECT mid FROM messages WHERE text = 'text of ' || mid")
    assert sorted(set(acknowledged) - set(rows)) == []
    bodies = await server.fetch("SELECT body FROM webhook_deliveries")
    times: dict[str, int] = {}
    for body in bodies:
        (entry,) = json.loads(body)["entry"]
        (item,) = entry["messaging"]
        mid = item["message"]["mid"]
        times[mid] = times.get(mid, 0) + 1
    assert {mid: times.get(mid, 0) for mid in acknowledged if times.get(mid) != 1} == {}
    assert {mid: n for mid, n in times.items() if n != 1} == {}


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """A folder on a disk of its own, which is small; None where this machine lets us make none."""
    folder = Path(tempfile.mkdtemp(prefix="mirror-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(folder)]
    is_mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Use up what is left of a folder's disk; removing the file gives it back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return ballast
