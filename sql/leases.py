"""Work on a sync run: the claim under the Page's lease, the fenced steps, the end.

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

from sql.cooldowns import IS_OPEN
from sql.errors import StaleLease
from sql.json_values import dumps
from sql.threads import count_failing, leave_unfinished

if TYPE_CHECKING:
    from sql.pace import NextSync
    from sql.upsert import Connection

LEASE = timedelta(seconds=60)
NOW = timedelta(0)

_IS_FREE = f"(p.lease_until IS NULL OR p.lease_until < now()) AND {IS_OPEN}"
# as the index sync_runs_queue has it
_TURN = "CASE WHEN r.is_deep THEN 3 ELSE array_position('{incremental,full,deep,backfill,audit}'::text[], r.kind) END"


class Run(NamedTuple):
    """A claimed run. `attempts` is how often in a row it was claimed without getting a step further, this time too.

    Of a rolling audit, `call_budget` is how many calls it may make in all, `api_calls` how many it has made.
    """

    id: int
    page_id: str
    kind: str
    since: datetime | None
    until: datetime | None
    holder: str
    term: int
    attempts: int
    checkpoint: dict[str, Any] | None
    first_response_at: datetime | None
    newest_updated_time: datetime | None
    order_violated: bool
    failed_conversations: int
    error: str | None
    api_calls: int
    call_budget: int | None

    @property
    def is_partial(self) -> bool:
        """Whether it may leave out something of what is new, so that it promises nothing to the runs after it."""
        return self.kind == "backfill" or self.call_budget is not None


class Progress(NamedTuple):
    """What one step of a run adds."""

    inserted: int = 0
    repaired: int = 0
    conversations: int = 0
    messages: int = 0
    api_calls: int = 0
    failed_conversations: int = 0
    order_violated: bool = False
    is_deep: bool = False
    first_response_at: datetime | None = None
    newest_updated_time: datetime | None = None


async def claim_run(connection: Connection, holder: str) -> Run | None:
    """Take the next run whose Page nobody holds and Graph may be called for: an abandoned one first.

    Then by kind, so that what is new never waits behind what is old, then by age.
    """
    row = await connection.fetchrow(
        f"""
        WITH abandoned AS (
            SELECT r.id, p.page_id FROM sync_runs AS r JOIN facebook_pages AS p ON p.page_id = r.page_id
            WHERE r.state = 'running' AND {_IS_FREE}
            ORDER BY {_TURN}, r.id LIMIT 1
            FOR UPDATE OF p, r SKIP LOCKED
        ),
        waiting AS (
            SELECT r.id, p.page_id FROM sync_runs AS r JOIN facebook_pages AS p ON p.page_id = r.page_id
            WHERE r.state = 'queued' AND {_IS_FREE} AND NOT EXISTS (SELECT FROM abandoned)
            AND NOT EXISTS (SELECT FROM sync_runs AS o WHERE o.page_id = r.page_id AND o.state = 'running')
            ORDER BY {_TURN}, r.id LIMIT 1
            FOR UPDATE OF p, r SKIP LOCKED
        ),
        candidate AS (SELECT * FROM abandoned UNION ALL SELECT * FROM waiting),
        leased AS (
            UPDATE facebook_pages AS p
            SET lease_holder = $1, lease_term = p.lease_term + 1, lease_until = now() + $2::interval
            FROM candidate AS c WHERE p.page_id = c.page_id
            RETURNING p.page_id, p.lease_term
        )
        UPDATE sync_runs AS r SET
            state = 'running',
            holder = $1,
            term = l.lease_term,
            attempts = r.attempts + 1,
            started_at = COALESCE(r.started_at, now())
        FROM candidate AS c JOIN leased AS l ON l.page_id = c.page_id
        WHERE r.id = c.id
        RETURNING
            r.id, r.page_id, r.kind, r.since, r.until, r.holder, r.term, r.attempts, r.checkpoint, r.first_response_at,
            r.newest_updated_time, r.order_violated, r.failed_conversations, r.error, r.api_calls, r.call_budget
        """,
        holder,
        LEASE,
    )
    return Run(*row) if row else None


async def renew_lease(connection: Connection, run: Run) -> None:
    """Keep the Page for another while.

    Raises:
        StaleLease: it is ours no longer, or the run was cancelled.

    """
    done = await connection.execute(
        """
        UPDATE facebook_pages AS p SET lease_until = now() + $4::interval
        WHERE p.page_id = $1 AND p.lease_holder = $2 AND p.lease_term = $3
        AND EXISTS (
            SELECT FROM sync_runs AS r WHERE r.id = $5 AND r.holder = $2 AND r.term = $3 AND r.state = 'running'
        )
        """,
        run.page_id,
        run.holder,
        run.term,
        LEASE,
        run.id,
    )
    if done == "UPDATE 0":
        raise StaleLease(f"run {run.id} is no longer this worker's")


async def checkpoint(
    connection: Connection, run: Run, state: dict[str, Any], progress: Progress, *, is_crowded: bool
) -> bool:
    """Record how far a run is, in the same transaction as its rows; returns whether it should now be put off.

    That is when the app has to cool down; and, for an audit, a backfill, or a first load that has listed all, when
    something more urgent waits: an incremental run of the same Page, or, when this worker `is_crowded`, of any.

    Raises:
        StaleLease: the run is ours no longer, or was cancelled: roll back and stop.

    """
    row = await connection.fetchrow(
        f"""
        UPDATE sync_runs AS r SET
            checkpoint = $4::text::jsonb,
            attempts = 0,
            conversations = r.conversations + $5,
            messages = r.messages + $6,
            inserted = r.inserted + $7,
            repaired = r.repaired + $8,
            api_calls = r.api_calls + $9,
            failed_conversations = r.failed_conversations + $10,
            order_violated = r.order_violated OR $11,
            is_deep = $12,
            first_response_at = COALESCE(r.first_response_at, $13),
            newest_updated_time = GREATEST(r.newest_updated_time, $14),
            error = NULL
        WHERE r.id = $1 AND r.holder = $2 AND r.term = $3 AND r.state = 'running'
        RETURNING
            EXISTS (SELECT FROM cooldowns AS c WHERE c.scope = 'app' AND c.until > now())
            OR ((r.is_deep OR r.kind IN ('backfill', 'audit')) AND EXISTS (
                SELECT FROM sync_runs AS q JOIN facebook_pages AS p ON p.page_id = q.page_id
                WHERE q.state = 'queued' AND q.kind = 'incremental' AND NOT q.is_deep
                AND (
                    q.page_id = r.page_id
                    OR ($15 AND (p.lease_until IS NULL OR p.lease_until < now()) AND {IS_OPEN})
                )
            )) AS is_put_off
        """,
        run.id,
        run.holder,
        run.term,
        dumps(state),
        progress.conversations,
        progress.messages,
        progress.inserted,
        progress.repaired,
        progress.api_calls,
        progress.failed_conversations,
        progress.order_violated,
        progress.is_deep,
        progress.first_response_at,
        progress.newest_updated_time,
        is_crowded,
    )
    if row is None:
        raise StaleLease(f"run {run.id} is no longer this worker's")
    return bool(row["is_put_off"])


async def finish_run(
    connection: Connection, run: Run, state: str, *, error: str | None, api_calls: int, next_sync: NextSync
) -> None:
    """End a run and let the Page go, in one transaction. Only a run that looked for what is new moves the due time.

    A run that walked the whole list moves the watermark: to the newest conversation it saw, never past the `Date` of
    its first answer, and only forward. One that saw none, or failed, or was a backfill or a rolling audit, leaves it.

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
            RETURNING
                CASE WHEN newest_updated_time IS NOT NULL
                    THEN LEAST(newest_updated_time, first_response_at)
                END AS reached
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
            if state != "succeeded":
                await leave_unfinished(connection, run.page_id, [run.id], error or state)
            failing = await count_failing(connection, run.page_id, run.id)
            if failing.threads:
                await connection.execute(
                    "UPDATE sync_runs SET failing_conversations = $2, untried_conversations = $3 WHERE id = $1",
                    run.id,
                    *failing,
                )
            moves = state == "succeeded" and not run.is_partial
            await connection.execute(
                """
                UPDATE facebook_pages SET
                    watermark = GREATEST(watermark, $4),
                    last_synced_at = CASE WHEN $5 THEN now() ELSE last_synced_at END,
                    next_sync_at = CASE WHEN $6 THEN now() + $7::interval ELSE next_sync_at END,
                    sync_interval_seconds = CASE
                        WHEN $6 THEN COALESCE(extract(epoch FROM $8::interval), sync_interval_seconds)
                        ELSE sync_interval_seconds
                    END,
                    daily_call_budget = COALESCE($9, daily_call_budget),
                    calls_last_day = $10,
                    usage_percent = $11,
                    failing_conversations = $12,
                    lease_holder = NULL,
                    lease_until = NULL
                WHERE page_id = $1 AND lease_holder = $2 AND lease_term = $3
                """,
                run.page_id,
                run.holder,
                run.term,
                row["reached"] if moves else None,
                moves,
                run.kind in {"incremental", "full"},
                *next_sync,
                failing.threads,
            )
    if row is None:
        raise StaleLease(f"run {run.id} is no longer this worker's")


