"""What the page walk knows of threads: `conversation_threads`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sql.upsert import Connection


async def synced_to(
    connection: Connection, page_id: str, thread_ids: Sequence[str]
) -> dict[str, tuple[datetime | None, bool]]:
    """Down to where each known thread's messages are stored, and whether its last reading failed."""
    rows = await connection.fetch(
        """
        SELECT thread_id, synced_to, sync_error IS NOT NULL AS has_failed FROM conversation_threads
        WHERE page_id = $1 AND thread_id = ANY($2::text[])
        """,
        page_id,
        list(thread_ids),
    )
    return {r["thread_id"]: (r["synced_to"], r["has_failed"]) for r in rows}


async def failed_threads(connection: Connection, page_id: str) -> list[str]:
    """Threads whose last reading failed: the next run tries them by id."""
    rows = await connection.fetch(
        """
        SELECT thread_id FROM conversation_threads
        WHERE page_id = $1 AND sync_error IS NOT NULL ORDER BY thread_id
        """,
        page_id,
    )
    return [r["thread_id"] for r in rows]


async def set_synced_to(connection: Connection, page_id: str, reached: Iterable[tuple[str, datetime]]) -> None:
    """Record that threads' messages are stored up to these times (Graph's clock); only forward.

    Must be called in the transaction that stores the last message page that each of them needed.
    """
    rows = sorted(reached)
    if rows:
        await connection.execute(
            """
            UPDATE conversation_threads AS t
            SET synced_to = GREATEST(t.synced_to, n.synced_to), sync_error = NULL
            FROM unnest($2::text[], $3::timestamptz[]) AS n (thread_id, synced_to)
            WHERE t.page_id = $1 AND t.thread_id = n.thread_id
            AND (t.synced_to IS NULL OR t.synced_to < n.synced_to OR t.sync_error IS NOT NULL)
            """,
            page_id,
            *zip(*rows, strict=True),
        )


async def mark_failed(connection: Connection, page_id: str, thread_id: str, reason: str, *, now: datetime) -> None:
    """Record that a thread could not be read; its `synced_to` stays where it was."""
    await connection.execute(
        """
        INSERT INTO conversation_threads AS t (page_id, thread_id, psid, sync_error, created_at)
        VALUES ($1, $2, $2, $3, $4)
        ON CONFLICT (page_id, thread_id) DO UPDATE SET sync_error = excluded.sync_error
        """,
        page_id,
        thread_id,
        reason,
        now,
    )
