"""Replay: read journaled deliveries again with this version's eyes, and write what they hold."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from app.webhook.projection import Door
from app.webhook.reader import read_body
from app.webhook.redaction import redacted
from sql.deliveries import JournalFilter, all_deliveries, count_dead, read_deliveries
from sql.errors import JournalChanged
from sql.ingest import Ingest, Ingestor
from sql.rows import Counts

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from sql.deliveries import Place
    from sql.pool import Pool

DELIVERIES_AT_ONCE = 50  # each may have 4 MiB


class Replayed(NamedTuple):
    """What a replay did: deliveries read, those that still hold dead letters, rows new and changed.

    `last` is the last delivery that was read, where there may be more and the time was over.
    """

    deliveries: int
    still_dead: int
    inserted: int
    updated: int
    last: Place | None = None


async def replay(
    pool: Pool,
    which: JournalFilter,
    *,
    after: Place | None = None,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Replayed:
    """Write every delivery of the filter again, oldest first; doing it twice changes nothing more.

    From just `after` a delivery on, if one is given; it ends when so many seconds are over, but never before a chunk.

    Raises:
        OSError, asyncpg.PostgresError: the database went away; start it again, what was done stays done.

    """
    ingestor = Ingestor(pool, replaying=True, redacted=redacted)
    deliveries = still_dead = 0
    counts, ends_at, last = Counts(), clock() + seconds if seconds is not None else None, None
    async for rows in all_deliveries(pool, which, chunk=DELIVERIES_AT_ONCE, after=after):
        counts += await _write(pool, ingestor, rows)
        deliveries += len(rows)
        async with pool.acquire() as connection:  # not what was read: Postgres may refuse what reads well
            still_dead += await count_dead(connection, [(row["day"], row["id"]) for row in rows])
        if ends_at is not None and clock() >= ends_at and len(rows) == DELIVERIES_AT_ONCE:
            last = (rows[-1]["received_at"], rows[-1]["id"])
            break
    return Replayed(deliveries, still_dead, counts.inserted, counts.updated, last)


async def _write(pool: Pool, ingestor: Ingestor, rows: list[asyncpg.Record]) -> Counts:
    while True:
        group = await asyncio.to_thread(_read, rows)  # webhooks that come in meanwhile must not wait
        try:
            return await ingestor.write(group)
        except JournalChanged:
            ids = tuple(row["id"] for row in rows)
            async with pool.acquire() as connection:
                rows = await read_deliveries(connection, JournalFilter(ids=ids), limit=len(ids))


def _read(rows: list[asyncpg.Record]) -> list[Ingest]:
    return [as_ingest(row) for row in rows]


def as_ingest(row: asyncpg.Record) -> Ingest:
    """Read a journaled delivery into rows."""
    door = Door(row["received_at"], row["day"], row["id"])
    reading = read_body(row["body"], door)
    return Ingest(door.day, door.id, door.received_at, row["body"], reading.items, reading.dead_letters, reading.tests)
