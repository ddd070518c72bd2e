"""Move a conversation from the thread id that stood in for its person to the person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection


async def rekey(connection: Connection, page_id: str, thread_id: str, psid: str, *, now: datetime) -> bool:
    """Move all that stands under `thread_id` to `psid`, and keep the thread's row as the alias for old links.

    Both conversations are locked, in the order of their keys. Returns whether there was anything to move; doing it
    twice does nothing. Must be called inside a transaction.
    """
    await connection.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, created_at, updated_at)
        SELECT c.page_id, $3, c.platform, c.created_at, $4
        FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $2
        ON CONFLICT (page_id, psid) DO NOTHING
        """,
        page_id,
        thread_id,
        psid,
        now,
    )
    locked = await connection.fetch(
        """
        SELECT c.psid FROM conversations AS c
        WHERE c.page_id = $1 AND c.psid IN ($2, $3)
        ORDER BY c.psid
        FOR UPDATE
        """,
        page_id,
        thread_id,
        psid,
    )
    await connection.execute(
        "UPDATE conversation_threads SET psid = $3 WHERE page_id = $1 AND thread_id = $2 AND psid = thread_id",
        page_id,
        thread_id,
        psid,
    )
    if thread_id not in {r["psid"] for r in locked}:
        return False
    for statement in _MOVES:
        await connection.execute(statement, page_id, thread_id, psid)
    return True


_MOVES = (
    """
    UPDATE messages SET psid = $3, moved_from = $2, thread_id = GREATEST(thread_id, $2)
    WHERE page_id = $1 AND psid = $2
    """,
    "UPDATE conversation_events SET psid = $3 WHERE page_id = $1 AND psid = $2",
    """
    INSERT INTO conversation_tags (page_id, psid, tag_id, created_at)
    SELECT t.page_id, $3, t.tag_id, t.created_at FROM conversation_tags AS t WHERE t.page_id = $1 AND t.psid = $2
    ON CONFLICT (page_id, psid, tag_id) DO NOTHING
    """,
    "DELETE FROM conversation_tags WHERE page_id = $1 AND psid = $2",
    """
    UPDATE conversations AS c SET
        platform = GREATEST(c.platform, o.platform),
        graph = merge_fields(c.graph, o.graph),
        delivered_watermark = GREATEST(c.delivered_watermark, o.delivered_watermark),
        read_watermark = GREATEST(c.read_watermark, o.read_watermark),
        created_at = LEAST(c.created_at, o.created_at)
    FROM conversations AS o
    WHERE c.page_id = $1 AND c.psid = $3 AND o.page_id = $1 AND o.psid = $2
    """,
    "DELETE FROM conversations WHERE page_id = $1 AND psid = $2",
)
