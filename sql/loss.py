"""What webhooks missed, when, and how late it was repaired.

A message is expected by webhook when it was sent while the Page was subscribed, by our will, to the field that brings
it: `messages` for what persons write, `message_echoes` for what the Page does. It is missed when no webhook brought it
within 15 minutes of its being sent; one that comes later still counts as missed, and as late. Messages younger than
that are undecided, and part of neither. It is repaired when a sync run brought it first. A postback without mid has
come, as an event, when Graph shows its title as a message: that one is not missed (Graph sheet, 2.4).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

MISSED_AFTER = timedelta(minutes=15)
OUTAGE_FROM = 3  # consecutive missed messages; fewer are single losses


async def expect_fields(connection: Connection, page_id: str, fields: Iterable[str]) -> None:
    """Expect these fields' webhooks of a Page from now on; what is expected already goes on."""
    await connection.execute(
        """
        INSERT INTO webhook_expectations (page_id, field, started_at)
        SELECT $1, f.field, now() FROM unnest($2::text[]) AS f (field)
        ON CONFLICT (page_id, field) WHERE ended_at IS NULL DO NOTHING
        """,
        page_id,
        sorted(set(fields)),
    )


async def expect_no_more(connection: Connection, page_id: str, fields: Iterable[str] | None = None) -> None:
    """Expect these fields' webhooks, or any, of a Page no more."""
    await connection.execute(
        """
        UPDATE webhook_expectations SET ended_at = GREATEST(now(), started_at)
        WHERE page_id = $1 AND ended_at IS NULL AND ($2::text[] IS NULL OR field = ANY($2))
        """,
        page_id,
        sorted(set(fields)) if fields is not None else None,
    )


# whether a webhook was to bring the message m
IS_EXPECTED = """
    EXISTS (
        SELECT FROM webhook_expectations AS w
        WHERE w.page_id = m.page_id
        AND w.field = CASE m.direction WHEN 'outbound' THEN 'message_echoes' ELSE 'messages' END
        AND m.sent_at >= w.started_at AND (w.ended_at IS NULL OR m.sent_at < w.ended_at)
    )
"""
# whether the message m came as an event that has no mid
CAME_AS_EVENT = """
    (
        m.webhook_seen_at IS NULL AND m.direction = 'inbound' AND EXISTS (
            SELECT FROM conversation_events AS e
            WHERE e.page_id = m.page_id AND e.psid = m.psid AND e.kind = 'postback'
            AND e.occurred_at BETWEEN m.sent_at - interval '2 s' AND m.sent_at + interval '3 s'
            AND e.payload #>> '{postback,title}' = m.text
        )
    )
"""
# the expected messages of [$1, $2), of the Page $3 or of all; $4 is now, $5 the time after which one is missed
_EXPECTED = f"""
    SELECT
        m.page_id, m.direction, m.sent_at, m.mid, m.webhook_seen_at,
        CASE WHEN m.first_seen_via = 'sync' THEN m.sync_seen_at END AS brought_at,
        m.webhook_seen_at <= m.sent_at + $5::interval AS in_time,
        (m.webhook_seen_at IS NULL OR m.webhook_seen_at > m.sent_at + $5::interval)
            AND m.sent_at + $5::interval <= $4 AND NOT {CAME_AS_EVENT} AS missed
    FROM messages AS m
    WHERE m.sent_at >= $1 AND m.sent_at < $2 AND ($3::text IS NULL OR m.page_id = $3) AND {IS_EXPECTED}
"""


_LOSS_PERCENT = """
    round(
        100.0 * count(*) FILTER (WHERE e.missed)
        / NULLIF(count(*) FILTER (WHERE e.missed OR e.sent_at + $5::interval <= $4), 0), 3
    )::double precision
"""


async def loss_by_hour(
    connection: Connection, *, since: datetime, until: datetime, page_id: str | None, now: datetime
) -> list[asyncpg.Record]:
    """Per Page and hour of [since, until): what was sent, came by webhook, was missed and repaired, and how late.

    Lateness is in seconds: `[p50, p95, max]`, NULL where there is none. `loss_percent` is of what is decided.
    """
    return await connection.fetch(
        f"""
        WITH e AS MATERIALIZED ({_EXPECTED})
        SELECT
            e.page_id,
            date_trunc('hour', e.sent_at, 'UTC') AS hour,
            count(*) AS sent,
            count(*) FILTER (WHERE e.direction = 'inbound') AS sent_inbound,
            count(*) FILTER (WHERE e.direction = 'outbound') AS sent_outbound,
            count(*) FILTER (WHERE e.in_time) AS by_webhook,
            count(*) FILTER (WHERE e.missed) AS missed,
            count(*) FILTER (WHERE e.missed AND e.brought_at IS NOT NULL) AS repaired,
            count(*) FILTER (WHERE e.missed AND e.webhook_seen_at IS NOT NULL) AS late,
            count(*) FILTER (WHERE NOT e.missed AND e.webhook_seen_at IS NULL AND e.sent_at + $5::interval > $4)
                AS undecided,
            {_LOSS_PERCENT} AS loss_percent,
            percentile_cont(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (
                ORDER BY GREATEST(extract(epoch FROM e.webhook_seen_at - e.sent_at)::double precision, 0)
            ) FILTER (WHERE e.webhook_seen_at IS NOT NULL) AS webhook_lateness,
            percentile_cont(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (
                ORDER BY GREATEST(extract(epoch FROM e.brought_at - e.sent_at)::double precision, 0)
            ) FILTER (WHERE e.missed AND e.brought_at IS NOT NULL) AS repair_lateness
        FROM e
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        since,
        until,
        page_id,
        now,
        MISSED_AFTER,
    )


async def loss_since(
    connection: Connection, since: datetime, *, page_id: str | None = None, now: datetime
) -> list[asyncpg.Record]:
    """Per Page, or of one: what was sent since then, what was missed of it and repaired, and which share."""
    return await connection.fetch(
        f"""
        WITH e AS MATERIALIZED ({_EXPECTED})
        SELECT
            e.page_id,
            count(*) AS sent,
            count(*) FILTER (WHERE e.missed) AS missed,
            count(*) FILTER (WHERE e.missed AND e.brought_at IS NOT NULL) AS repaired,
            {_LOSS_PERCENT} AS loss_percent
        FROM e
        GROUP BY e.page_id
        """,
        since,
        now,
        page_id,
        now,
        MISSED_AFTER,
    )


async def outages(
    connection: Connection, *, since: datetime, until: datetime, page_id: str | None, now: datetime
) -> list[asyncpg.Record]:
    """Windows of [since, until) in which a Page's messages were missed one after the other, newest first."""
    return await connection.fetch(
        f"""
        WITH e AS MATERIALIZED ({_EXPECTED}),
        numbered AS (
            SELECT
                e.*,
                row_number() OVER (PARTITION BY e.page_id ORDER BY e.sent_at, e.mid)
                - row_number() OVER (PARTITION BY e.page_id, e.missed ORDER BY e.sent_at, e.mid) AS island
            FROM e WHERE e.missed OR e.webhook_seen_at IS NOT NULL
        )
        SELECT
            n.page_id, min(n.sent_at) AS began_at, max(n.sent_at) AS ended_at, count(*) AS missed,
            count(n.brought_at) AS repaired, max(n.brought_at) AS repaired_at
        FROM numbered AS n WHERE n.missed
        GROUP BY n.page_id, n.island HAVING count(*) >= $6
        ORDER BY began_at DESC, n.page_id
        """,
        since,
        until,
        page_id,
        now,
        MISSED_AFTER,
        OUTAGE_FROM,
    )
