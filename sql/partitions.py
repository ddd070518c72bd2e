"""Tables in partitions of one day each: the journal, and the feed of changes. Made ahead, dropped past retention."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sql.upsert import Connection

DAYS_AHEAD = 7
DROP_WAITS_MS = 200


async def ensure_days(connection: Connection, table: str, days: Iterable[date]) -> None:
    """Make a table's partitions for these days where they are missing.

    Waits for nobody who reads or writes the table, and nobody for it. Where nothing is missing it needs no right to
    create tables.
    """
    wanted = set(days)
    if wanted <= (await partitions(connection, table)).keys():
        return
    async with connection.transaction():
        for day in sorted(wanted):
            await connection.execute("SELECT make_day_partition($1, $2)", table, day)


async def partitions(connection: Connection, table: str) -> dict[date, str]:
    """Return a table's partitions of one day each, oldest first: {day: name}."""
    rows = await connection.fetch(
        """
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.oid::regclass::text AS name
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = $1::text::regclass AND c.relname ~ ('^' || $1 || '_[0-9]{8}$')
        ORDER BY day
        """,
        table,
    )
    return {r["day"]: r["name"] for r in rows}


async def drop_days_before(
    connection: Connection,
    table: str,
    first_kept: date,
    *,
    last_words: Callable[[Connection, str], Awaitable[None]] | None = None,
) -> list[date]:
    """Drop a table's partitions of days before `first_kept`; returns the days dropped.

    A drop locks the whole table, and while it waits for a long reader every writer would wait behind it: so it gives
    up soon, and what is left is for the next time. `last_words` is given each partition before it goes, in the same
    transaction and when nobody else can touch it any more.
    """
    dropped = []
    for day, name in (await partitions(connection, table)).items():
        if day >= first_kept:
            break
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {DROP_WAITS_MS}")
                # in the order in which whoever reads or writes takes them
                await connection.execute(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
                if day in await partitions(connection, table):  # another process may have been faster
                    if last_words is not None:
                        await last_words(connection, name)
                    await connection.execute(f"DROP TABLE {name}")
        except asyncpg.LockNotAvailableError:
            break
        dropped.append(day)
    return dropped


async def keep_days(
    connection: Connection,
    table: str,
    *,
    today: date,
    retention_days: int,
    last_words: Callable[[Connection, str], Awaitable[None]] | None = None,
) -> list[date]:
    """Make the coming days' partitions, and drop those past retention; returns the days dropped."""
    await ensure_days(connection, table, (today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)))
    return await drop_days_before(connection, table, today - timedelta(days=retention_days), last_words=last_words)
