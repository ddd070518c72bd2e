"""What sync runs repaired: messages that a webhook missed and a run brought.

Whether one is missed is known only 15 minutes after it was sent. So what a run brings first, of what a webhook should
have brought, counts as repaired at once, and is decided then: a webhook that came in time takes it back. One may also
wait in a spool, so nothing is decided earlier than 15 minutes after it was brought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.loss import CAME_AS_EVENT, IS_EXPECTED, MISSED_AFTER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sql.rows import Message
    from sql.upsert import Connection


async def note_brought(
    connection: Connection, page_id: str, run_id: int, messages: Iterable[Message], *, observed_at: datetime
) -> int:
    """Note which of these messages, just stored, a run brought and a webhook should have; returns how many.

    Must be called in the transaction that stored them. What was sent after `observed_at`, by Graph's clock, may well be
    on its way.
    """
    seen = {message.mid: message.sync_seen_at for message in messages if message.sync_seen_at is not None}
    done = await connection.execute(
        f"""
        INSERT INTO brought_messages (page_id, mid, run_id, was_just_sent, decided_at)
        SELECT m.page_id, m.mid, $2, m.sent_at >= $5, GREATEST(m.sent_at, now()) + $6::interval
        FROM unnest($3::text[], $4::timestamptz[]) AS n (mid, seen_at)
        JOIN messages AS m ON m.page_id = $1 AND m.mid = n.mid
        WHERE m.sync_seen_at = n.seen_at AND m.webhook_seen_at IS NULL
        AND {IS_EXPECTED} AND NOT {CAME_AS_EVENT}
        ON CONFLICT (page_id, mid) DO NOTHING
        """,
        page_id,
        run_id,
        list(seen),
        list(seen.values()),
        observed_at,
        MISSED_AFTER,
    )
    return int(done.rpartition(" ")[2])


async def decide_brought(connection: Connection) -> int:
    """Decide of what runs brought whether it was missed, once that can be known; returns how many messages were.

    Those that were not no longer count as repaired. Of an erased one nothing is known any more: it is left as it was.
    """
    return int(
        await connection.fetchval(
            f"""
            WITH due AS (
                -- in one order, so that whoever decides at the same moment waits for the other
                SELECT b.page_id, b.mid FROM brought_messages AS b WHERE b.decided_at <= now()
                ORDER BY b.decided_at, b.page_id, b.mid
                FOR UPDATE
            ),
            decided AS (
                DELETE FROM brought_messages AS b USING due WHERE b.page_id = due.page_id AND b.mid = due.mid
                RETURNING b.page_id, b.mid, b.run_id
            ),
            found AS (
                SELECT
                    d.run_id,
                    (m.webhook_seen_at IS NULL OR m.webhook_seen_at > m.sent_at + $1::interval)
                        AND NOT {CAME_AS_EVENT} AS was_missed
                FROM decided AS d JOIN messages AS m ON m.page_id = d.page_id AND m.mid = d.mid
                WHERE m.sent_at IS NOT NULL
            ),
            corrected AS (
                UPDATE sync_runs AS r SET repaired = r.repaired - f.n
                FROM (SELECT run_id, count(*) AS n FROM found WHERE NOT was_missed GROUP BY run_id) AS f
                WHERE r.id = f.run_id
            )
            SELECT count(*) FROM found WHERE was_missed
            """,
            MISSED_AFTER,
        )
    )
