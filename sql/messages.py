"""Reading messages back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

# what an echo of the Page's inbox names as its app: Meta prints the first of them with one digit more and one less, the
# last is Instagram's (webhooks sheet, 5.2)
INBOX_APPS = ("263902037430900", "26390203743090", "1217981644879628")


def _shown(inbox: str, app: str) -> str:
    """What is told of a message `m`; `seen` are its conversation's watermarks. Both are names of parameters."""
    return f"""
        m.page_id, m.mid, m.psid, m.thread_id, m.direction,
        CASE
            WHEN m.direction <> 'outbound' OR m.direction IS NULL THEN NULL
            WHEN m.app_id = ANY({inbox}::text[]) THEN 'page_inbox'
            WHEN m.app_id = {app}::text THEN 'our_app'
            WHEN {app}::text IS NOT NULL AND m.app_id IS NOT NULL THEN 'other_app'
            ELSE 'unknown'
        END AS origin,
        m.app_id, m.sent_at, m.text, m.attachments, m.reply_to,
        m.edits IS NOT NULL AS is_edited,
        CASE WHEN m.edits IS NOT NULL THEN m.original ->> 'text' END AS original_text,
        (
            SELECT COALESCE(
                jsonb_agg(
                    jsonb_build_object(
                        'num_edit', e.key::bigint,
                        'text', e.value -> 1,
                        'edited_at', {_written("to_timestamp(abs((e.value ->> 0)::bigint) / 1000.0)")}
                    )
                    ORDER BY e.key::bigint
                ),
                '[]'
            )
            FROM jsonb_each(m.edits) AS e (key, value)
        ) AS edits,
        (
            SELECT COALESCE(
                jsonb_agg(
                    jsonb_build_object(
                        'actor', r.actor, 'reaction', r.reaction, 'emoji', r.emoji,
                        'reacted_at', {_written("r.reacted_at")}
                    )
                    ORDER BY r.actor
                ),
                '[]'
            )
            FROM message_reactions AS r WHERE r.page_id = m.page_id AND r.mid = m.mid AND NOT r.is_removed
        ) AS reactions,
        CASE WHEN m.direction = 'outbound' THEN COALESCE(m.sent_at <= seen.delivered, false) END AS is_delivered,
        CASE WHEN m.direction = 'outbound' THEN COALESCE(m.sent_at <= seen.read, false) END AS is_read,
        m.is_deleted, m.deleted_at, m.missing_in_graph_since, m.first_seen_via, m.first_seen_at,
        m.webhook_seen_at, m.sync_seen_at,
        extract(epoch FROM m.first_seen_at - m.sent_at)::double precision AS lateness_seconds,
        m.updated_at
    """


async def list_messages(
    connection: Connection,
    page_id: str,
    psid: str,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
    app_id: str | None = None,
) -> list[asyncpg.Record]:
    """A conversation's messages with their reactions and edits, newest first, after (sent_at, mid).

    `app_id` is our app's: without it nobody can tell which of the Page's messages are ours. A receipt tells up to
    when all messages of the Page were delivered or read; what was read was delivered. `lateness_seconds` is how long
    after it was sent a message was first seen here.
    """
    return await connection.fetch(
        f"""
        SELECT {_shown("$4", "$5")}
        FROM messages AS m
        LEFT JOIN LATERAL (
            SELECT GREATEST(c.delivered_watermark, c.read_watermark) AS delivered, c.read_watermark AS read
            FROM conversations AS c WHERE c.page_id = $1 AND c.psid = $2
        ) AS seen ON true
        WHERE m.page_id = $1 AND m.psid = $2 AND m.sent_at IS NOT NULL
        {"AND (m.sent_at, m.mid) < ($6, $7)" if after else ""}
        ORDER BY m.sent_at DESC, m.mid DESC
        LIMIT $3
        """,
        page_id,
        psid,
        limit,
        list(INBOX_APPS),
        app_id,
        *(after or ()),
    )


async def show_messages(
    connection: Connection, keys: Collection[tuple[str, str]], *, app_id: str | None = None
) -> dict[tuple[str, str], asyncpg.Record]:
    """Messages by (page_id, mid), as `list_messages` tells them; without those that there are none of."""
    rows = await connection.fetch(
        f"""
        SELECT {_shown("$3", "$4")}
        FROM unnest($1::text[], $2::text[]) AS n (page_id, mid)
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        LEFT JOIN LATERAL (
            SELECT GREATEST(c.delivered_watermark, c.read_watermark) AS delivered, c.read_watermark AS read
            FROM conversations AS c WHERE c.page_id = m.page_id AND c.psid = m.psid
        ) AS seen ON true
        WHERE m.sent_at IS NOT NULL
        """,
        [page_id for page_id, _ in keys],
        [mid for _, mid in keys],
        list(INBOX_APPS),
        app_id,
    )
    return {(row["page_id"], row["mid"]): row for row in rows}


def _written(time: str) -> str:
    """Write a time inside JSON as those outside of it are, whatever the session's time zone."""
    return f"""to_char({time} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
