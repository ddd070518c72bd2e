"""What is known of the Pages' webhook subscriptions, and when their webhooks last came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.loss import expect_fields, expect_no_more

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sql.upsert import Connection

CHECK_EVERY = timedelta(hours=6)  # Meta drops subscriptions without a word (Graph sheet, 5)
CHECK_AGAIN_AFTER = timedelta(minutes=30)  # when Graph could not be asked
CHECK_AFTER_SILENCE = timedelta(minutes=30)
# silent: nothing for so many times the usual gap, and for so long at least
SILENT_AFTER_GAPS = 20.0
SILENT_AFTER = timedelta(minutes=10)
# of a smoothed mean: how much the newest gap counts
NEWEST_COUNTS = 0.1

IS_SILENT = f"""
    (
        s.last_webhook_at < now() - interval '{SILENT_AFTER.total_seconds()} s'
        AND s.last_webhook_at < now() - s.webhook_gap_seconds * {SILENT_AFTER_GAPS} * interval '1 s'
    )
"""


async def note_webhooks(connection: Connection, seen: Mapping[str, datetime]) -> None:
    """Record when each Page's newest webhook came; Pages that are not known are passed over."""
    await connection.execute(
        """
        INSERT INTO page_subscriptions AS s (page_id, last_webhook_at)
        SELECT n.page_id, n.at
        FROM unnest($1::text[], $2::timestamptz[]) AS n (page_id, at)
        JOIN facebook_pages AS p ON p.page_id = n.page_id
        ORDER BY n.page_id
        ON CONFLICT (page_id) DO UPDATE SET
            last_webhook_at = GREATEST(s.last_webhook_at, excluded.last_webhook_at),
            webhook_gap_seconds = CASE
                WHEN s.last_webhook_at IS NULL OR excluded.last_webhook_at <= s.last_webhook_at
                    THEN s.webhook_gap_seconds
                ELSE COALESCE(s.webhook_gap_seconds * (1 - $3::double precision), 0)
                    + extract(epoch FROM excluded.last_webhook_at - s.last_webhook_at)::double precision
                    * CASE WHEN s.webhook_gap_seconds IS NULL THEN 1 ELSE $3 END
            END
        """,
        list(seen),
        list(seen.values()),
        NEWEST_COUNTS,
    )


async def claim_checks(connection: Connection, *, limit: int) -> list[str]:
    """Take the active Pages whose subscription is to be checked now: due, never checked, or silent against habit."""
    await connection.execute(
        """
        INSERT INTO page_subscriptions (page_id)
        SELECT p.page_id FROM facebook_pages AS p
        WHERE p.state = 'active' AND NOT EXISTS (SELECT FROM page_subscriptions AS k WHERE k.page_id = p.page_id)
        ON CONFLICT DO NOTHING
        """
    )
    rows = await connection.fetch(
        f"""
        WITH due AS (
            SELECT s.page_id FROM page_subscriptions AS s JOIN facebook_pages AS p ON p.page_id = s.page_id
            WHERE p.state = 'active' AND s.is_wanted
            AND (
                s.next_check_at <= now()
                OR ({IS_SILENT} AND s.checked_at < now() - $2::interval AND s.next_check_at < now() + $3::interval - $2)
            )
            ORDER BY s.next_check_at, s.page_id LIMIT $1 FOR UPDATE OF s SKIP LOCKED
        )
        UPDATE page_subscriptions AS s SET next_check_at = now() + $3::interval
        FROM due WHERE s.page_id = due.page_id
        RETURNING s.page_id
        """,
        limit,
        CHECK_AFTER_SILENCE,
        CHECK_EVERY,
    )
    return sorted(r["page_id"] for r in rows)


async def record_check(
    connection: Connection,
    page_id: str,
    *,
    subscribed: Collection[str],
    refused: Collection[str],
    missing: Collection[str],
    error: str | None,
) -> None:
    """Keep what a check found and mended; `missing` is what was not there before it, empty when all was well.

    At a Page's first check nothing had been dropped: it only subscribes.
    """
    async with connection.transaction():
        if missing:
            await connection.execute(
                """
                INSERT INTO subscription_repairs (page_id, at, missing_fields, restored_fields, error)
                SELECT s.page_id, now(), $2, $3, $4 FROM page_subscriptions AS s
                WHERE s.page_id = $1 AND s.checked_at IS NOT NULL
                """,
                page_id,
                sorted(missing),
                sorted(set(missing) & set(subscribed)),
                error,
            )
        await connection.execute(
            """
            INSERT INTO page_subscriptions (
                page_id, checked_at, subscribed_fields, refused_fields, error, next_check_at
            )
            VALUES ($1, now(), $2, $3, $4, now() + $5::interval)
            ON CONFLICT (page_id) DO UPDATE SET
                checked_at = excluded.checked_at,
                subscribed_fields = excluded.subscribed_fields,
                refused_fields = excluded.refused_fields,
                error = excluded.error,
                next_check_at = excluded.next_check_at
            """,
            page_id,
            sorted(subscribed),
            sorted(refused),
            error,
            CHECK_EVERY,
        )
        await expect_no_more(connection, page_id, refused)
        await expect_fields(connection, page_id, subscribed)


class Wish(NamedTuple):
    """Whether the owner wants a Page's webhooks, and which fields Graph did not let it subscribe to when last asked."""

    is_wanted: bool
    refused: frozenset[str]


async def read_wish(connection: Connection, page_id: str) -> Wish:
    """What is to be subscribed of a Page."""
    rows = await connection.fetch(
        "SELECT is_wanted, refused_fields FROM page_subscriptions WHERE page_id = $1", page_id
    )
    return Wish(rows[0]["is_wanted"], frozenset(rows[0]["refused_fields"])) if rows else Wish(True, frozenset())


async def want_webhooks(connection: Connection, page_id: str) -> None:
    """Keep a Page subscribed from now on: by its owner's will."""
    await connection.execute(
        """
        INSERT INTO page_subscriptions (page_id) VALUES ($1)
        ON CONFLICT (page_id) DO UPDATE SET is_wanted = true, next_check_at = now()
        """,
        page_id,
    )


async def want_no_webhooks(connection: Connection, page_id: str) -> None:
    """Leave a Page without webhooks, and expect none: its owner has ended them."""
    async with connection.transaction():
        await connection.execute(
            """
            INSERT INTO page_subscriptions (page_id, is_wanted, checked_at) VALUES ($1, false, now())
            ON CONFLICT (page_id) DO UPDATE SET
                is_wanted = false, checked_at = now(), subscribed_fields = '{}', error = NULL
            """,
            page_id,
        )
        await expect_no_more(connection, page_id)


async def record_failed_check(connection: Connection, page_id: str, error: str) -> None:
    """Keep why a check did not come to an answer."""
    await connection.execute(
        """
        INSERT INTO page_subscriptions (page_id, error, next_check_at) VALUES ($1, $2, now() + $3::interval)
        ON CONFLICT (page_id) DO UPDATE SET error = excluded.error, next_check_at = excluded.next_check_at
        """,
        page_id,
        error,
        CHECK_AGAIN_AFTER,
    )
