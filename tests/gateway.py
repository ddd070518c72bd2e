"""Postgres behind a port of its own, which can be closed and opened again, or stand still."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK = 2**16


class Gateway:
    """Closed at first."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
        self._port = int(query.get("port", [parts.port or 5432])[0])
        self._user = unquote(parts.username or "postgres")
        self._password = f":{parts.password}" if parts.password else ""
        self._database = parts.path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0

    @property
    def dsn(self) -> str:
        """The address of the same database through this gateway."""
        return f"postgresql://{self._user}{self._password}@127.0.0.1:{self.port}{self._database}?sslmode=disable"

    async def reserve(self) -> None:
        """Choose a port, and listen on it no longer."""
        await self.open()
        await self.close()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and break those that are open."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def freeze(self) -> None:
        """Keep connections, and take new ones, and let nothing through."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything through again."""
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: asyncio.StreamWriter | None = None
        try:
            if self._host.startswith("/"):
                answers, behind = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
            else:
                answers, behind = await asyncio.open_connection(self._host, self._port)
            ways = {
                asyncio.ensure_future(self._pump(reader, behind)),
                asyncio.ensure_future(self._pump(answers, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, behind):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()


@asynccontextmanager
async def gateway(dsn: str, *, is_open: bool = True) -> AsyncIterator[Gateway]:
    """A gateway to a database."""
    made = Gateway(dsn)
    await made.reserve()
    if is_open:
        await made.open()
    try:
        yield made
    finally:
        made.thaw()
        await made.close()
