"""Two writers on two connections, statement by statement: who goes next and commits first is for the test to say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from sql.errors import Refusal, TellsOfErased, refusal_of
from sql.rows import Rows
from sql.upsert import Connection, ingest, upsert

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from sql.rows import Row

RETRIES = 5


class Writer:
    """Writes one group, and stops at a gate before every statement and before its commit.

    What Postgres wants retried is written once more, as `Ingestor` does.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], watcher: Connection) -> None:
        self._connection = connection
        self._watcher = watcher
        self._permits = asyncio.Semaphore(0)
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_one_call = False
        self.pid = connection.get_server_pid()
        self.retries = 0
        self.is_ready = False  # to commit

    async def start(self, facts: Iterable[list[Row]], *, in_one_call: bool = False) -> None:
        """Begin; it stops before the first statement. What names no threads may be written in one call."""
        rows = Rows()
        for fact in facts:
            rows.add(fact)
        self._in_one_call = in_one_call and not rows.threads
        self._permits, self.retries, self.is_ready = asyncio.Semaphore(0), 0, False
        self._arrived.clear()
        self._task = asyncio.create_task(self._write(rows))
        self._task.add_done_callback(lambda _: self._arrived.set())
        await self._arrived.wait()

    async def _write(self, rows: Rows) -> None:
        for attempt in range(RETRIES):
            try:
                if self._in_one_call:
                    await self._gate()
                    with suppress(TellsOfErased):
                        await ingest(self._connection, [], rows)
                        return
                async with self._connection.transaction():
                    self.is_ready = False
                    await upsert(cast("Connection", self), rows)
                    self.is_ready = True
                    await self._gate()
            except Exception as error:
                if refusal_of(error) is not Refusal.RETRY or _is_deadlock(error) or attempt == RETRIES - 1:
                    raise
                self.retries += 1
            else:
                return

    async def _gate(self) -> None:
        self._arrived.set()
        await self._permits.acquire()

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """As a connection's, once the gate opens."""
        await self._gate()
        return await self._connection.fetch(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """As a connection's, once the gate opens."""
        await self._gate()
        return await self._connection.execute(query, *args)

    @property
    def is_done(self) -> bool:
        """Whether the group is committed.

        Raises:
            asyncpg.PostgresError: it never will be.

        """
        if self._task is None or not self._task.done():
            return False
        self._task.result()
        return True

    async def step(self, *others: Writer) -> bool:
        """Let one statement, or the commit, through.

        Returns whether it went on: not when it waits for others' locks, or gave way to begin anew.
        """
        if self.is_done:
            return False
        retries = self.retries
        if self._arrived.is_set():
            self._arrived.clear()
            self._permits.release()
        while not self._arrived.is_set():
            pids = [other.pid for other in others]
            blocked = await self._watcher.fetchval("SELECT pg_blocking_pids($1) && $2::integer[]", self.pid, pids)
            if blocked and not self._arrived.is_set():
                return False
        return self.retries == retries

    async def reaches_commit(self, *others: Writer) -> bool:
        """Step on to the commit. Returns whether that was reached: else it waits for others' locks."""
        while not self.is_ready:
            if not await self.step(*others):
                return False
        return True

    async def abandon(self) -> None:
        """End it, done or not."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})


def _is_deadlock(error: Exception) -> bool:
    return getattr(error, "sqlstate", None) == "40P01"


async def race(first: Writer, second: Writer, turns: Iterable[bool]) -> None:
    """Step the writers by turns (True: the first); a turn of one that waits goes to the other; then to the end."""
    for turn in turns:
        one, other = (first, second) if turn else (second, first)
        if not await one.step(other):
            await other.step(one)
    await finish(first, second)


async def finish(*writers: Writer) -> None:
    """Step each as far as it goes, again and again, until all are done."""
    while not all(writer.is_done for writer in writers):
        for writer in writers:
            while await writer.step(*(other for other in writers if other is not writer)):
                pass
