"""Cooldowns: until when Graph is not to be called for a Page, or for any; every process obeys, also after a restart."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection

APP = "app"
# a limit that is hit again so soon after a pause was not over: the next pause is longer
REPEATED_WITHIN = timedelta(minutes=10)

# whether Graph may be called for the Page `p`; part of every claim
IS_OPEN = """
    NOT EXISTS (SELECT FROM cooldowns AS c WHERE c.scope IN ('app', 'page:' || p.page_id) AND c.until > now())
"""


def page_scope(page_id: str) -> str:
    """Name the scope of one Page."""
    return f"page:{page_id}"


async def cool_down(
    connection: Connection, scope: str, reason: str, *, wait: timedelta | None, first: timedelta, longest: timedelta
) -> datetime:
    """Make no calls in `scope` for a while; returns until when, by Postgres' clock. Never shortens a pause.

    `wait` is what Meta asked for. Without it the pause is `first`, twice as long each time in a row, up to `longest`.
    """
    until: datetime = await connection.fetchval(
        """
        INSERT INTO cooldowns AS c (scope, until, reason)
        VALUES ($1, now() + COALESCE($3::interval, $4::interval), $2)
        ON CONFLICT (scope) DO UPDATE SET
            repeated = CASE WHEN c.until > now() - $6::interval THEN c.repeated + 1 ELSE 0 END,
            until = GREATEST(c.until, now() + COALESCE(
                $3::interval,
                CASE
                    WHEN c.until > now() - $6::interval
                        THEN LEAST($4::interval * power(2, LEAST(c.repeated + 1, 20)), $5::interval)
                    ELSE $4::interval
                END
            )),
            reason = excluded.reason
        RETURNING until
        """,
        scope,
        reason,
        wait,
        first,
        longest,
        REPEATED_WITHIN,
    )
    return until
