"""What an audit makes of conversations that webhooks alone told of, and that Graph's list does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection


async def mark_unlisted(connection: Connection, page_id: str, listed_from: datetime) -> int:
    """Mark the messages of conversations of which no thread is known; returns how many lack for the second time.

    To be asked in the transaction that concludes a list which came to its end; `listed_from` is when it began, by
    Graph's clock. A conversation that was active since may have jumped over the list's cursor, so it is left for the
    next audit. While a thread can't be read of which nobody knows whose it is, it may be any of these: nothing is
    marked. As in a thread's listing, what was unsent is not looked for, nor what Graph may never show.

    Nothing is deleted: Graph lists no folder but the inbox (Graph sheet, 1.1), so it may still be there.
    """
    return int(
        await connection.fetchval(
            """
            WITH unlisted AS (
                SELECT c.psid FROM conversations AS c
                WHERE c.page_id = $1 AND c.platform = 'messenger' AND c.last_message_at < $2
                AND NOT EXISTS (
                    SELECT FROM conversation_threads AS t WHERE t.page_id = $1 AND t.psid = c.psid
                )
                AND NOT EXISTS (
                    SELECT FROM conversation_threads AS t WHERE t.page_id = $1 AND t.psid = t.thread_id
                    AND (t.sync_error IS NOT NULL OR t.audit_state = 'unverifiable')
                )
            ),
            absent AS (
                SELECT m.mid FROM unlisted AS u JOIN messages AS m ON m.page_id = $1 AND m.psid = u.psid
                WHERE m.sent_at < $2 AND m.deleted_at IS NULL
                AND (m.sync_seen_at IS NOT NULL OR NOT COALESCE(m.original ?| ARRAY['postback', 'hop_context'], false))
            ),
            marked AS (
                UPDATE messages AS m SET
                    absent_since = COALESCE(m.absent_since, $2),
                    missing_in_graph_since = COALESCE(m.missing_in_graph_since, m.absent_since),
                    updated_at = CASE
                        WHEN m.missing_in_graph_since IS NULL AND m.absent_since IS NOT NULL THEN now()
                        ELSE m.updated_at
                    END
                FROM absent AS a
                WHERE m.page_id = $1 AND m.mid = a.mid
                RETURNING m.page_id, m.mid, m.psid, m.missing_in_graph_since, m.updated_at = now() AS is_changed
            )
            SELECT
                count(missing_in_graph_since),
                note_changes(array_agg(ROW('message', page_id, mid, psid)::change_row) FILTER (WHERE is_changed))
            FROM marked
            """,
            page_id,
            listed_from,
        )
    )
