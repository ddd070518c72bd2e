"""Reading a Page's mirror whole, to compare it with something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

    from sql.upsert import Connection


async def export_messages(connection: Connection, page_id: str) -> list[asyncpg.Record]:
    """Every message of a Page as readers see it, with its present reactions `[[actor, name, emoji]]`."""
    return await connection.fetch(
        """
        SELECT
            m.mid, m.psid, m.direction, m.sent_at, m.text, m.attachments, m.reply_to, m.is_deleted,
            m.first_seen_via, m.webhook_seen_at,
            (
                SELECT jsonb_agg(jsonb_build_array(r.actor, r.reaction, r.emoji) ORDER BY r.actor)
                FROM message_reactions AS r
                WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
            ) AS reactions
        FROM messages AS m WHERE m.page_id = $1 AND m.sent_at IS NOT NULL
        """,
        page_id,
    )


async def export_conversations(connection: Connection, page_id: str) -> list[asyncpg.Record]:
    """Every conversation of a Page."""
    return await connection.fetch(
        """
        SELECT c.psid, c.name, c.last_message_at, c.last_message_mid, c.read_watermark, c.delivered_watermark
        FROM conversations AS c WHERE c.page_id = $1
        """,
        page_id,
    )
