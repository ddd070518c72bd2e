"""What the page walk knows of threads: up to where each is stored, which failed, which a run has yet to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sql.upsert import Connection

ALWAYS_TRIED = 5  # of the threads that keep failing, in each scheduled run
# a run has taken over all that a thread holds; but for one whose calls are counted, which may leave it again
_IS_TAKEN_OVER = """
    u.target IS NULL
    AND NOT EXISTS (SELECT FROM sync_runs AS r WHERE r.id = u.run_id AND r.call_budget IS NOT NULL)
"""


class Known(NamedTuple):
    """What is known of a thread.

    `stored_to`: up to here its messages are stored without a gap, or a run that was put off, and has all the calls it
    needs, has taken over what is missing below. None: nothing is promised.
    """

    stored_to: datetime | None = None
    has_failed: bool = False


class Reached(NamedTuple):
    """A thread was read from its newest message down to `target`, None for the beginning: it is stored to `reached`."""

    thread_id: str
    target: datetime | None
    reached: datetime


class Unfinished(NamedTuple):
    """A thread whose messages a run has not all read yet.

    `cursor` is None at its first page; `target` is the time down to which to read, None for the beginning; `reached`
    is what `synced_to` becomes at the end, None to leave it.
    """

    thread_id: str
    psid: str | None
    cursor: str | None
    target: datetime | None
    reached: datetime | None


async def known_threads(
    connection: Connection, page_id: str, run_id: int, thread_ids: Sequence[str]
) -> dict[str, Known]:
    """What is known of these threads; unknown ones are left out."""
    rows = await connection.fetch(
        f"""
        SELECT
            t.thread_id,
            COALESCE(t.synced_to, (
                SELECT max(u.reached) FROM unfinished_threads AS u
                WHERE u.page_id = t.page_id AND u.thread_id = t.thread_id AND u.run_id <> $2 AND {_IS_TAKEN_OVER}
            )) AS stored_to,
            t.sync_error IS NOT NULL AS has_failed
        FROM conversation_threads AS t WHERE t.page_id = $1 AND t.thread_id = ANY($3::text[])
        """,
        page_id,
        run_id,
        list(thread_ids),
    )
    return {r["thread_id"]: Known(r["stored_to"], r["has_failed"]) for r in rows}


async def set_synced_to(connection: Connection, page_id: str, run_id: int, reached: Iterable[Reached]) -> None:
    """Record up to where threads' messages are stored (Graph's clock); only forward, and never over a gap.

    A thread that was never read to its beginning gets no `synced_to` by a reading that ended before that. If another
    run has taken over what is below, that run's row rises instead.

    Must be called in the transaction that stores the last message page that each of them needed.
    """
    rows = sorted(reached, key=lambda r: r.thread_id)
    if not rows:
        return
    await connection.execute(
        f"""
        WITH n AS (
            SELECT * FROM unnest($3::text[], $4::timestamptz[], $5::timestamptz[]) AS n (thread_id, target, reached)
        ),
        below AS (
            UPDATE unfinished_threads AS u SET reached = n.reached
            FROM n JOIN conversation_threads AS t ON t.page_id = $1 AND t.thread_id = n.thread_id
            WHERE u.page_id = $1 AND u.thread_id = n.thread_id AND u.run_id <> $2 AND t.synced_to IS NULL
            AND n.target IS NOT NULL AND {_IS_TAKEN_OVER} AND u.reached >= n.target AND u.reached < n.reached
        )
        UPDATE conversation_threads AS t SET
            synced_to = CASE
                WHEN n.target IS NULL OR t.synced_to >= n.target THEN GREATEST(t.synced_to, n.reached)
                ELSE t.synced_to
            END,
            sync_error = NULL,
            failures = 0,
            failed_in = NULL,
            failed_at = NULL
        FROM n
        WHERE t.page_id = $1 AND t.thread_id = n.thread_id
        AND (
            n.target IS NULL OR t.synced_to >= n.target
            OR EXISTS (
                SELECT FROM unfinished_threads AS u
                WHERE u.page_id = $1 AND u.thread_id = n.thread_id AND u.run_id <> $2
                AND {_IS_TAKEN_OVER} AND u.reached >= n.target
            )
        )
        AND (t.synced_to IS NULL OR t.synced_to < n.reached OR t.sync_error IS NOT NULL)
        """,
        page_id,
        run_id,
        *zip(*rows, strict=True),
    )


async def failed_threads(connection: Connection, page_id: str, run_id: int, *, now: datetime) -> list[str]:
    """Threads whose last reading failed before this run: it tries them by id.

    All of them in a run that somebody asked for. A scheduled one tries those ALWAYS_TRIED that failed the least often,
    and others from the third failure on less and less often, down to once a day: each costs a call.
    """
    rows = await connection.fetch(
        """
        SELECT f.thread_id FROM (
            SELECT
                t.thread_id, t.failures, t.failed_at,
                row_number() OVER (ORDER BY t.failures, t.failed_at, t.thread_id) AS n
            FROM conversation_threads AS t
            WHERE t.page_id = $1 AND t.sync_error IS NOT NULL AND t.failed_in IS DISTINCT FROM $2
            AND NOT EXISTS (
                SELECT FROM unfinished_threads AS u
                WHERE u.page_id = t.page_id AND u.run_id = $2 AND u.thread_id = t.thread_id
            )
        ) AS f
        WHERE f.n <= $4
        OR f.failures < 3
        OR f.failed_at + LEAST(interval '5 minutes' * power(2, LEAST(f.failures, 20)), interval '1 day') <= $3
        OR EXISTS (SELECT FROM sync_runs AS r WHERE r.id = $2 AND r.requested_by <> 'schedule')
        ORDER BY f.thread_id
        """,
        page_id,
        run_id,
        now,
        ALWAYS_TRIED,
    )
    return [r["thread_id"] for r in rows]


class Failing(NamedTuple):
    """How many threads of a Page could not be read lately, and how many of them a run did not try again."""

    threads: int
    untried: int


async def count_failing(connection: Connection, page_id: str, run_id: int) -> Failing:
    """Count a Page's threads whose last reading failed, and those of them that failed before this run only.

    Those that a run merely did not come to are none of them.
    """
    row = await connection.fetchrow(
        """
        SELECT count(*), count(*) FILTER (WHERE failed_in IS DISTINCT FROM $2)
        FROM conversation_threads WHERE page_id = $1 AND sync_error IS NOT NULL AND failures > 0
        """,
        page_id,
        run_id,
    )
    return Failing(*row) if row else Failing(0, 0)


async def mark_failed(
    connection: Connection, page_id: str, run_id: int, failed: Iterable[tuple[str, str]], *, now: datetime
) -> None:
    """Record which threads (thread id, reason) could not be read; their `synced_to` stays where it was."""
    rows = sorted(dict(failed).items())
    if not rows:
        return
    await connection.execute(
        """
        INSERT INTO conversation_threads AS t (
            page_id, thread_id, psid, sync_error, failures, failed_in, failed_at, created_at
        )
        SELECT $1, n.thread_id, n.thread_id, n.reason, 1, $2, $3, $3
        FROM unnest($4::text[], $5::text[]) AS n (thread_id, reason)
        ON CONFLICT (page_id, thread_id) DO UPDATE SET
            sync_error = excluded.sync_error,
            failures = t.failures + 1,
            failed_in = excluded.failed_in,
            failed_at = excluded.failed_at
        """,
        page_id,
        run_id,
        now,
        *zip(*rows, strict=True),
    )


async def put_unfinished(connection: Connection, page_id: str, run_id: int, threads: Iterable[Unfinished]) -> None:
    """Record how far a run is with threads that it has not read to their end."""
    rows = sorted(threads, key=lambda t: t.thread_id)
    if not rows:
        return
    await connection.execute(
        """
        INSERT INTO unfinished_threads (page_id, run_id, thread_id, psid, cursor, target, reached)
        SELECT $1, $2, n.thread_id, n.psid, n.cursor, n.target, n.reached
        FROM unnest($3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[])
            AS n (thread_id, psid, cursor, target, reached)
        ON CONFLICT (page_id, run_id, thread_id) DO UPDATE SET
            psid = excluded.psid, cursor = excluded.cursor, target = excluded.target, reached = excluded.reached
        """,
        page_id,
        run_id,
        *zip(*rows, strict=True),
    )


async def remove_unfinished(connection: Connection, page_id: str, run_id: int, thread_ids: Iterable[str]) -> None:
    """Forget threads that a run has done with."""
    await connection.execute(
        "DELETE FROM unfinished_threads WHERE page_id = $1 AND run_id = $2 AND thread_id = ANY($3::text[])",
        page_id,
        run_id,
        sorted(thread_ids),
    )


async def list_unfinished(connection: Connection, page_id: str, run_id: int, *, limit: int) -> list[Unfinished]:
    """Threads that a run has yet to read, the most recently active first."""
    rows = await connection.fetch(
        """
        SELECT thread_id, psid, cursor, target, reached FROM unfinished_threads
        WHERE page_id = $1 AND run_id = $2
        ORDER BY reached DESC NULLS LAST, thread_id
        LIMIT $3
        """,
        page_id,
        run_id,
        limit,
    )
    return [Unfinished(*row) for row in rows]


async def leave_unfinished(connection: Connection, page_id: str, run_ids: Sequence[int], reason: str) -> None:
    """Drop the unfinished threads of runs that end early.

    Those that no run ever read to their beginning are tried by id in the next one: its list may not reach them.
    """
    await connection.execute(
        """
        WITH dropped AS (
            DELETE FROM unfinished_threads WHERE page_id = $1 AND run_id = ANY($2::bigint[])
            RETURNING thread_id, reached
        )
        UPDATE conversation_threads AS t
        SET sync_error = COALESCE(t.sync_error, 'not read to its end: ' || $3)
        FROM dropped AS d
        WHERE t.page_id = $1 AND t.thread_id = d.thread_id AND d.reached IS NOT NULL AND t.synced_to IS NULL
        """,
        page_id,
        list(run_ids),
        reason,
    )
