"""How messages arrived: by which door, and how late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection


async def arrivals_by_page(connection: Connection, *, since: datetime) -> list[asyncpg.Record]:
    """Per Page, of the messages sent since then: how many came first by each door, and how many seconds late."""
    return await connection.fetch(
        """
        SELECT
            m.page_id,
            count(*) FILTER (WHERE m.first_seen_via = 'webhook') AS by_webhook,
            count(*) FILTER (WHERE m.first_seen_via = 'sync') AS by_sync,
            percentile_cont(ARRAY[0.5, 1]) WITHIN GROUP (ORDER BY l.seconds)
                FILTER (WHERE m.first_seen_via = 'webhook') AS webhook_seconds,
            percentile_cont(ARRAY[0.5, 1]) WITHIN GROUP (ORDER BY l.seconds)
                FILTER (WHERE m.first_seen_via = 'sync') AS sync_seconds
        FROM messages AS m
        CROSS JOIN LATERAL (
            SELECT GREATEST(extract(epoch FROM m.first_seen_at - m.sent_at)::double precision, 0) AS seconds
        ) AS l
        WHERE m.sent_at >= $1 AND m.first_seen_at IS NOT NULL
        GROUP BY m.page_id ORDER BY m.page_id
        """,
        since,
    )
