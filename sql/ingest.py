"""Write groups of deliveries: journal and rows in one transaction, and find the bad item when Postgres refuses.

The way of one webhook ends here, and so do a replay's and, from the spool, that of what waited there.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sql.deliveries import ensure_partitions, journal_deliveries, mark_replayed
from sql.errors import Refusal, refusal_of
from sql.json_values import dumps
from sql.rows import Counts, Delivery, Row, Rows
from sql.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    from sql.pool import Pool
    from sql.upsert import Connection

log = structlog.get_logger(__name__)

RETRIES = 8


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
        if dead:
            state = "partial" if self.items else "dead"
        else:
            state = "test" if self.tests and not self.items else "stored"
        letters = dumps([{"path": path, "reason": reason} for path, reason in dead]) if dead else None
        total = len(self.items) + len(dead) + self.tests
        return Delivery(self.day, self.id, self.received_at, self.body, state, total, letters)


class Ingestor:
    """Writes groups of deliveries through a pool. `replaying` updates journal rows instead of appending them."""

    def __init__(self, pool: Pool, *, replaying: bool = False) -> None:
        self._pool = pool
        self._replaying = replaying
        self._days: set[date] = set()

    async def write(self, group: Sequence[Ingest]) -> Counts:
        """Store a group durably; what only Postgres finds bad becomes a dead letter, its neighbours are stored.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: Postgres can't take it now; nothing
                is lost as long as the caller keeps the group. Part of it may be stored: writing it again is harmless.

        """
        for attempt in range(RETRIES):
            try:
                return await self._write_once(group)
            except Exception as error:
                refusal = refusal_of(error)
                if refusal is Refusal.SPLIT:
                    return await self._split(group, error)
                if refusal is Refusal.UNAVAILABLE or attempt == RETRIES - 1:
                    raise
                log.info("ingest_retried", reason=type(error).__name__, attempt=attempt + 1)
                await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, no secret
        raise AssertionError  # the last attempt returns or raises

    async def _write_once(self, group: Sequence[Ingest]) -> Counts:
        rows = Rows()
        for delivery in group:
            for item in delivery.items:
                rows.add(item.rows)
        async with self._pool.acquire() as connection:
            await self._make_partitions(connection, group)
            async with connection.transaction():
                await self._journal(connection, [delivery.delivery() for delivery in group])
                return await upsert(connection, rows)

    async def _make_partitions(self, connection: Connection, group: Sequence[Ingest]) -> None:
        missing = {delivery.day for delivery in group} - self._days
        if missing:
            await ensure_partitions(connection, missing)
            self._days |= missing

    async def _journal(self, connection: Connection, deliveries: list[Delivery]) -> None:
        if self._replaying:
            await mark_replayed(connection, deliveries, datetime.now(UTC))
        else:
            await journal_deliveries(connection, deliveries)

    async def _split(self, group: Sequence[Ingest], error: Exception) -> Counts:
        """Halve the group, then the delivery, until the bad item stands alone."""
        if len(group) > 1:
            middle = len(group) // 2
            return await self.write(group[:middle]) + await self.write(group[middle:])
        (delivery,) = group
        if not delivery.items:
            raise error
        good: list[ItemRows] = []
        bad: list[tuple[str, str]] = []
        await self._try_items(delivery.items, good, bad)
        if not bad:  # refused together though each was taken: nothing of it can be trusted to pass
            good, bad = [], [(item.path, _reason(error)) for item in delivery.items]
        for path, reason in bad:
            log.warning("item_refused", delivery=str(delivery.id), path=path, reason=reason)
        return await self.write([delivery._replace(items=good, dead_letters=[*delivery.dead_letters, *bad])])

    async def _try_items(self, items: list[ItemRows], good: list[ItemRows], bad: list[tuple[str, str]]) -> None:
        """Sort items into those that Postgres takes and those that it refuses."""
        rows = Rows()
        for item in items:
            rows.add(item.rows)
        try:
            async with self._pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    await upsert(connection, rows)
                finally:
                    await transaction.rollback()
        except Exception as error:
            if refusal_of(error) is not Refusal.SPLIT:
                raise
            if len(items) == 1:
                bad.append((items[0].path, _reason(error)))
                return
            middle = len(items) // 2
            await self._try_items(items[:middle], good, bad)
            await self._try_items(items[middle:], good, bad)
        else:
            good += items


def _reason(error: Exception) -> str:
    """Say why Postgres refused, without its detail lines: those quote values."""
    state = getattr(error, "sqlstate", None)
    return f"refused by Postgres: {type(error).__name__}" + (f" ({state})" if state else "")
