"""Reactions: one row per (page_id, mid, actor). Their message's row is locked before, so it guards them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.batches import ROWS_PER_STATEMENT, columns, first_three, passes

if TYPE_CHECKING:
    from datetime import datetime

    from sql.rows import Reaction
    from sql.upsert import Connection


async def upsert_reactions(connection: Connection, rows: list[Reaction], now: datetime) -> None:
    """Merge reactions: the newest time wins, then the removal, then the greater emoji.

    Nothing is stored on an unsent message, nor below the time at which Graph's own list was read.
    """
    for chunk in passes(rows, first_three, ROWS_PER_STATEMENT):
        await connection.execute(
            """
            INSERT INTO message_reactions AS r (
                page_id, mid, actor, reaction, emoji, is_removed, reacted_at, reacted_at_is_estimated,
                delivery_day, delivery_id, updated_at
            )
            SELECT n.*, $11
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::timestamptz[],
                $8::boolean[], $9::date[], $10::uuid[]
            ) AS n (
                page_id, mid, actor, reaction, emoji, is_removed, reacted_at, reacted_at_is_estimated,
                delivery_day, delivery_id
            )
            JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
            WHERE m.deleted_at IS NULL
            AND (
                m.reactions_observed_at IS NULL
                OR (NOT n.reacted_at_is_estimated AND n.reacted_at >= m.reactions_observed_at)
            )
            ORDER BY n.page_id, n.mid, n.actor
            ON CONFLICT (page_id, mid, actor) DO UPDATE SET
                reaction = excluded.reaction,
                emoji = excluded.emoji,
                is_removed = excluded.is_removed,
                reacted_at = excluded.reacted_at,
                reacted_at_is_estimated = excluded.reacted_at_is_estimated,
                delivery_day = excluded.delivery_day,
                delivery_id = excluded.delivery_id,
                updated_at = excluded.updated_at
            WHERE r.reacted_at IS NULL OR (
                event_clock(excluded.reacted_at, excluded.reacted_at_is_estimated), excluded.is_removed,
                COALESCE(excluded.emoji, '') COLLATE "C", COALESCE(excluded.reaction, '') COLLATE "C"
            ) > (
                event_clock(r.reacted_at, r.reacted_at_is_estimated), r.is_removed,
                COALESCE(r.emoji, '') COLLATE "C", COALESCE(r.reaction, '') COLLATE "C"
            )
            """,
            *columns(chunk),
            now,
        )


async def delete_reactions(connection: Connection, keys: list[tuple[str, str]]) -> None:
    """Take away the reactions of messages that were unsent."""
    await connection.execute(
        """
        DELETE FROM message_reactions AS r
        USING unnest($1::text[], $2::text[]) AS n (page_id, mid)
        WHERE r.page_id = n.page_id AND r.mid = n.mid
        """,
        *columns(keys),
    )


async def apply_reaction_snapshots(connection: Connection, keys: list[tuple[str, str]], now: datetime) -> None:
    """Let Graph's list of reactions replace what is older than it.

    The messages' rows are locked by now, so their `reactions_observed_at` stands still.
    """
    await connection.execute(
        """
        DELETE FROM message_reactions AS r
        USING messages AS m, unnest($1::text[], $2::text[]) AS n (page_id, mid)
        WHERE m.page_id = n.page_id AND m.mid = n.mid AND r.page_id = n.page_id AND r.mid = n.mid
        AND (
            r.reacted_at_is_estimated
            OR r.reacted_at < m.reactions_observed_at
            OR (
                r.reacted_at IS NULL
                AND NOT m.graph -> 'reactions' -> 1 @> jsonb_build_array(
                    jsonb_build_array(r.actor, COALESCE(r.reaction, ''), COALESCE(r.emoji, ''))
                )
            )
        )
        """,
        *columns(keys),
    )
    await connection.execute(
        """
        INSERT INTO message_reactions (page_id, mid, actor, reaction, emoji, is_removed, updated_at)
        SELECT m.page_id, m.mid, s.value ->> 0, NULLIF(s.value ->> 1, ''), NULLIF(s.value ->> 2, ''), false, $3
        FROM unnest($1::text[], $2::text[]) AS n (page_id, mid)
        JOIN messages AS m ON m.page_id = n.page_id AND m.mid = n.mid
        CROSS JOIN LATERAL jsonb_array_elements(m.graph -> 'reactions' -> 1) AS s (value)
        ORDER BY m.page_id, m.mid, s.value ->> 0
        ON CONFLICT (page_id, mid, actor) DO NOTHING
        """,
        *columns(keys),
        now,
    )
