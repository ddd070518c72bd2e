"""Reading conversations and their messages back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

SHOWN = """
    c.page_id, c.psid, c.platform, c.name, c.updated_time, c.unread_count, c.message_count, c.can_reply,
    c.delivered_watermark, c.read_watermark, c.last_message_mid, c.last_message_at, c.last_message_direction,
    c.snippet, c.created_at, c.updated_at
"""


async def list_conversations(
    connection: Connection, *, page_id: str | None, after: tuple[datetime, str, str] | None, limit: int
) -> list[asyncpg.Record]:
    """Conversations with a known message, newest activity first, after (last_message_at, page_id, psid)."""
    # the statement holds only what was asked for: a plan made for "or not given" would read all that came before
    if page_id is None:
        return await connection.fetch(
            f"""
            SELECT {SHOWN} FROM conversations AS c
            WHERE c.last_message_at IS NOT NULL
            {"AND (c.last_message_at, c.page_id, c.psid) < ($2, $3, $4)" if after else ""}
            ORDER BY c.last_message_at DESC, c.page_id DESC, c.psid DESC
            LIMIT $1
            """,
            limit,
            *(after or ()),
        )
    return await connection.fetch(
        f"""
        SELECT {SHOWN} FROM conversations AS c
        WHERE c.page_id = $2 AND c.last_message_at IS NOT NULL
        {"AND (c.last_message_at, c.psid) < ($3, $4)" if after else ""}
        ORDER BY c.last_message_at DESC, c.psid DESC
        LIMIT $1
        """,
        limit,
        page_id,
        *((after[0], after[2]) if after else ()),
    )


async def count_conversations(connection: Connection, *, page_id: str | None) -> int:
    """How many conversations `list_conversations` has in all."""
    return int(
        await connection.fetchval(
            """
            SELECT count(*) FROM conversations
            WHERE ($1::text IS NULL OR page_id = $1) AND last_message_at IS NOT NULL
            """,
            page_id,
        )
    )


async def show_conversation(connection: Connection, page_id: str, psid: str) -> asyncpg.Record | None:
    """One conversation; None when there is none."""
    return await connection.fetchrow(
        f"SELECT {SHOWN} FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $2", page_id, psid
    )


async def person_of_thread(connection: Connection, page_id: str, thread_id: str) -> str | None:
    """Whose a thread is, so that an address with its thread id can be redirected; None when unknown."""
    psid: str | None = await connection.fetchval(
        "SELECT psid FROM conversation_threads WHERE page_id = $1 AND thread_id = $2 AND psid <> thread_id",
        page_id,
        thread_id,
    )
    return psid


async def list_messages(
    connection: Connection, page_id: str, psid: str, *, after: tuple[datetime, str] | None, limit: int
) -> list[asyncpg.Record]:
    """A conversation's messages with their reactions, newest first, after (sent_at, mid)."""
    return await connection.fetch(
        f"""
        SELECT
            m.page_id, m.mid, m.psid, m.thread_id, m.direction, m.sent_at, m.text, m.attachments, m.reply_to, m.app_id,
            m.edits IS NOT NULL AS is_edited, m.is_deleted, m.deleted_at, m.missing_in_graph_since, m.first_seen_via,
            m.first_seen_at, m.updated_at,
            (
                SELECT COALESCE(
                    jsonb_agg(
                        jsonb_build_object('actor', r.actor, 'reaction', r.reaction, 'emoji', r.emoji) ORDER BY r.actor
                    ),
                    '[]'
                )
                FROM message_reactions AS r WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
            ) AS reactions
        FROM messages AS m
        WHERE m.page_id = $2 AND m.psid = $3 AND m.sent_at IS NOT NULL
        {"AND (m.sent_at, m.mid) < ($4, $5)" if after else ""}
        ORDER BY m.sent_at DESC, m.mid DESC
        LIMIT $1
        """,
        limit,
        page_id,
        psid,
        *(after or ()),
    )
