"""Write groups of deliveries: journal and rows in one transaction, and find the bad item when Postgres refuses.

The way of one webhook ends here, and so do a replay's and, from the spool, that of what waited there.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sql.deliveries import ensure_partitions, journal_deliveries, mark_replayed
from sql.errors import JournalChanged, Refusal, TellsOfErased, describe, refusal_of
from sql.json_values import dumps
from sql.refusing import nothing_left, take_out
from sql.rows import Counts, Delivery, Row, Rows
from sql.upsert import ingest, upsert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date
    from uuid import UUID

    from sql.pool import Pool
    from sql.refusing import Redact
    from sql.upsert import Connection

log = structlog.get_logger(__name__)

RETRIES = 8
UNDO_WITHIN_SECONDS = 1.0


class ItemRows(NamedTuple):
    """One item's rows; `path` says where in the body it stands."""

    path: str
    rows: list[Row]


class Ingest(NamedTuple):
    """A delivery on its way into the database, with its items turned into rows."""

    day: date
    id: UUID
    received_at: datetime
    body: bytes
    items: list[ItemRows]
    dead_letters: list[tuple[str, str]]
    tests: int = 0

    def delivery(self) -> Delivery:
        """The journal's row."""
        dead = self.dead_letters
        if self.items:
            state = "partial" if dead else "stored"
        elif dead:
            state = "dead"
        else:
            state = "test" if self.tests else "stored"
        letters = dumps([{"path": path, "reason": reason} for path, reason in dead]) if dead else None
        total = len(self.items) + len(dead) + self.tests
        return Delivery(self.day, self.id, self.received_at, self.body, state, total, letters)


class Ingestor:
    """Writes groups of deliveries through a pool. `replaying` updates journal rows instead of appending them.

    `redacted` takes items, by their paths, out of a body: those of erased persons. `on_refused` is told how many items
    became dead letters because Postgres refused them.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        replaying: bool = False,
        redacted: Redact = nothing_left,
        on_refused: Callable[[int], None] = lambda _items: None,
    ) -> None:
        self._pool = pool
        self._replaying = replaying
        self._redacted, self._on_refused = redacted, on_refused
        self._days: set[date] = set()

    async def write(self, group: Sequence[Ingest]) -> Counts:
        """Store a group durably; what only Postgres finds bad becomes a dead letter, its neighbours are stored.

        Cancelled, it ends within about a second, even if the server stands still.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: Postgres can't take it now; nothing
                is lost as long as the caller keeps the group. Part of it may be stored: writing it again is harmless.
            JournalChanged: what is replayed has to be read again; likewise.

        """
        try:
            return await self._committed(group, [item.rows for delivery in group for item in delivery.items])
        except Exception as error:
            if refusal_of(error) is not Refusal.SPLIT:
                raise
            if len(group) == 1:
                return await self._write_items(group[0], error)
            return await self._write_halves(group)

    async def _write_halves(self, group: Sequence[Ingest]) -> Counts:
        """Halve the group until the bad delivery stands alone."""
        middle = len(group) // 2
        counts, refused = Counts(), None
        for half in (group[:middle], group[middle:]):
            try:
                counts += await self.write(half)
            except Exception as error:
                if refusal_of(error) is not Refusal.SPLIT:
                    raise
                refused = error  # a delivery that not even the journal takes: after its neighbours
        if refused is not None:
            raise refused
        return counts

    async def _write_items(self, delivery: Ingest, error: Exception) -> Counts:
        """Store a delivery's good items, each half in a transaction of its own, then the journal's row about it."""
        if not delivery.items:
            raise error
        good: list[ItemRows] = []
        bad: list[tuple[str, str]] = []
        counts = await self._store_items(delivery.items, good, bad)
        for path, reason in bad:
            log.warning("item_refused", delivery=str(delivery.id), path=path, reason=reason)
        await self._committed([delivery._replace(items=good, dead_letters=[*delivery.dead_letters, *bad])], [])
        if bad:
            self._on_refused(len(bad))
        return counts

    async def _store_items(self, items: list[ItemRows], good: list[ItemRows], bad: list[tuple[str, str]]) -> Counts:
        """Store the items that Postgres takes, and sort them from those that it refuses."""
        try:
            counts = await self._committed([], [item.rows for item in items])
        except Exception as error:
            if refusal_of(error) is not Refusal.SPLIT:
                raise
            if len(items) == 1:
                bad.append((items[0].path, f"refused by Postgres: {describe(error)}"))
                return Counts()
        else:
            good += items
            return counts
        middle = len(items) // 2
        counts = await self._store_items(items[:middle], good, bad)
        return counts + await self._store_items(items[middle:], good, bad)

    async def _committed(self, journaled: Sequence[Ingest], items: Sequence[list[Row]]) -> Counts:
        """Commit journal rows and items' rows in one transaction, anew where only the moment was bad."""
        rows = Rows()
        for item in items:
            rows.add(item)
        for attempt in range(RETRIES):
            try:
                return await self._transaction(journaled, rows)
            except Exception as error:
                if refusal_of(error) is not Refusal.RETRY or attempt == RETRIES - 1:
                    raise
                self._days.clear()  # a day's partition may be what was missing
                log.info("ingest_retried", reason=type(error).__name__, attempt=attempt + 1)
                await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, no secret
        raise AssertionError  # the last attempt returns or raises

    async def _transaction(self, journaled: Sequence[Ingest], rows: Rows) -> Counts:
        connection = await self._pool.acquire()
        try:
            work = asyncio.create_task(self._write_once(connection, journaled, rows))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # Rolling back waits for the server's word, without end where the server stands still. The caller's
                # time is up: what can't be undone quickly is dropped with its connection.
                work.add_done_callback(_ignore_outcome)
                work.cancel()
                try:
                    await asyncio.wait({work}, timeout=UNDO_WITHIN_SECONDS)
                finally:
                    if not work.done():
                        connection.terminate()
                raise
        finally:
            # likewise: a query that was cancelled waits here for the server's word
            with suppress(TimeoutError):
                await self._pool.release(connection, timeout=UNDO_WITHIN_SECONDS)

    async def _write_once(self, connection: Connection, journaled: Sequence[Ingest], rows: Rows) -> Counts:
        deliveries = [delivery.delivery() for delivery in journaled]
        if self._replaying:
            async with connection.transaction():
                if not await mark_replayed(connection, deliveries, datetime.now(UTC)):
                    raise JournalChanged
                counts = await upsert(connection, rows)
                await take_out(connection, journaled, self._redacted)
            return counts
        missing = {delivery.day for delivery in deliveries} - self._days
        if missing:
            await ensure_partitions(connection, missing)
            self._days |= missing
        if not (rows.is_empty and any(delivery.items for delivery in journaled)):  # else they were written before
            with suppress(TellsOfErased):
                return await ingest(connection, deliveries, rows)
        async with connection.transaction():
            await journal_deliveries(connection, deliveries)
            counts = await upsert(connection, rows)
            await take_out(connection, journaled, self._redacted)
        return counts


def _ignore_outcome(work: asyncio.Task[Counts]) -> None:
    if not work.cancelled():
        work.exception()
