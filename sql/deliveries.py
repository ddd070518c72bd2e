"""The journal of deliveries: `webhook_deliveries`, its partitions, and what is read back from it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from sql.batches import first_two
from sql.partitions import ensure_days, keep_days, partitions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import date, datetime
    from uuid import UUID

    import asyncpg

    from sql.pool import Pool
    from sql.rows import Delivery
    from sql.upsert import Connection

    Place = tuple[datetime, UUID]  # of a delivery: its time and its id

SEARCHED_AT_ONCE = 20_000  # deliveries: with 1 KiB each some 20 MB
_TABLE = "webhook_deliveries"


async def journal_deliveries(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Append deliveries; one that is there already (by its identity) is left as it is."""
    ordered = sorted(deliveries, key=first_two)  # writers of the same deliveries must meet in one order
    await connection.execute("SELECT journal_deliveries($1::delivery_row[])", ordered)


async def mark_replayed(connection: Connection, deliveries: Sequence[Delivery], now: datetime) -> bool:
    """Set what a replay made of deliveries; until the transaction ends nobody else changes them.

    Returns whether all stand in the journal as they were read: not where something was erased meanwhile.
    """
    done = await connection.execute(
        """
        UPDATE webhook_deliveries AS d
        SET state = n.state, items = n.items, dead_letters = n.dead_letters::jsonb, replayed_at = $6
        FROM unnest($1::date[], $2::uuid[], $3::text[], $4::integer[], $5::text[], $7::bytea[])
            AS n (day, id, state, items, dead_letters, digest)
        WHERE d.day = n.day AND d.id = n.id AND sha256(d.body) = n.digest
        """,
        [d.day for d in deliveries],
        [d.id for d in deliveries],
        [d.state for d in deliveries],
        [d.items for d in deliveries],
        [d.dead_letters for d in deliveries],
        now,
        [sha256(d.body).digest() for d in deliveries],
    )
    return int(done.split()[-1]) == len(deliveries)


async def put_bodies(connection: Connection, bodies: Sequence[tuple[date, UUID, bytes, bytes]]) -> None:
    """Replace bodies, (day, id, before, after), out of which something had to be taken.

    One that is another by now stays as it is: it was journaled before, and whoever changed it, or will, took out more.
    """
    await connection.executemany(
        "UPDATE webhook_deliveries SET body = $4 WHERE day = $1 AND id = $2 AND body = $3",
        sorted(bodies, key=first_two),
    )


async def count_dead(connection: Connection, deliveries: Sequence[tuple[date, UUID]]) -> int:
    """Count those of these deliveries, by (day, id), that hold dead letters."""
    return int(
        await connection.fetchval(
            """
            SELECT count(*) FROM webhook_deliveries AS d
            JOIN unnest($1::date[], $2::uuid[]) AS n (day, id) ON n.day = d.day AND n.id = d.id
            WHERE d.state IN ('partial', 'dead')
            """,
            [day for day, _ in deliveries],
            [delivery_id for _, delivery_id in deliveries],
        )
    )


class JournalFilter(NamedTuple):
    """Which deliveries: all where nothing is given."""

    only_dead: bool = False
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[UUID, ...] | None = None


# of `which` as its parameters $1 to $4; the day says which partitions to look into
_CHOSEN = """
    (NOT $1 OR d.state IN ('partial', 'dead'))
    AND ($2::timestamptz IS NULL OR (d.received_at >= $2 AND d.day >= ($2 AT TIME ZONE 'UTC')::date))
    AND ($3::timestamptz IS NULL OR (d.received_at < $3 AND d.day <= ($3 AT TIME ZONE 'UTC')::date))
    AND ($4::uuid[] IS NULL OR d.id = ANY($4))
"""
# the journal's key begins with the day: an id is looked for on each that there is something of
_OF_IDS = """
    (
        SELECT k.*
        FROM (SELECT min(received_at) AS first, max(received_at) AS last FROM webhook_deliveries) AS j
        CROSS JOIN LATERAL generate_series(
            (j.first AT TIME ZONE 'UTC')::date, (j.last AT TIME ZONE 'UTC')::date, interval '1 day'
        ) AS n (day)
        CROSS JOIN (SELECT DISTINCT u.id FROM unnest({ids}) AS u (id)) AS i
        CROSS JOIN LATERAL (
            SELECT * FROM webhook_deliveries AS o WHERE o.day = n.day::date AND o.id = i.id OFFSET 0
        ) AS k
    )
"""