async def put_off_run(connection: Connection, run: Run, reason: str | None, *, api_calls: int) -> None:
    """Queue a run again where it stands, and let the Page go: something more urgent waits, or Meta asked to wait."""
    async with connection.transaction():
        await connection.execute("SELECT FROM facebook_pages WHERE page_id = $1 FOR NO KEY UPDATE", run.page_id)
        await connection.execute(
            """
            UPDATE sync_runs SET state = 'queued', attempts = 0, error = $4, api_calls = api_calls + $5
            WHERE id = $1 AND holder = $2 AND term = $3 AND state = 'running'
            """,
            run.id,
            run.holder,
            run.term,
            reason,
            api_calls,
        )
        await release_page(connection, run)


async def release_page(connection: Connection, run: Run, *, after: timedelta = NOW, reason: str | None = None) -> None:
    """Let the Page go without ending the run: any worker resumes it, `after` a while.

    `reason` is what interrupted it.
    """
    if reason is not None:
        await connection.execute(
            "UPDATE sync_runs SET error = $4 WHERE id = $1 AND holder = $2 AND term = $3 AND state = 'running'",
            run.id,
            run.holder,
            run.term,
            reason,
        )
    await connection.execute(
        """
        UPDATE facebook_pages SET
            lease_holder = CASE WHEN $4 > interval '0' THEN lease_holder END,
            lease_until = CASE WHEN $4 > interval '0' THEN now() + $4 END
        WHERE page_id = $1 AND lease_holder = $2 AND lease_term = $3
        """,
        run.page_id,
        run.holder,
        run.term,
        after,
    )
