"""Pages: `facebook_pages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sql.loss import expect_fields, expect_no_more
from sql.sync_runs import cancel_runs

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

_SHOWN = """
    SELECT
        p.page_id, p.name, p.state, p.state_reason, p.subscribed_at, p.watermark, p.last_synced_at, p.next_sync_at,
        p.sync_interval_seconds, p.daily_call_budget, p.calls_last_day, p.usage_percent,
        p.failing_conversations, c.until AS cooldown_until, c.reason AS cooldown_reason,
        s.last_webhook_at, COALESCE(s.is_wanted, true) AS subscription_is_wanted,
        s.checked_at AS subscription_checked_at, s.subscribed_fields, s.refused_fields,
        s.error AS subscription_error, p.created_at, p.updated_at
    FROM facebook_pages AS p
    LEFT JOIN page_subscriptions AS s ON s.page_id = p.page_id
    LEFT JOIN LATERAL (
        SELECT d.until, d.reason FROM cooldowns AS d
        WHERE d.scope IN ('app', 'page:' || p.page_id) AND d.until > now()
        ORDER BY d.until DESC LIMIT 1
    ) AS c ON true
    WHERE p.state <> 'removed'
"""


# the fields of Meta's that bring messages
EXPECTED_FIELDS = ("messages", "message_echoes", "messaging_postbacks")


class PageBusyError(Exception):
    """What was mirrored of this Page is still being erased: add it once that is done."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class Page(NamedTuple):
    """A Page as a sync run needs it.

    `listed_to` is the watermark, or, while there is none, up to where a first load has listed the Page that goes on
    reading older messages. `honours_since`: the list of its conversations was found to heed `since`.
    """

    page_id: str
    token_encrypted: str
    state: str
    state_reason: str | None
    listed_to: datetime | None
    dropped_fields: list[str]
    honours_since: bool = False


async def put_page(
    connection: Connection, page_id: str, token_encrypted: str, name: str | None, *, now: datetime
) -> bool:
    """Add a Page, or give a known one a new token and make it active again; returns whether it is new.

    A Page that was removed begins to be expected of webhooks afresh.

    Raises:
        PageBusyError: what was mirrored of it is still being erased.

    """
    async with connection.transaction():
        before = await connection.fetchval("SELECT state FROM facebook_pages WHERE page_id = $1 FOR UPDATE", page_id)
        if await connection.fetchval("SELECT true FROM page_erasures WHERE page_id = $1 AND done_at IS NULL", page_id):
            raise PageBusyError
        row = await connection.fetchrow(
            """
            INSERT INTO facebook_pages AS p (page_id, name, token_encrypted, subscribed_at, next_sync_at)
            VALUES ($1, $2, $3, $4, $4)
            ON CONFLICT (page_id) DO UPDATE SET
                name = COALESCE(excluded.name, p.name),
                token_encrypted = excluded.token_encrypted,
                subscribed_at = CASE WHEN p.state = 'removed' THEN $4 ELSE p.subscribed_at END,
                state = 'active',
                state_reason = NULL,
                next_sync_at = $4,
                updated_at = $4
            RETURNING created_at = updated_at AS is_new
            """,
            page_id,
            name,
            token_encrypted,
            now,
        )
        if before == "removed":
            await connection.execute(
                "UPDATE page_subscriptions SET is_wanted = true, next_check_at = now() WHERE page_id = $1", page_id
            )
        await expect_again(connection, page_id)
    return bool(row and row["is_new"])


async def expect_again(connection: Connection, page_id: str) -> None:
    """Expect a Page's webhooks from now on, unless its owner ended their subscription."""
    if await connection.fetchval("SELECT true FROM page_subscriptions WHERE page_id = $1 AND NOT is_wanted", page_id):
        return
    await expect_fields(connection, page_id, EXPECTED_FIELDS)


async def list_pages(connection: Connection) -> list[asyncpg.Record]:
    """Every Page that was not removed, without its token."""
    return await connection.fetch(f"{_SHOWN} ORDER BY p.page_id")


async def show_page(connection: Connection, page_id: str) -> asyncpg.Record | None:
    """One Page, without its token; None when unknown or removed."""
    return await connection.fetchrow(f"{_SHOWN} AND p.page_id = $1", page_id)


