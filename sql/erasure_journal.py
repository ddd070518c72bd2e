"""The journal's part of an erasure: which stones are still to be seen to, and where in the journal to look."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.batches import columns, first_two
from sql.json_values import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from sql.upsert import Connection

CLAIM = timedelta(minutes=10)  # then whoever held it has died


class Stone(NamedTuple):
    """An erasure whose person may still be found in the journal, from the day after `journal_day` on."""

    page_id: str
    psid: str
    erased_before: datetime
    erased_at: datetime
    journal_day: date | None


async def claim_stone(connection: Connection, now: datetime, key: tuple[str, str] | None = None) -> Stone | None:
    """Take on the erasure that waits the longest, or this one; None when there is none that nobody has taken on."""
    row = await connection.fetchrow(
        """
        UPDATE erasures AS e SET claimed_until = $1
        WHERE (e.page_id, e.psid) = (
            SELECT o.page_id, o.psid FROM erasures AS o
            WHERE o.journal_done_at IS NULL AND (o.claimed_until IS NULL OR o.claimed_until <= $2)
            AND ($3::text IS NULL OR (o.page_id = $3 AND o.psid = $4))
            ORDER BY o.erased_at, o.page_id, o.psid
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        )
        RETURNING e.page_id, e.psid, e.erased_before, e.erased_at, e.journal_day
        """,
        now + CLAIM,
        now,
        *(key or (None, None)),
    )
    return Stone(*row) if row else None


async def note_day(connection: Connection, stone: Stone, day: date, now: datetime) -> bool:
    """Record that the journal is rid of a person up to this day, and hold on to the claim.

    Returns whether it is still ours: not when the person was erased anew meanwhile, which begins at the first day.
    """
    done = await connection.execute(
        """
        UPDATE erasures SET journal_day = $5, claimed_until = $6
        WHERE page_id = $1 AND psid = $2 AND erased_before = $3 AND erased_at = $4
        """,
        *stone[:4],
        day,
        now + CLAIM,
    )
    return done != "UPDATE 0"


async def note_done(connection: Connection, stone: Stone, now: datetime) -> None:
    """Record that the whole journal is rid of a person."""
    await connection.execute(
        """
        UPDATE erasures SET journal_done_at = $5, claimed_until = NULL
        WHERE page_id = $1 AND psid = $2 AND erased_before = $3 AND erased_at = $4
        """,
        *stone[:4],
        now,
    )


async def let_go(connection: Connection, stone: Stone) -> None:
    """Leave an erasure to whoever looks next."""
    await connection.execute(
        "UPDATE erasures SET claimed_until = NULL WHERE page_id = $1 AND psid = $2", stone.page_id, stone.psid
    )


class Sought(NamedTuple):
    """What to look for in raw bodies: one that holds `id`, or an edit that holds `in_edits`; received by `until`."""

    id: str
    in_edits: str | None = None
    until: datetime | None = None


async def find_in_journal(
    connection: Connection, day: date, after: UUID | None, sought: Sought, *, limit: int
) -> tuple[UUID | None, list[UUID]]:
    """Look through the next `limit` deliveries of a day for bodies that may hold what is sought.

    Returns the last one looked at, None at the day's end, and those found. A search of bytes: no index could help, and
    no journal be written as fast with one.
    """
    [(last, found)] = await connection.fetch(
        """
        WITH w AS MATERIALIZED (
            SELECT d.id, ($6::timestamptz IS NULL OR d.received_at <= $6) AND (
                position($4::bytea IN d.body) > 0
                OR ($5::bytea IS NOT NULL AND position('message_edit' IN d.body) > 0 AND position($5 IN d.body) > 0)
            ) AS is_found
            FROM webhook_deliveries AS d
            WHERE d.day = $1 AND ($2::uuid IS NULL OR d.id > $2)
            ORDER BY d.id LIMIT $3
        )
        SELECT (SELECT w.id FROM w ORDER BY w.id DESC LIMIT 1), ARRAY(SELECT w.id FROM w WHERE w.is_found ORDER BY w.id)
        """,
        day,
        after,
        limit,
        sought.id.encode(),
        None if sought.in_edits is None else sought.in_edits.encode(),
        sought.until,
    )
    return last, found


async def lock_deliveries(connection: Connection, keys: Sequence[tuple[date, UUID]]) -> list[asyncpg.Record]:
    """Read deliveries, by (day, id), with their bodies; nobody else changes them before the transaction ends."""
    if not keys:
        return []
    return await connection.fetch(
        """
        SELECT d.day, d.id, d.received_at, d.body, d.state, d.items, d.dead_letters
        FROM webhook_deliveries AS d
        JOIN unnest($1::date[], $2::uuid[]) AS n (day, id) ON d.day = n.day AND d.id = n.id
        ORDER BY d.day, d.id
        FOR NO KEY UPDATE OF d
        """,
        *columns(sorted(keys, key=first_two)),
    )


async def put_redacted(
    connection: Connection, delivery: asyncpg.Record, body: bytes, dead_letters: Sequence[dict[str, str]]
) -> None:
    """Replace a delivery's body, and the dead letters that are left in it."""
    await connection.execute(
        """
        UPDATE webhook_deliveries SET
            body = $3, dead_letters = $4::text::jsonb, state = CASE
                WHEN $4 IS NULL AND state IN ('partial', 'dead') THEN 'stored' ELSE state
            END
        WHERE day = $1 AND id = $2
        """,
        delivery["day"],
        delivery["id"],
        body,
        dumps(list(dead_letters)) if dead_letters else None,
    )
