"""Erasing all that was mirrored of a Page: which Pages it is to be done for, and the rows, chunk by chunk."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.changes import Change, forget_changes, note_changes

if TYPE_CHECKING:
    from datetime import date, datetime

    from sql.upsert import Connection

ROWS_AT_ONCE = 5_000
CLAIM = timedelta(minutes=10)  # then whoever held it has died
# children first: what is left when it is interrupted still hangs together
_TABLES = {
    "brought_messages": "page_id, mid",
    "message_reactions": "page_id, mid, actor",
    "messages": "page_id, mid",
    "conversation_events": "page_id, event_key",
    "conversation_tags": "page_id, psid, tag_id",
    "conversation_names": "page_id, psid",
    "unfinished_threads": "page_id, run_id, thread_id",
    "conversation_threads": "page_id, thread_id",
    "conversations": "page_id, psid",
}


class PageErasure(NamedTuple):
    """A Page whose data is to go, and of the journal's days after `journal_day` what came in by `requested_at`."""

    page_id: str
    requested_at: datetime
    journal_day: date | None


async def request_page_erasure(connection: Connection, page_id: str, *, now: datetime) -> None:
    """Have all that was mirrored of a Page erased; it was removed before."""
    await connection.execute(
        """
        INSERT INTO page_erasures (page_id, requested_at) VALUES ($1, $2)
        ON CONFLICT (page_id) DO UPDATE SET
            requested_at = excluded.requested_at, claimed_until = NULL, journal_day = NULL, done_at = NULL
        """,
        page_id,
        now,
    )
    # without a watermark, a Page that is added again is loaded from the beginning
    await connection.execute(
        """
        UPDATE facebook_pages SET name = NULL, watermark = NULL, last_synced_at = NULL
        WHERE page_id = $1 AND state = 'removed'
        """,
        page_id,
    )


async def claim_page_erasure(connection: Connection, page_id: str | None = None) -> PageErasure | None:
    """Take on the erasure that waits the longest, or this Page's; None when there is none that nobody has taken on."""
    rows = await connection.fetch(
        """
        UPDATE page_erasures AS e SET claimed_until = now() + $2::interval
        WHERE e.page_id = (
            SELECT o.page_id FROM page_erasures AS o
            WHERE o.done_at IS NULL AND (o.claimed_until IS NULL OR o.claimed_until <= now())
            AND ($1::text IS NULL OR o.page_id = $1)
            ORDER BY o.requested_at, o.page_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        )
        RETURNING e.page_id, e.requested_at, e.journal_day
        """,
        page_id,
        CLAIM,
    )
    return PageErasure(*rows[0]) if rows else None


async def erase_rows(connection: Connection, page_id: str) -> int:
    """Erase the next rows of a Page, in a transaction of their own; returns how many: none when nothing is left.

    The last of them is told to readers of the feed: of it, what it said of the Page goes too.
    """
    await connection.execute(
        "UPDATE page_erasures SET claimed_until = now() + $2::interval WHERE page_id = $1", page_id, CLAIM
    )
    for table, key in _TABLES.items():
        done = await connection.execute(
            f"""
            WITH doomed AS MATERIALIZED (
                SELECT {key} FROM {table} WHERE page_id = $1 ORDER BY {key} LIMIT {ROWS_AT_ONCE} FOR UPDATE
            )
            DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM doomed)
            """,
            page_id,
        )
        if done != "DELETE 0":
            return int(done.split()[-1])
    forgotten = await forget_changes(connection, page_id)
    if not forgotten:
        await note_changes(connection, [Change("page", page_id, page_id, None)])
    return forgotten


async def erased_pages(connection: Connection) -> dict[str, datetime]:
    """When the erasure of each Page was asked for that was ever erased."""
    rows = await connection.fetch("SELECT page_id, requested_at FROM page_erasures")
    return {row["page_id"]: row["requested_at"] for row in rows}


async def note_journal_day(connection: Connection, erasure: PageErasure, day: date) -> None:
    """Record that the journal is rid of a Page up to this day."""
    await connection.execute(
        """
        UPDATE page_erasures SET journal_day = $3, claimed_until = now() + $4::interval
        WHERE page_id = $1 AND requested_at = $2
        """,
        *erasure[:2],
        day,
        CLAIM,
    )


async def note_page_erased(connection: Connection, erasure: PageErasure, *, now: datetime) -> None:
    """Record that all of a Page has gone."""
    await connection.execute(
        "UPDATE page_erasures SET done_at = $3, claimed_until = NULL WHERE page_id = $1 AND requested_at = $2",
        *erasure[:2],
        now,
    )


async def let_page_erasure_go(connection: Connection, erasure: PageErasure) -> None:
    """Leave it to whoever looks next."""
    await connection.execute("UPDATE page_erasures SET claimed_until = NULL WHERE page_id = $1", erasure.page_id)
