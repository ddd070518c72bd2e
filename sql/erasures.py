"""Erasure of persons: the stones in `erasures`, and what they keep out.

A stone says that a person's conversation with a Page was erased, and before which time. All that was sent before is
taken out, now and whenever it comes again, by whatever door and in whatever order; what was sent later is kept. So the
one bulk upsert looks for stones once the conversations' rows are locked, and takes out what they cover after it has
merged everything, in the same transaction. Who lays a stone locks the conversation too: a writer has either committed
before, and what it wrote is found, or sees the stone.

Where a message was, a stone of its own remains, ids and nothing else: so that an edit or a reaction that comes late
finds no message to make a place for.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.batches import columns
from sql.rows import Counts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    import asyncpg

    from sql.upsert import Connection


class Erased(NamedTuple):
    """What an erasure took out: messages, events, and whether anything of the person's was known.

    `psid` is whose it was, where a thread's id was given. `deliveries`, by (day, id), are those that it all came from.
    """

    psid: str
    erased_before: datetime
    messages: int
    events: int
    was_known: bool
    deliveries: list[tuple[date, UUID]]


def next_second(at: datetime) -> datetime:
    """The first whole second that is not before `at`: Graph tells no fractions."""
    return at.replace(microsecond=0) + timedelta(seconds=1 if at.microsecond else 0)


async def erase(
    connection: Connection, page_id: str, psid: str, *, erased_before: datetime, requested_by: str, now: datetime
) -> Erased:
    """Take out a person's conversation as far as it was sent before `erased_before`, and refuse that from now on.

    Where the id of a thread of theirs is given, it is the person's all the same. The journal's bodies are not its
    affair: the stone is left open until somebody has seen to them. What is left of the person's threads is their ids,
    as a part of the stone: what Graph lists again is known by them. Erasing twice, or somebody unknown, is no error.
    `erased_before` is rounded up to a whole second.
    """
    async with connection.transaction():
        known = await connection.fetchval(
            "SELECT psid FROM conversation_threads WHERE page_id = $1 AND thread_id = $2 FOR NO KEY UPDATE",
            page_id,
            psid,
        )
        key = (page_id, known or psid)
        await connection.execute(
            "SELECT upsert_conversations($1::conversation_row[], $2)",
            [(1, *key, "messenger", None, None, None)],
            now,
        )
        before = await connection.fetchval(
            """
            INSERT INTO erasures AS e (page_id, psid, erased_before, erased_at, requested_by)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (page_id, psid) DO UPDATE SET
                erased_before = GREATEST(e.erased_before, excluded.erased_before),
                erased_at = excluded.erased_at,
                requested_by = excluded.requested_by,
                journal_day = NULL,
                journal_done_at = NULL
            RETURNING erased_before
            """,
            *key,
            next_second(erased_before),
            now,
            requested_by,
        )
        found = await _count(connection, *key)
        deliveries = await _deliveries(connection, *key)
        await enforce(connection, [key], batch=0, now=now)
        await connection.execute(
            """
            WITH gone AS (
                DELETE FROM conversation_tags WHERE page_id = $1 AND psid = $2 RETURNING page_id, psid
            )
            SELECT note_changes(array_agg(ROW('conversation', g.page_id, g.psid, g.psid)::change_row)) FROM gone AS g
            """,
            *key,
        )
    return Erased(key[1], before, found["messages"], found["events"], found["was_known"], deliveries)


async def carry_over(connection: Connection, moves: Iterable[tuple[str, str, str]]) -> None:
    """Move the stones of threads' ids, which stood in for persons, to the persons; moves: (page_id, thread_id, psid).

    The caller locks the persons' conversations afterwards, or has them locked, and then looks for stones.
    """
    await connection.execute(
        """
        WITH moved AS (
            DELETE FROM erasures AS o
            USING unnest($1::text[], $2::text[], $3::text[]) AS n (page_id, thread_id, psid)
            WHERE o.page_id = n.page_id AND o.psid = n.thread_id
            RETURNING n.page_id, n.psid, o.erased_before, o.erased_at, o.requested_by
        )
        INSERT INTO erasures AS e (page_id, psid, erased_before, erased_at, requested_by)
        SELECT m.page_id, m.psid, max(m.erased_before), max(m.erased_at), min(m.requested_by)
        FROM moved AS m
        GROUP BY m.page_id, m.psid
        ORDER BY m.page_id, m.psid
        ON CONFLICT (page_id, psid) DO UPDATE SET
            erased_before = GREATEST(e.erased_before, excluded.erased_before),
            journal_day = NULL,
            journal_done_at = NULL
        """,
        *columns(sorted(moves)),
    )


# of the person $2 of the Page $1
_COVERED_MESSAGES = """
    SELECT m.* FROM erasures AS e
    JOIN messages AS m ON m.page_id = e.page_id AND m.psid = e.psid
    AND NOT m.is_erased AND (m.sent_at IS NULL OR m.sent_at < e.erased_before)
    WHERE e.page_id = $1 AND e.psid = $2
