"""Sync runs: the queue, the claim under the Page's lease, the fenced steps, the end.

Essay: why a run can't write what it no longer may. A worker that claims a run takes the Page's lease: it raises the
Page's term, and writes itself and that term into the run's row. The lease is good until `lease_until` by Postgres'
clock, the only clock that all workers share; the worker renews it while it works. When it dies, or is stopped longer
than that, any other worker claims the run again under a higher term. Should the first one wake, every step it takes
ends in `checkpoint` or `finish_run`, in the same transaction as its rows, and these change the run's row only where
holder and term are still its own; they find no row, raise StaleLease, and the transaction rolls back. So there is no
moment at which two workers' steps of one run both count, however long one of them slept.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sql.errors import StaleLease
from sql.json_values import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from sql.rows import Counts
    from sql.upsert import Connection

LEASE = timedelta(seconds=60)
ENDED = frozenset({"succeeded", "failed", "cancelled"})
SHOWN = """
    id, page_id, kind, state, since, until, backfill_ids, requested_by, conversations, messages, inserted, repaired,
    api_calls, failed_conversations, order_violated, requested_at, started_at, finished_at, error
"""
# a queued run of these kinds does what was asked for too
_AT_LEAST = {
    "incremental": ["incremental", "full", "audit"],
    "full": ["full", "audit"],
    "audit": ["audit"],
    "backfill": ["backfill"],
}


class Run(NamedTuple):
    """A claimed run."""

    id: int
    page_id: str
    kind: str
    since: datetime | None
    until: datetime | None
    holder: str
    term: int
    checkpoint: dict[str, Any] | None
    first_response_at: datetime | None
    newest_updated_time: datetime | None
    order_violated: bool


class Progress(NamedTuple):
    """What one step of a run adds."""

    counts: Counts
    conversations: int = 0
    messages: int = 0
    api_calls: int = 0
    failed_conversations: int = 0
    order_violated: bool = False
    first_response_at: datetime | None = None
    newest_updated_time: datetime | None = None


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

    A run that is already running is never joined: whoever asks gets one that begins after asking.
    """
    while True:
        run_id = await connection.fetchval(
            """
            WITH joined AS (
                UPDATE sync_runs AS r SET backfill_ids = array_remove(r.backfill_ids || $6::uuid, NULL)
                WHERE r.id = (
                    SELECT q.id FROM sync_runs AS q
                    WHERE q.page_id = $1 AND q.state = 'queued' AND q.kind = ANY($7::text[])
                    AND (
                        $4::timestamptz IS NULL
                        OR (q.since <= $4 AND COALESCE(q.until, 'infinity') >= COALESCE($5::timestamptz, 'infinity'))
                    )
                    ORDER BY q.id LIMIT 1
                )
                AND r.state = 'queued'
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
    """Queue an incremental run for each Page that is due; returns how many were queued."""
    return int(
        await connection.fetchval(
            """
            WITH due AS (
                SELECT p.page_id FROM facebook_pages AS p
                WHERE p.state = 'active' AND p.next_sync_at <= now()
                FOR UPDATE SKIP LOCKED
            ),
            moved AS (
                UPDATE facebook_pages AS p SET next_sync_at = now() + $1::interval
                FROM due WHERE p.page_id = due.page_id
            ),
            queued AS (
                INSERT INTO sync_runs (page_id, kind, requested_by)
                SELECT due.page_id, 'incremental', 'schedule' FROM due
                WHERE NOT EXISTS (
                    SELECT FROM sync_runs AS r
                    WHERE r.page_id = due.page_id AND r.state IN ('queued', 'running')
                    AND r.kind IN ('incremental', 'full')
                )
                ON CONFLICT DO NOTHING
                RETURNING id
            )
            SELECT count(*) FROM queued
            """,
            every,
        )
        or 0
    )


async def claim_run(connection: Connection, holder: str) -> Run | None:
    """Take the next run whose Page nobody holds: an abandoned one first, then by kind and age."""
    row = await connection.fetchrow(
        """
        WITH candidate AS (
            SELECT r.id, p.page_id FROM sync_runs AS r JOIN facebook_pages AS p ON p.page_id = r.page_id
            WHERE r.state IN ('queued', 'running') AND (p.lease_until IS NULL OR p.lease_until < now())
            ORDER BY
                (r.state = 'running') DESC,
                array_position(ARRAY['incremental', 'full', 'backfill', 'audit'], r.kind),
                r.id
            LIMIT 1
            FOR UPDATE OF p SKIP LOCKED
        ),
        leased AS (
            UPDATE facebook_pages AS p
            SET lease_holder = $1, lease_term = p.lease_term + 1, lease_until = now() + $2::interval
            FROM candidate AS c WHERE p.page_id = c.page_id
            RETURNING p.page_id, p.lease_term
        )
        UPDATE sync_runs AS r
        SET state = 'running', holder = $1, term = l.lease_term, started_at = COALESCE(r.started_at, now())
        FROM candidate AS c JOIN leased AS l ON l.page_id = c.page_id
        WHERE r.id = c.id
        RETURNING
            r.id, r.page_id, r.kind, r.since, r.until, r.holder, r.term, r.checkpoint, r.first_response_at,
            r.newest_updated_time, r.order_violated
        """,
        holder,
        LEASE,
    )
    return Run(*row) if row else None


async def renew_lease(connection: Connection, run: Run) -> None:
    """Keep the Page for another while.

    Raises:
        StaleLease: it is ours no longer.

    """
    done = await connection.execute(
        """
        UPDATE facebook_pages SET lease_until = now() + $4::interval
        WHERE page_id = $1 AND lease_holder = $2 AND lease_term = $3
        """,
        run.page_id,
        run.holder,
        run.term,
        LEASE,
    )
    if done == "UPDATE 0":
        raise StaleLease(f"the lease of Page {run.page_id} is held by another worker")


async def checkpoint(connection: Connection, run: Run, state: dict[str, Any], progress: Progress) -> None:
    """Record how far a run is, in the same transaction as its rows.

    Raises:
        StaleLease: the run is ours no longer, or was cancelled: roll back and stop.

    """
    done = await connection.execute(
        """
        UPDATE sync_runs SET
            checkpoint = $4::text::jsonb,
            conversations = conversations + $5,
            messages = messages + $6,
            inserted = inserted + $7,
            repaired = repaired + $8,
            api_calls = api_calls + $9,
            failed_conversations = failed_conversations + $10,
            order_violated = order_violated OR $11,
            first_response_at = COALESCE(first_response_at, $12),
            newest_updated_time = GREATEST(newest_updated_time, $13)
        WHERE id = $1 AND holder = $2 AND term = $3 AND state = 'running'
        """,
        run.id,
        run.holder,
        run.term,
        dumps(state),
        progress.conversations,
        progress.messages,
        progress.counts.inserted,
        progress.counts.repaired,
        progress.api_calls,
        progress.failed_conversations,
        progress.order_violated,
        progress.first_response_at,
        progress.newest_updated_time,
    )
    if done == "UPDATE 0":
        raise StaleLease(f"run {run.id} is no longer this worker's")


async def finish_run(
    connection: Connection, run: Run, state: str, *, error: str | None, api_calls: int, next_in: timedelta
) -> None:
    """End a run and let the Page go, in one transaction.

    A run that walked the whole list moves the watermark: to the newest conversation it saw, never past the `Date` of
    its first answer, and only forward.

    Raises:
        StaleLease: the run is ours no longer, or was cancelled.

    """
    async with connection.transaction():
        # the Page before its run, as whoever claims a run or removes a Page does: nobody waits in a circle
        await connection.execute("SELECT FROM facebook_pages WHERE page_id = $1 FOR NO KEY UPDATE", run.page_id)
        row = await connection.fetchrow(
            """
            UPDATE sync_runs SET state = $4, error = $5, api_calls = api_calls + $6, finished_at = now()
            WHERE id = $1 AND holder = $2 AND term = $3 AND state = 'running'
            RETURNING LEAST(newest_updated_time, first_response_at) AS reached
            """,
            run.id,
            run.holder,
            run.term,
            state,
            error,
            api_calls,
        )
        if row is None:
            await release_page(connection, run)
        else:
            moves = state == "succeeded" and run.kind != "backfill"
            await connection.execute(
                """
                UPDATE facebook_pages SET
                    watermark = GREATEST(watermark, $4),
                    last_synced_at = CASE WHEN $5 THEN now() ELSE last_synced_at END,
                    next_sync_at = GREATEST(next_sync_at, now() + $6::interval),
                    lease_holder = NULL,
                    lease_until = NULL
                WHERE page_id = $1 AND lease_holder = $2 AND lease_term = $3
                """,
                run.page_id,
                run.holder,
                run.term,
                row["reached"] if moves else None,
                moves,
                next_in if run.kind != "backfill" else timedelta(0),
            )
    if row is None:
        raise StaleLease(f"run {run.id} is no longer this worker's")


async def release_page(connection: Connection, run: Run) -> None:
    """Let the Page go without ending the run: any worker resumes it."""
    await connection.execute(
        """
        UPDATE facebook_pages SET lease_holder = NULL, lease_until = NULL
        WHERE page_id = $1 AND lease_holder = $2 AND lease_term = $3
        """,
        run.page_id,
        run.holder,
        run.term,
    )


async def cancel_runs(connection: Connection, run_ids: Sequence[int]) -> int:
    """Cancel runs that have not ended; a running one stops at its next step. Returns how many were cancelled."""
    done = await connection.execute(
        """
        UPDATE sync_runs SET state = 'cancelled', finished_at = now(), error = 'cancelled by an operator'
        WHERE id = ANY($1::bigint[]) AND state IN ('queued', 'running')
        """,
        list(run_ids),
    )
    return int(done.rpartition(" ")[2])


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
