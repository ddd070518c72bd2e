"""Reading conversations back by their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from sql.upsert import Connection

SHOWN = """
    c.page_id, c.psid, c.platform, c.name, c.updated_time, c.unread_count, c.message_count, c.can_reply,
    c.delivered_watermark, c.read_watermark, c.last_message_mid, c.last_message_at, c.last_message_direction,
    c.snippet, c.is_unread, c.created_at, c.updated_at,
    (
        SELECT COALESCE(array_agg(g.name ORDER BY g.name), '{}')
        FROM conversation_tags AS y JOIN tags AS g ON g.id = y.tag_id
        WHERE y.page_id = c.page_id AND y.psid = c.psid
    ) AS tags
"""


async def show_conversation(connection: Connection, page_id: str, psid: str) -> asyncpg.Record | None:
    """One conversation; None when there is none."""
    return await connection.fetchrow(
        f"SELECT {SHOWN} FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $2", page_id, psid
    )


async def show_conversations(
    connection: Connection, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], asyncpg.Record]:
    """Conversations by (page_id, psid); without those that there are none of."""
    rows = await connection.fetch(
        f"""
        SELECT {SHOWN} FROM unnest($1::text[], $2::text[]) AS n (page_id, psid)
        JOIN conversations AS c ON c.page_id = n.page_id AND c.psid = n.psid
        """,
        [page_id for page_id, _ in keys],
        [psid for _, psid in keys],
    )
    return {(row["page_id"], row["psid"]): row for row in rows}


async def person_of_thread(connection: Connection, page_id: str, thread_id: str) -> str | None:
    """Whose a thread is, so that an address with its thread id can be redirected; None when unknown."""
    psid: str | None = await connection.fetchval(
        "SELECT psid FROM conversation_threads WHERE page_id = $1 AND thread_id = $2 AND psid <> thread_id",
        page_id,
        thread_id,
    )
    return psid