"""
_COVERED_EVENTS = """
    SELECT v.* FROM erasures AS e
    JOIN conversation_events AS v ON v.page_id = e.page_id AND v.psid = e.psid AND v.occurred_at < e.erased_before
    WHERE e.page_id = $1 AND e.psid = $2
"""


async def _count(connection: Connection, page_id: str, psid: str) -> asyncpg.Record:
    [row] = await connection.fetch(
        f"""
        SELECT
            (SELECT count(*) FROM ({_COVERED_MESSAGES}) AS m WHERE m.sent_at IS NOT NULL) AS messages,
            (SELECT count(*) FROM ({_COVERED_EVENTS}) AS v) AS events,
            (
                c.graph IS NOT NULL OR c.delivered_watermark IS NOT NULL OR c.read_watermark IS NOT NULL
                OR EXISTS (SELECT FROM messages AS m WHERE m.page_id = $1 AND m.psid = $2 AND NOT m.is_erased)
                OR EXISTS (SELECT FROM conversation_events AS v WHERE v.page_id = $1 AND v.psid = $2)
            ) AS was_known
        FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $2
        """,
        page_id,
        psid,
    )
    return row


async def _deliveries(connection: Connection, page_id: str, psid: str) -> list[tuple[date, UUID]]:
    """The deliveries that what is to be taken out came from, also what names nobody and is about its messages."""
    rows = await connection.fetch(
        f"""
        WITH m AS ({_COVERED_MESSAGES})
        SELECT m.delivery_day AS day, m.delivery_id AS id FROM m WHERE m.delivery_id IS NOT NULL
        UNION
        SELECT r.delivery_day, r.delivery_id FROM m
        JOIN message_reactions AS r ON r.page_id = m.page_id AND r.mid = m.mid WHERE r.delivery_id IS NOT NULL
        UNION
        SELECT o.delivery_day, o.delivery_id FROM m
        JOIN conversation_events AS o ON o.page_id = m.page_id AND o.mid = m.mid AND o.psid IS NULL
        UNION
        SELECT v.delivery_day, v.delivery_id FROM ({_COVERED_EVENTS}) AS v
        ORDER BY day, id
        """,
        page_id,
        psid,
    )
    return [(row["day"], row["id"]) for row in rows]


async def enforce(connection: Connection, keys: Collection[tuple[str, str]], *, batch: int, now: datetime) -> Counts:
    """Take out of conversations, (page_id, psid), what their stones cover. The caller has locked their rows.

    Returns what of it this batch had just stored.
    """
    [(inserted, updated)] = await connection.fetch(
        "SELECT * FROM enforce_erasures($1::conversation_key[], $2, $3)", sorted(keys), batch, now
    )
    return Counts(inserted, updated)


async def refuse_events_about_erased(
    connection: Connection, about: Collection[tuple[str, str]], *, batch: int
) -> Counts:
    """Take out events that name nobody and are about erased messages, (page_id, mid); returns what was just stored."""
    [(inserted, updated)] = await connection.fetch(
        "SELECT * FROM delete_events_about_erased($1::message_key[], $2)", sorted(about), batch
    )
    return Counts(inserted, updated)


async def erased_among(connection: Connection, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these conversations, (page_id, psid), are erased persons'. Their rows are locked by now."""
    [(erased,)] = await connection.fetch("SELECT erased_among($1::conversation_key[])", sorted(keys))
    return {(page_id, psid) for page_id, psid in erased or ()}


async def stones_of(connection: Connection, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
    """Before which times the persons of these conversations, (page_id, psid), were erased; only of those who were."""
    rows = await connection.fetch(
        """
        SELECT e.page_id, e.psid, e.erased_before FROM unnest($1::conversation_key[]) AS n
        JOIN erasures AS e ON e.page_id = n.page_id AND e.psid = n.psid
        """,
        sorted(keys),
    )
    return {(row["page_id"], row["psid"]): row["erased_before"] for row in rows}


async def erased_messages(connection: Connection, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these messages, (page_id, mid), were erased."""
    rows = await connection.fetch(
        """
        SELECT m.page_id, m.mid FROM unnest($1::message_key[]) AS n
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        WHERE m.is_erased
        """,
        sorted(keys),
    )
    return {(row["page_id"], row["mid"]) for row in rows}
