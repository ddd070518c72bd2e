"""Backfills: an operator's request for a window of several Pages; each Page's part of it is a sync run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.sync_runs import SHOWN as SHOWN_RUN
from sql.sync_runs import enqueue_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from sql.upsert import Connection


async def create_backfill(
    connection: Connection,
    backfill_id: UUID,
    page_ids: Sequence[str],
    *,
    since: datetime,
    until: datetime | None,
    requested_by: str,
) -> None:
    """Record a backfill of `[since, until)` and queue a run for each Page, all or nothing."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO backfills (id, since, until, page_ids, requested_by) VALUES ($1, $2, $3, $4, $5)",
            backfill_id,
            since,
            until,
            list(page_ids),
            requested_by,
        )
        for page_id in sorted(page_ids):
            await enqueue_run(
                connection,
                page_id,
                "backfill",
                requested_by=requested_by,
                since=since,
                until=until,
                backfill_id=backfill_id,
            )


_PROGRESS = """
    SELECT
        b.id, b.since, b.until, b.page_ids, b.requested_by, b.requested_at,
        CASE
            WHEN b.cancelled_at IS NOT NULL THEN 'cancelled'
            WHEN bool_or(r.state IN ('queued', 'running')) THEN 'running'
            WHEN bool_or(r.state = 'failed') THEN 'failed'
            WHEN bool_or(r.state = 'cancelled') THEN 'cancelled'
            ELSE 'succeeded'
        END AS state,
        count(r.id) FILTER (WHERE r.state IN ('succeeded', 'failed', 'cancelled')) AS pages_ended,
        count(r.id) FILTER (WHERE r.state = 'failed') AS pages_failed,
        COALESCE(sum(r.conversations), 0) AS conversations,
        COALESCE(sum(r.messages), 0) AS messages,
        COALESCE(sum(r.inserted), 0) AS inserted,
        COALESCE(sum(r.repaired), 0) AS repaired
    FROM backfills AS b LEFT JOIN sync_runs AS r ON r.backfill_ids @> ARRAY[b.id]
"""


async def list_backfills(
    connection: Connection, *, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[asyncpg.Record]:
    """Backfills with their progress, newest first, from just before (requested_at, id)."""
    return await connection.fetch(
        f"""
        {_PROGRESS}
        WHERE b.id IN (
            SELECT n.id FROM backfills AS n
            {"WHERE (n.requested_at, n.id) < ($2, $3)" if before else ""}
            ORDER BY n.requested_at DESC, n.id DESC LIMIT $1
        )
        GROUP BY b.id ORDER BY b.requested_at DESC, b.id DESC
        """,
        limit,
        *(before or ()),
    )


async def show_backfill(connection: Connection, backfill_id: UUID) -> asyncpg.Record | None:
    """One backfill with its progress; None when unknown."""
    return await connection.fetchrow(f"{_PROGRESS} WHERE b.id = $1 GROUP BY b.id", backfill_id)


async def runs_of_backfill(connection: Connection, backfill_id: UUID) -> list[asyncpg.Record]:
    """The runs of one backfill, by Page."""
    return await connection.fetch(
        f"SELECT {SHOWN_RUN} FROM sync_runs WHERE backfill_ids @> ARRAY[$1::uuid] ORDER BY page_id, id", backfill_id
    )


async def cancel_backfill(connection: Connection, backfill_id: UUID) -> int:
    """Cancel what has not ended of a backfill; a run that another backfill waits for too goes on without this one.

    Returns how many runs that were.
    """
    async with connection.transaction():
        # one statement: a backfill that joins a run meanwhile is seen by it, or finds the run cancelled
        done = await connection.execute(
            """
            UPDATE sync_runs AS r SET
                state = CASE WHEN cardinality(r.backfill_ids) = 1 THEN 'cancelled' ELSE r.state END,
                finished_at = CASE WHEN cardinality(r.backfill_ids) = 1 THEN now() END,
                error = CASE WHEN cardinality(r.backfill_ids) = 1 THEN 'cancelled by an operator' END,
                backfill_ids = CASE
                    WHEN cardinality(r.backfill_ids) = 1 THEN r.backfill_ids
                    ELSE array_remove(r.backfill_ids, $1)
                END
            WHERE r.backfill_ids @> ARRAY[$1::uuid] AND r.state IN ('queued', 'running')
            """,
            backfill_id,
        )
        await connection.execute(
            """
            DELETE FROM unfinished_threads AS u USING sync_runs AS r
            WHERE r.backfill_ids @> ARRAY[$1::uuid] AND r.state = 'cancelled'
            AND u.page_id = r.page_id AND u.run_id = r.id
            """,
            backfill_id,
        )
        if done != "UPDATE 0":
            await connection.execute("UPDATE backfills SET cancelled_at = now() WHERE id = $1", backfill_id)
    return int(done.rpartition(" ")[2])
