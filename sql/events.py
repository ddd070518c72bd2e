"""Reading events back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from sql.upsert import Connection


async def show_events(
    connection: Connection, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], asyncpg.Record]:
    """Events by (page_id, event_key); without those that there are none of."""
    rows = await connection.fetch(
        """
        SELECT
            e.page_id, e.event_key, e.psid, e.kind, e.via, e.mid, e.occurred_at, e.payload, e.received_at, e.updated_at
        FROM unnest($1::text[], $2::text[]) AS n (page_id, event_key)
        JOIN conversation_events AS e ON e.page_id = n.page_id AND e.event_key = n.event_key
        """,
        [page_id for page_id, _ in keys],
        [event_key for _, event_key in keys],
    )
    return {(row["page_id"], row["event_key"]): row for row in rows}