async def read_page(connection: Connection, page_id: str) -> Page | None:
    """One Page as a sync run needs it; None when unknown or removed."""
    row = await connection.fetchrow(
        """
        SELECT
            p.page_id, p.token_encrypted, p.state, p.state_reason,
            COALESCE(p.watermark, (
                SELECT max(LEAST(r.newest_updated_time, r.first_response_at)) FROM sync_runs AS r
                WHERE r.page_id = p.page_id AND r.state = 'queued' AND r.is_deep
                AND r.newest_updated_time IS NOT NULL
            )) AS listed_to,
            p.dropped_fields,
            EXISTS (
                SELECT FROM page_capabilities AS c
                WHERE c.page_id = p.page_id AND c.name = 'since' AND c.answer = 'honoured'
            ) AS honours_since
        FROM facebook_pages AS p WHERE p.page_id = $1 AND p.state <> 'removed'
        """,
        page_id,
    )
    return Page(*row) if row else None


async def remove_page(connection: Connection, page_id: str) -> bool:
    """Forget a Page's token and stop syncing it; what was mirrored stays. Returns whether there was one."""
    async with connection.transaction():
        done = await connection.execute(
            """
            UPDATE facebook_pages
            SET state = 'removed', state_reason = 'removed by its owner', token_encrypted = NULL, updated_at = now()
            WHERE page_id = $1 AND state <> 'removed'
            """,
            page_id,
        )
        await expect_no_more(connection, page_id)
        await _cancel_all(connection, page_id, "the Page was removed")
    return bool(done != "UPDATE 0")


async def pause_page(connection: Connection, page_id: str, *, now: datetime) -> bool:
    """Stop syncing a Page by its owner's will, and expect no webhooks of it; returns whether there is one.

    What webhooks bring all the same is stored.
    """
    async with connection.transaction():
        done = await connection.execute(
            """
            UPDATE facebook_pages SET state = 'paused', state_reason = 'paused by its owner', updated_at = $2
            WHERE page_id = $1 AND state <> 'removed'
            """,
            page_id,
            now,
        )
        await expect_no_more(connection, page_id)
        await _cancel_all(connection, page_id, "the Page was paused")
    return bool(done != "UPDATE 0")


async def resume_page(connection: Connection, page_id: str, *, now: datetime) -> str | None:
    """Sync a paused Page again, at once; returns the state that it was in, None when there is no such Page.

    Only a paused one changes: one whose token is dead needs another token.
    """
    async with connection.transaction():
        before: str | None = await connection.fetchval(
            "SELECT state FROM facebook_pages WHERE page_id = $1 AND state <> 'removed' FOR UPDATE", page_id
        )
        if before == "paused":
            await connection.execute(
                """
                UPDATE facebook_pages SET state = 'active', state_reason = NULL, next_sync_at = $2, updated_at = $2
                WHERE page_id = $1
                """,
                page_id,
                now,
            )
            await connection.execute("UPDATE page_subscriptions SET next_check_at = now() WHERE page_id = $1", page_id)
            await expect_again(connection, page_id)
    return before


async def _cancel_all(connection: Connection, page_id: str, reason: str) -> None:
    open_runs = await connection.fetch(
        "SELECT id FROM sync_runs WHERE page_id = $1 AND state IN ('queued', 'running')", page_id
    )
    await cancel_runs(connection, [run["id"] for run in open_runs], reason)


async def stop_page(connection: Connection, page: Page, state: str, reason: str, *, now: datetime) -> None:
    """Stop scheduling a Page whose token is dead (`needs_reauth`) or that a person has to look at (`paused`).

    Not when it was given another token since `page` was read: what was said of the old one is not true of that.
    """
    await connection.execute(
        """
        UPDATE facebook_pages SET state = $3, state_reason = $4, updated_at = $5
        WHERE page_id = $1 AND token_encrypted = $2 AND state IN ('active', 'needs_reauth')
        """,
        page.page_id,
        page.token_encrypted,
        state,
        reason,
        now,
    )


async def mark_active(connection: Connection, page: Page, *, now: datetime) -> None:
    """Schedule a Page again whose token was taken for dead and works after all."""
    await connection.execute(
        """
        UPDATE facebook_pages SET state = 'active', state_reason = NULL, updated_at = $3
        WHERE page_id = $1 AND token_encrypted = $2 AND state = 'needs_reauth'
        """,
        page.page_id,
        page.token_encrypted,
        now,
    )


async def drop_field(connection: Connection, page_id: str, field: str) -> None:
    """Remember that Graph refuses a field for this Page."""
    await connection.execute(
        """
        UPDATE facebook_pages SET dropped_fields = array_append(dropped_fields, $2)
        WHERE page_id = $1 AND NOT $2 = ANY(dropped_fields)
        """,
        page_id,
        field,
    )