async def read_deliveries(
    connection: Connection, which: JournalFilter, *, limit: int, after: Place | None = None
) -> list[asyncpg.Record]:
    """Read deliveries with their bodies, oldest first, up to `limit`, from just after (received_at, id)."""
    journal = "webhook_deliveries" if which.ids is None else _OF_IDS.format(ids="$4::uuid[]")
    return await connection.fetch(
        f"""
        SELECT d.day, d.id, d.received_at, d.body, d.state, d.items, d.dead_letters, d.replayed_at
        FROM {journal} AS d
        WHERE {_CHOSEN}
        AND ($5::timestamptz IS NULL OR (d.received_at, d.id) > ($5, $6::uuid))
        ORDER BY d.received_at, d.id
        LIMIT $7
        """,
        *which,
        *(after or (None, None)),
        limit,
    )


async def list_deliveries(
    connection: Connection, which: JournalFilter, *, limit: int, before: Place | None = None
) -> list[asyncpg.Record]:
    """Read deliveries without their bodies, newest first, up to `limit`, from just before (received_at, id)."""
    return await connection.fetch(
        f"""
        SELECT
            d.id, d.received_at, d.state, d.items, d.dead_letters, d.replayed_at, octet_length(d.body) AS bytes
        FROM webhook_deliveries AS d
        WHERE {_CHOSEN}
        AND ($5::timestamptz IS NULL OR (d.received_at, d.id) < ($5, $6::uuid))
        ORDER BY d.received_at DESC, d.id DESC
        LIMIT $7
        """,
        *which,
        *(before or (None, None)),
        limit,
    )


async def find_deliveries(
    connection: Connection,
    which: JournalFilter,
    wanted: bytes,
    *,
    before: Place | None = None,
) -> tuple[list[asyncpg.Record], asyncpg.Record | None]:
    """Read deliveries whose bodies hold some bytes, as `list_deliveries` does, of the next SEARCHED_AT_ONCE.

    No index knows what is in bodies, so a search goes on in steps: with those found comes the last one looked at, None
    where the journal ended.
    """
    rows = await connection.fetch(
        f"""
        WITH w AS MATERIALIZED (
            SELECT
                d.id, d.received_at, d.state, d.items, d.dead_letters, d.replayed_at, octet_length(d.body) AS bytes,
                position($8::bytea IN d.body) > 0 AS is_found,
                row_number() OVER (ORDER BY d.received_at DESC, d.id DESC) AS n
            FROM webhook_deliveries AS d
            WHERE {_CHOSEN}
            AND ($5::timestamptz IS NULL OR (d.received_at, d.id) < ($5, $6::uuid))
            ORDER BY d.received_at DESC, d.id DESC
            LIMIT $7
        )
        SELECT w.* FROM w WHERE w.is_found OR w.n = (SELECT max(l.n) FROM w AS l) ORDER BY w.n
        """,
        *which,
        *(before or (None, None)),
        SEARCHED_AT_ONCE,
        wanted,
    )
    last = rows[-1] if rows and rows[-1]["n"] == SEARCHED_AT_ONCE else None
    return [row for row in rows if row["is_found"]], last


async def show_delivery(connection: Connection, delivery_id: UUID) -> asyncpg.Record | None:
    """One delivery with its body; None when there is none, or none any more."""
    rows = await connection.fetch(
        f"""
        SELECT
            d.id, d.received_at, d.state, d.items, d.dead_letters, d.replayed_at, octet_length(d.body) AS bytes, d.body
        FROM {_OF_IDS.format(ids="$1::uuid[]")} AS d
        """,
        [delivery_id],
    )
    return rows[0] if rows else None


async def all_deliveries(
    pool: Pool, which: JournalFilter, *, chunk: int = 200, after: Place | None = None
) -> AsyncIterator[list[asyncpg.Record]]:
    """Read every delivery of a filter, a chunk at a time, from just after a place on; no connection is held between."""
    while True:
        async with pool.acquire() as connection:
            rows = await read_deliveries(connection, which, limit=chunk, after=after)
        if not rows:
            return
        after = (rows[-1]["received_at"], rows[-1]["id"])
        yield rows


async def ensure_partitions(connection: Connection, days: Iterable[date]) -> None:
    """Make the journal's partitions for these days where they are missing."""
    await ensure_days(connection, _TABLE, days)


async def journal_days(connection: Connection) -> list[date]:
    """Return the days that the journal has partitions for, oldest first."""
    return sorted(await partitions(connection, _TABLE))


async def keep_journal(connection: Connection, *, today: date, retention_days: int) -> list[date]:
    """Make the coming days' partitions, and drop those past retention; returns the days dropped."""
    return await keep_days(connection, _TABLE, today=today, retention_days=retention_days)
