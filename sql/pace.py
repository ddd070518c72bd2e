"""Each Page's pace: what its next due time depends on, and its being made due early when webhooks may be lost."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.subscriptions import IS_SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sql.leases import Run
    from sql.upsert import Connection

A_DAY = timedelta(days=1)


class Habits(NamedTuple):
    """What is known of a Page when one of its runs ends.

    `has_repaired` tells of the run that ends, but for messages whose webhooks may just be under way. `calls` are those
    of the last 24 hours' runs, `incremental_calls` and `incremental_runs` of those runs that only
    looked for what is new.
    """

    interval: timedelta | None
    budget: int | None
    is_silent: bool
    has_repaired: bool
    calls: int
    incremental_calls: int
    incremental_runs: int


class NextSync(NamedTuple):
    """What the end of a run leaves behind: when its Page is due, its interval, and what is known of its calls."""

    due_in: timedelta
    interval: timedelta | None = None
    budget: int | None = None
    calls: int = 0
    percent: float | None = None


async def read_habits(connection: Connection, run: Run) -> Habits:
    """What the next due time of the run's Page depends on."""
    [row] = await connection.fetch(
        f"""
        SELECT
            p.sync_interval_seconds * interval '1 s', p.daily_call_budget, COALESCE({IS_SILENT}, false),
            COALESCE((
                SELECT r.repaired > (
                    SELECT count(*) FROM brought_messages AS b
                    LEFT JOIN messages AS m ON m.page_id = b.page_id AND m.mid = b.mid
                    WHERE b.page_id = p.page_id AND b.run_id = r.id
                    AND (b.was_just_sent OR m.webhook_seen_at IS NOT NULL)
                )
                FROM sync_runs AS r WHERE r.id = $2
            ), false),
            d.calls, d.incremental_calls, d.incremental_runs
        FROM facebook_pages AS p
        LEFT JOIN page_subscriptions AS s ON s.page_id = p.page_id
        CROSS JOIN LATERAL (
            SELECT
                COALESCE(sum(r.api_calls), 0) AS calls,
                COALESCE(sum(r.api_calls) FILTER (WHERE r.kind = 'incremental' AND NOT r.is_deep), 0)
                    AS incremental_calls,
                count(*) FILTER (WHERE r.kind = 'incremental' AND NOT r.is_deep) AS incremental_runs
            FROM sync_runs AS r
            WHERE r.page_id = p.page_id AND (r.finished_at > now() - $3::interval OR r.finished_at IS NULL)
        ) AS d
        WHERE p.page_id = $1
        """,
        run.page_id,
        run.id,
        A_DAY,
    )
    return Habits(*row)


class Beat(NamedTuple):
    """A heartbeat: when it is by Postgres' clock, and how long ago the last one was; None for the first ever."""

    now: datetime
    gap: timedelta | None


async def beat(connection: Connection, name: str) -> Beat:
    """Note that `name` is running. Until the caller's transaction ends, others of the same name wait."""
    last = await connection.fetchval("SELECT at FROM heartbeats WHERE name = $1 FOR UPDATE", name)
    now = await connection.fetchval(
        """
        INSERT INTO heartbeats AS h (name, at) VALUES ($1, clock_timestamp())
        ON CONFLICT (name) DO UPDATE SET at = GREATEST(h.at, excluded.at)
        RETURNING at
        """,
        name,
    )
    return Beat(now, now - last if last is not None else None)


async def since_beat(connection: Connection, name: str) -> float | None:
    """How many seconds ago `name` was running for sure; None when it never was."""
    seconds: float | None = await connection.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - at)::double precision FROM heartbeats WHERE name = $1", name
    )
    return None if seconds is None else max(seconds, 0.0)


async def due_times(connection: Connection) -> dict[str, datetime]:
    """When each active Page is due."""
    rows = await connection.fetch("SELECT page_id, next_sync_at FROM facebook_pages WHERE state = 'active'")
    return {r["page_id"]: r["next_sync_at"] for r in rows}


async def silent_pages(connection: Connection) -> tuple[datetime, list[str]]:
    """Active Pages whose webhooks have fallen silent against their habit, and that were not brought forward since.

    With the time by Postgres' clock.
    """
    [(now, page_ids)] = await connection.fetch(
        f"""
        SELECT now(), COALESCE(array_agg(p.page_id ORDER BY p.page_id) FILTER (WHERE p.page_id IS NOT NULL), '{{}}')
        FROM facebook_pages AS p JOIN page_subscriptions AS s ON s.page_id = p.page_id
        WHERE p.state = 'active' AND s.is_wanted AND {IS_SILENT}
        AND (p.brought_forward_at IS NULL OR p.brought_forward_at < s.last_webhook_at)
        """
    )
    return now, page_ids


async def put_due_times(connection: Connection, due: Mapping[str, datetime]) -> None:
    """Make Pages due at other times: after a while in which nobody asked for those that were."""
    await connection.execute(
        """
        WITH due AS MATERIALIZED (
            SELECT p.page_id, n.at
            FROM facebook_pages AS p
            JOIN unnest($1::text[], $2::timestamptz[]) AS n (page_id, at) ON n.page_id = p.page_id
            ORDER BY p.page_id FOR NO KEY UPDATE OF p
        )
        UPDATE facebook_pages AS p SET next_sync_at = due.at FROM due WHERE p.page_id = due.page_id
        """,
        list(due),
        list(due.values()),
    )


async def bring_forward(
    connection: Connection, due: Mapping[str, datetime], *, longest: timedelta | None = None
) -> None:
    """Make Pages whose webhooks may be lost due no later than at these times, and their intervals at most `longest`."""
    await connection.execute(
        """
        WITH due AS MATERIALIZED (
            SELECT p.page_id, n.at
            FROM facebook_pages AS p
            JOIN unnest($1::text[], $2::timestamptz[]) AS n (page_id, at) ON n.page_id = p.page_id
            ORDER BY p.page_id FOR NO KEY UPDATE OF p
        )
        UPDATE facebook_pages AS p SET
            next_sync_at = LEAST(p.next_sync_at, due.at),
            sync_interval_seconds = LEAST(p.sync_interval_seconds, extract(epoch FROM $3::interval)),
            brought_forward_at = now()
        FROM due WHERE p.page_id = due.page_id
        """,
        list(due),
        list(due.values()),
        longest,
    )
