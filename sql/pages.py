"""Pages: `facebook_pages`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sql.loss import expect_fields, expect_no_more

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

SHOWN = """
    page_id, name, state, state_reason, subscribed_at, watermark, last_synced_at, next_sync_at, created_at, updated_at
"""


# the fields of Meta's that bring messages
EXPECTED_FIELDS = ("messages", "message_echoes", "messaging_postbacks")


class Page(NamedTuple):
    """A Page as a sync run needs it."""

    page_id: str
    token_encrypted: str
    state: str
    subscribed_at: datetime
    watermark: datetime | None
    dropped_fields: list[str]


async def put_page(
    connection: Connection, page_id: str, token_encrypted: str, name: str | None, *, now: datetime
) -> bool:
    """Add a Page, or give a known one a new token and make it active again; returns whether it is new.

    A Page that was removed begins to be expected of webhooks afresh.
    """
    async with connection.transaction():
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
        await expect_fields(connection, page_id, EXPECTED_FIELDS)
    return bool(row and row["is_new"])


async def list_pages(connection: Connection) -> list[asyncpg.Record]:
    """Every Page that was not removed, without its token."""
    return await connection.fetch(f"SELECT {SHOWN} FROM facebook_pages WHERE state <> 'removed' ORDER BY page_id")


async def show_page(connection: Connection, page_id: str) -> asyncpg.Record | None:
    """One Page, without its token; None when unknown or removed."""
    return await connection.fetchrow(
        f"SELECT {SHOWN} FROM facebook_pages WHERE page_id = $1 AND state <> 'removed'", page_id
    )


async def read_page(connection: Connection, page_id: str) -> Page | None:
    """One Page as a sync run needs it; None when unknown or removed."""
    row = await connection.fetchrow(
        """
        SELECT page_id, token_encrypted, state, subscribed_at, watermark, dropped_fields
        FROM facebook_pages WHERE page_id = $1 AND state <> 'removed'
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
        await connection.execute(
            """
            UPDATE sync_runs SET state = 'cancelled', finished_at = now(), error = 'the Page was removed'
            WHERE page_id = $1 AND state IN ('queued', 'running')
            """,
            page_id,
        )
    return bool(done != "UPDATE 0")


async def mark_needs_reauth(connection: Connection, page_id: str, reason: str, *, now: datetime) -> None:
    """Stop scheduling a Page whose token is dead, until it gets a new one."""
    await connection.execute(
        """
        UPDATE facebook_pages SET state = 'needs_reauth', state_reason = $2, updated_at = $3
        WHERE page_id = $1 AND state = 'active'
        """,
        page_id,
        reason,
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
