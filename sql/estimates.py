"""What is known of how much a backfill has left to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from sql.upsert import Connection


class Left(NamedTuple):
    """What one Page's run of a backfill has left, by what is stored.

    `threads` are those that the list has yet to show, or, once it `is_listed`, those to read on with; `pages` is how
    many pages of older messages they have, of which `unread` threads were never read to their beginning, so that only
    Graph's own estimate tells how long they are. The Page's list `is_known` when a walk has come to its end.
    `calls_left` are those of Meta's budget of any 24 hours, `daily_calls`; both None until Meta has told.
    """

    page_id: str
    is_known: bool
    is_listed: bool
    threads: int
    pages: int
    unread: int
    daily_calls: int | None
    calls_left: int | None
    waits: timedelta


async def left_of_backfill(connection: Connection, backfill_id: UUID, *, rows: int, nested: int) -> list[Left]:
    """What each run of a backfill has left that has not ended, by Page.

    Graph gives `rows` conversations or messages a call, and `nested` messages with each listed conversation.
    """
    found = await connection.fetch(
        """
        WITH r AS (
            SELECT
                r.id, r.page_id, r.since, r.conversations, p.watermark IS NOT NULL AS is_known,
                COALESCE((r.checkpoint #>> '{list,is_done}')::boolean, false) AS is_listed,
                p.daily_call_budget, p.calls_last_day
            FROM sync_runs AS r JOIN facebook_pages AS p ON p.page_id = r.page_id
            WHERE r.backfill_ids @> ARRAY[$1::uuid] AND r.state IN ('queued', 'running')
        )
        SELECT
            r.page_id, r.is_known, r.is_listed,
            CASE WHEN r.is_listed THEN t.threads ELSE GREATEST(t.threads - r.conversations, 0) END,
            t.pages, t.unread, r.daily_call_budget, GREATEST(r.daily_call_budget - r.calls_last_day, 0),
            COALESCE((
                SELECT max(d.until) - now() FROM cooldowns AS d
                WHERE d.scope IN ('app', 'page:' || r.page_id) AND d.until > now()
            ), interval '0')
        FROM r CROSS JOIN LATERAL (
            SELECT
                count(*) AS threads,
                count(*) FILTER (WHERE n.is_unread) AS unread,
                COALESCE(sum(GREATEST(
                    ceil((n.messages - $3::integer)::numeric / $2::integer), CASE WHEN r.is_listed THEN 1 ELSE 0 END
                )), 0)::integer AS pages
            FROM (
                SELECT
                    t.synced_to IS NULL AND COALESCE(c.message_count, 0) > s.stored AS is_unread,
                    GREATEST(s.stored, CASE WHEN t.synced_to IS NULL THEN c.message_count END) AS messages
                FROM conversation_threads AS t
                JOIN conversations AS c ON c.page_id = t.page_id AND c.psid = t.psid
                LEFT JOIN unfinished_threads AS u
                    ON u.page_id = t.page_id AND u.run_id = r.id AND u.thread_id = t.thread_id
                CROSS JOIN LATERAL (
                    SELECT count(*) AS stored FROM messages AS m
                    WHERE m.page_id = t.page_id AND m.psid = t.psid AND m.sent_at >= r.since
                ) AS s
                WHERE t.page_id = r.page_id AND CASE
                    WHEN r.is_listed THEN u.thread_id IS NOT NULL
                    ELSE COALESCE(c.updated_time, c.last_message_at) >= r.since
                END
            ) AS n
        ) AS t
        ORDER BY r.page_id
        """,
        backfill_id,
        rows,
        nested,
    )
    return [Left(*row) for row in found]
