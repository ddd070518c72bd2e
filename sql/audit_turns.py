"""Whose turn it is in an audit: threads that were compared the longest ago, but for those that syncs left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.threads import Unfinished

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sql.upsert import Connection


async def note_begun(connection: Connection, page_id: str, run_id: int, thread_ids: Collection[str]) -> None:
    """Record that a run reads threads for their own sake.

    One that a run's calls don't suffice for keeps its turn, and comes first in the next run. When that does not come to
    its end either, it waits until all others had their turn: it was begun in a run, and has not been tried since.
    """
    await connection.execute(
        """
        UPDATE conversation_threads AS t SET
            audit_tried_in = $2,
            audit_tried_at = CASE
                WHEN EXISTS (
                    SELECT FROM sync_runs AS r
                    WHERE r.id = t.audit_tried_in AND COALESCE(t.audit_tried_at, '-infinity') < r.started_at
                ) THEN now()
                ELSE t.audit_tried_at
            END
        WHERE t.page_id = $1 AND t.thread_id = ANY($3::text[]) AND t.audit_tried_in IS DISTINCT FROM $2
        """,
        page_id,
        run_id,
        list(thread_ids),
    )


async def note_tried(
    connection: Connection, page_id: str, run_id: int, thread_ids: Collection[str], *, state: str | None = None
) -> None:
    """Record that an audit has tried to read threads, so that those come first that wait longest.

    `state` is what they turned out to be, None when nothing is known.
    """
    if not thread_ids:
        return
    await connection.execute(
        """
        UPDATE conversation_threads SET
            audit_tried_at = now(),
            audit_tried_in = $2,
            audit_state = COALESCE($4, audit_state),
            audited_at = CASE WHEN $4 IS NULL THEN audited_at ELSE now() END
        WHERE page_id = $1 AND thread_id = ANY($3::text[])
        """,
        page_id,
        run_id,
        list(thread_ids),
        state,
    )


_IS_BEHIND = "(t.synced_to IS NULL OR t.synced_to < u.reached)"  # u: what the run is to reach


async def list_unaudited(connection: Connection, page_id: str, run_id: int, *, limit: int) -> list[Unfinished]:
    """Threads that an audit has yet to read, those that it has begun first, then those that syncs have not read.

    Of the others, which may be in the list or not, the least recently audited first.
    """
    rows = await connection.fetch(
        f"""
        SELECT t.thread_id, COALESCE(u.psid, NULLIF(t.psid, t.thread_id)), u.cursor, NULL::timestamptz, u.reached
        FROM conversation_threads AS t
        LEFT JOIN unfinished_threads AS u ON u.page_id = $1 AND u.run_id = $2 AND u.thread_id = t.thread_id
        WHERE t.page_id = $1 AND (t.audit_tried_in IS DISTINCT FROM $2 OR u.thread_id IS NOT NULL)
        ORDER BY
            t.audit_tried_in IS NOT DISTINCT FROM $2 DESC,
            (u.reached IS NOT NULL AND {_IS_BEHIND}) DESC,
            t.audit_tried_at NULLS FIRST,
            t.thread_id
        LIMIT $3
        """,
        page_id,
        run_id,
        limit,
    )
    return [Unfinished(*row) for row in rows]


async def behind(connection: Connection, page_id: str, run_id: int, thread_ids: Iterable[str]) -> set[str]:
    """Which of these threads hold something that no sync has read."""
    rows = await connection.fetch(
        f"""
        SELECT t.thread_id FROM conversation_threads AS t
        LEFT JOIN unfinished_threads AS u ON u.page_id = $1 AND u.run_id = $2 AND u.thread_id = t.thread_id
        WHERE t.page_id = $1 AND t.thread_id = ANY($3::text[]) AND {_IS_BEHIND}
        """,
        page_id,
        run_id,
        list(thread_ids),
    )
    return {r["thread_id"] for r in rows}


async def drop_unaudited(connection: Connection, page_id: str, run_id: int) -> None:
    """Forget the threads that an audit does not get to; those that syncs have not read are tried by id in the next."""
    await connection.execute(
        f"""
        WITH u AS (
            DELETE FROM unfinished_threads WHERE page_id = $1 AND run_id = $2 RETURNING thread_id, reached
        )
        UPDATE conversation_threads AS t
        SET sync_error = COALESCE(t.sync_error, 'an audit found it behind, and its calls were used up')
        FROM u
        WHERE t.page_id = $1 AND t.thread_id = u.thread_id AND u.reached IS NOT NULL AND {_IS_BEHIND}
        """,
        page_id,
        run_id,
    )
