"""Sync runs: the queue. Each is a row, worked on by whoever claims it (`sql/leases.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.threads import leave_unfinished

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    import asyncpg

    from sql.upsert import Connection

CANCELLED = "cancelled by an operator"
PRUNED_AT_ONCE = 5000  # rows: the locks of one statement are not held for long
ENDED = frozenset({"succeeded", "failed", "cancelled"})
SHOWN = """
    id, page_id, kind, state, since, until, backfill_ids, requested_by, conversations, messages, inserted, repaired,
    api_calls, call_budget, failed_conversations, failing_conversations, untried_conversations, order_violated, audit,
    requested_at, started_at, finished_at, error
"""
# a queued run of these kinds does what was asked for too
_AT_LEAST = {
    "incremental": ["incremental", "full", "audit"],
    "full": ["full", "audit"],
    "audit": ["audit"],
    "backfill": ["backfill"],
}


async def enqueue_run(
    connection: Connection,
    page_id: str,
    kind: str,
    *,
    requested_by: str,
    since: datetime | None = None,
    until: datetime | None = None,
    backfill_id: UUID | None = None,
) -> int:
    """Queue a run, or join a queued one that does at least as much; returns its id.

    A run that has begun is never joined, even when it gave way and is queued again: whoever asks gets one that begins
    after asking. A rolling audit is joined by who asks for an audit, and then makes as many calls as it needs.
    """
    while True:
        run_id = await connection.fetchval(
            """
            WITH joined AS (
                UPDATE sync_runs AS r
                SET backfill_ids = array_remove(r.backfill_ids || $6::uuid, NULL), call_budget = NULL
                WHERE r.id = (
                    SELECT q.id FROM sync_runs AS q
                    WHERE q.page_id = $1 AND q.state = 'queued' AND q.started_at IS NULL AND q.kind = ANY($7::text[])
                    AND (q.call_budget IS NULL OR q.kind = $2)
                    AND (
                        $4::timestamptz IS NULL
                        OR (q.since <= $4 AND COALESCE(q.until, 'infinity') >= COALESCE($5::timestamptz, 'infinity'))
                    )
                    ORDER BY array_position($7, q.kind), q.id LIMIT 1
                )
                AND r.state = 'queued' AND r.started_at IS NULL
                RETURNING r.id
            ),
            inserted AS (
                INSERT INTO sync_runs (page_id, kind, requested_by, since, until, backfill_ids)
                SELECT $1, $2, $3, $4, $5, array_remove(ARRAY[$6::uuid], NULL) WHERE NOT EXISTS (SELECT FROM joined)
                ON CONFLICT DO NOTHING
                RETURNING id
            )
            SELECT id FROM joined UNION ALL SELECT id FROM inserted
            """,
            page_id,
            kind,
            requested_by,
            since,
            until,
            backfill_id,
            _AT_LEAST[kind],
        )
        if run_id is not None:
            return int(run_id)


async def enqueue_due(connection: Connection, *, every: timedelta) -> int:
    """Queue an incremental run for each Page that is due; returns how many were queued.

    `every` is the interval of a Page that has none of its own yet.

    A first load that is only reading older messages is no reason to wait: it gives way.
    """
    return int(
        await connection.fetchval(
            """
            WITH due AS (
                SELECT p.page_id, p.next_sync_at FROM facebook_pages AS p
                WHERE p.state = 'active' AND p.next_sync_at <= now()
                FOR UPDATE SKIP LOCKED
            ),
            moved AS (
                UPDATE facebook_pages AS p
                SET next_sync_at = now() + COALESCE(p.sync_interval_seconds * interval '1 s', $1)
                FROM due WHERE p.page_id = due.page_id
            ),
            queued AS (
                INSERT INTO sync_runs (page_id, kind, requested_by)
                SELECT due.page_id, 'incremental', 'schedule' FROM due
                WHERE NOT EXISTS (
                    SELECT FROM sync_runs AS r
                    WHERE r.page_id = due.page_id AND r.state IN ('queued', 'running')
                    AND r.kind IN ('incremental', 'full') AND NOT r.is_deep
                )
                ORDER BY due.next_sync_at, due.page_id
                ON CONFLICT DO NOTHING
                RETURNING id
            )
            SELECT count(*) FROM queued
            """,
            every,
        )
        or 0
    )


async def cancel_runs(connection: Connection, run_ids: Sequence[int], reason: str = CANCELLED) -> int:
    """Cancel runs that have not ended; a running one stops at its next step. Returns how many were cancelled."""
    async with connection.transaction():
        cancelled = await connection.fetch(
            """
            UPDATE sync_runs SET state = 'cancelled', finished_at = now(), error = $2
            WHERE id = ANY($1::bigint[]) AND state IN ('queued', 'running')
            RETURNING page_id, id
            """,
            list(run_ids),
            reason,
        )
        for run in cancelled:
            await leave_unfinished(connection, run["page_id"], [run["id"]], reason)
    return len(cancelled)


async def show_runs(connection: Connection, run_ids: Sequence[int]) -> list[asyncpg.Record]:
    """Runs by id, in the order of their ids."""
    return await connection.fetch(
        f"SELECT {SHOWN} FROM sync_runs WHERE id = ANY($1::bigint[]) ORDER BY id", list(run_ids)
    )


async def list_runs(
    connection: Connection, *, page_id: str | None, state: str | None, before: int | None, limit: int
) -> list[asyncpg.Record]:
    """Runs, newest first, from just before the id `before`."""
    return await connection.fetch(
        f"""
        SELECT {SHOWN} FROM sync_runs
        WHERE ($1::text IS NULL OR page_id = $1) AND ($2::text IS NULL OR state = $2)
        AND ($3::bigint IS NULL OR id < $3)
        ORDER BY id DESC LIMIT $4
        """,
        page_id,
        state,
        before,
        limit,
    )


async def prune_runs(connection: Connection, *, keep_days: int, now: datetime) -> int:
    """Delete what nobody will ask for any more; returns how many runs that were.

    Scheduled runs that found nothing are most of them: they are kept for two days, which is longer than the day whose
    calls are counted against a Page's budget; the others for `keep_days`. A backfill's runs are its record, and stay.
    """
    deleted = 0
    while True:
        done = await connection.execute(
            """
            DELETE FROM sync_runs WHERE id IN (
                SELECT r.id FROM sync_runs AS r
                WHERE r.backfill_ids = '{}' AND (
                    r.finished_at < $2::timestamptz - $1::integer * interval '1 day'
                    OR (
                        r.finished_at < $2::timestamptz - interval '2 days' AND r.requested_by = 'schedule'
                        AND r.kind = 'incremental' AND r.state = 'succeeded' AND r.inserted = 0 AND r.error IS NULL
                    )
                )
                LIMIT $3
            )
            """,
            max(keep_days, 2),
            now,
            PRUNED_AT_ONCE,
        )
        count = int(done.rpartition(" ")[2])
        deleted += count
        if count < PRUNED_AT_ONCE:
            return deleted
