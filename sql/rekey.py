"""Move a conversation from the thread id that stood in for its person to the person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.batches import columns
from sql.changes import Change, note_changes
from sql.erasures import carry_over

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection


async def rekey(
    connection: Connection, page_id: str, thread_id: str, psid: str, *, now: datetime, is_late: bool = False
) -> bool:
    """Move all that stands under `thread_id` to `psid`, and keep the thread's row as the alias for old links.

    The caller has locked the thread's row and the person's conversation, and derives that one's last message
    afterwards; `is_late`: it has locked messages, too. Returns whether there was anything to move; doing it twice does
    nothing. Must be called inside a transaction.
    """
    await connection.execute(
        "UPDATE conversation_threads SET psid = $3 WHERE page_id = $1 AND thread_id = $2 AND psid = thread_id",
        page_id,
        thread_id,
        psid,
    )
    moved = await connection.execute(
        """
        WITH stand_in AS (
            DELETE FROM conversations AS o WHERE o.page_id = $1 AND o.psid = $2 RETURNING o.*
        )
        INSERT INTO conversations AS c (
            page_id, psid, platform, graph, delivered_watermark, read_watermark, created_at, updated_at
        )
        SELECT s.page_id, $3, s.platform, s.graph, s.delivered_watermark, s.read_watermark, s.created_at, $4
        FROM stand_in AS s
        ON CONFLICT (page_id, psid) DO UPDATE SET
            platform = LEAST(c.platform, excluded.platform),
            graph = merge_fields(c.graph, excluded.graph),
            delivered_watermark = GREATEST(c.delivered_watermark, excluded.delivered_watermark),
            read_watermark = GREATEST(c.read_watermark, excluded.read_watermark),
            created_at = LEAST(c.created_at, excluded.created_at),
            updated_at = excluded.updated_at
        """,
        page_id,
        thread_id,
        psid,
        now,
    )
    if moved == "INSERT 0 0":
        return False
    await connection.execute(
        "DELETE FROM conversation_names WHERE page_id = $1 AND psid = $2",
        page_id,
        thread_id,
    )
    await connection.execute("SELECT derive_names($1::conversation_key[])", [(page_id, psid)])
    # what names nobody locks messages without their conversation: they are taken in the order in which all others do
    await connection.execute(
        f"""
        SELECT count(*) FROM (
            SELECT FROM messages AS m WHERE m.page_id = $1 AND m.psid = $2
            ORDER BY m.mid FOR NO KEY UPDATE {"NOWAIT" if is_late else ""}
        ) AS locked
        """,
        page_id,
        thread_id,
    )
    await connection.execute(
        """
        WITH moved AS (
            UPDATE messages SET psid = $3, moved_from = $2, updated_at = $4 WHERE page_id = $1 AND psid = $2
            RETURNING page_id, mid, psid, sent_at
        )
        SELECT note_changes(array_agg(ROW('message', m.page_id, m.mid, m.psid)::change_row))
        FROM moved AS m WHERE m.sent_at IS NOT NULL
        """,
        page_id,
        thread_id,
        psid,
        now,
    )
    await connection.execute(
        """
        WITH moved AS (
            UPDATE conversation_events SET psid = $3, updated_at = $4 WHERE page_id = $1 AND psid = $2
            RETURNING page_id, event_key, psid
        )
        SELECT note_changes(array_agg(ROW('event', e.page_id, e.event_key, e.psid)::change_row)) FROM moved AS e
        """,
        page_id,
        thread_id,
        psid,
        now,
    )
    await connection.execute(
        """
        WITH stand_in AS (
            DELETE FROM conversation_tags AS o WHERE o.page_id = $1 AND o.psid = $2 RETURNING o.*
        )
        INSERT INTO conversation_tags AS t (page_id, psid, tag_id, created_at, active_at)
        SELECT
            s.page_id, $3, s.tag_id, s.created_at,
            (SELECT span_of(c.last_message_at) FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $3)
        FROM stand_in AS s
        ON CONFLICT (page_id, psid, tag_id) DO UPDATE SET created_at = excluded.created_at
        WHERE excluded.created_at < t.created_at
        """,
        page_id,
        thread_id,
        psid,
    )
    await note_changes(connection, [Change("conversation", page_id, at, at) for at in (thread_id, psid)])
    return True


async def rekey_late(
    connection: Connection, learnt: set[tuple[str, str, str]], *, now: datetime
) -> set[tuple[str, str]]:
    """Move the conversations of threads whose person a message told, where the thread's id still stands in.

    `learnt` is (page_id, thread_id, psid). Locks are taken without waiting, as others take them before those that the
    caller holds by now. Returns the conversations that have gained messages.
    """
    persons: dict[tuple[str, str], str] = {}
    for page_id, thread_id, psid in sorted(learnt):
        persons[page_id, thread_id] = psid
    threads = await connection.fetch(
        """
        SELECT t.page_id, t.thread_id
        FROM conversation_threads AS t
        JOIN unnest($1::text[], $2::text[]) AS n (page_id, thread_id)
        ON t.page_id = n.page_id AND t.thread_id = n.thread_id
        WHERE t.psid = t.thread_id
        FOR NO KEY UPDATE OF t NOWAIT
        """,
        *columns(sorted(persons)),
    )
    moved = set()
    for page_id, thread_id in sorted((t["page_id"], t["thread_id"]) for t in threads):
        psid = persons[page_id, thread_id]
        await connection.execute(
            "SELECT FROM conversations WHERE page_id = $1 AND psid IN ($2, $3) FOR UPDATE NOWAIT",
            page_id,
            thread_id,
            psid,
        )
        await carry_over(connection, [(page_id, thread_id, psid)])
        await rekey(connection, page_id, thread_id, psid, now=now, is_late=True)
        moved.add((page_id, psid))
    return moved
