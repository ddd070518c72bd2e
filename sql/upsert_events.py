"""Events: every other item, kept whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.batches import ROWS_PER_STATEMENT, columns, first_two, passes
from sql.rows import Counts

if TYPE_CHECKING:
    from datetime import datetime

    from sql.batches import Key
    from sql.rows import Event
    from sql.upsert import Connection


async def upsert_events(connection: Connection, rows: list[Event], batch: int, now: datetime) -> Counts:
    """Merge events: field by field, present beats absent, ties by the greater value."""
    inserted: set[Key] = set()
    updated: set[Key] = set()
    for chunk in passes(rows, first_two, ROWS_PER_STATEMENT):
        stored = await connection.fetch(
            """
            INSERT INTO conversation_events AS e (
                page_id, event_key, psid, kind, via, mid, occurred_at, occurred_at_is_estimated, payload,
                received_at, delivery_day, delivery_id, seen_batch, updated_at
            )
            SELECT
                n.page_id, n.event_key, n.psid, n.kind, n.via, n.mid, n.occurred_at, n.is_estimated, n.payload::jsonb,
                n.received_at, n.delivery_day, n.delivery_id, $13, $14
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                $8::boolean[], $9::text[], $10::timestamptz[], $11::date[], $12::uuid[]
            ) AS n (
                page_id, event_key, psid, kind, via, mid, occurred_at, is_estimated, payload,
                received_at, delivery_day, delivery_id
            )
            ON CONFLICT (page_id, event_key) DO UPDATE SET
                psid = GREATEST(e.psid, excluded.psid),
                kind = named_kind(e.kind, excluded.kind),
                via = LEAST(e.via, excluded.via),
                mid = GREATEST(e.mid, excluded.mid),
                occurred_at = CASE
                    WHEN (excluded.occurred_at_is_estimated, excluded.occurred_at)
                        < (e.occurred_at_is_estimated, e.occurred_at) THEN excluded.occurred_at
                    ELSE e.occurred_at
                END,
                occurred_at_is_estimated = e.occurred_at_is_estimated AND excluded.occurred_at_is_estimated,
                payload = merge_fields(e.payload, excluded.payload),
                updated_at = excluded.updated_at
            WHERE (GREATEST(e.psid, excluded.psid), named_kind(e.kind, excluded.kind), LEAST(e.via, excluded.via))
                IS DISTINCT FROM (e.psid, e.kind, e.via)
            OR GREATEST(e.mid, excluded.mid) IS DISTINCT FROM e.mid
            OR (excluded.occurred_at_is_estimated, excluded.occurred_at) < (e.occurred_at_is_estimated, e.occurred_at)
            OR merge_fields(e.payload, excluded.payload) IS DISTINCT FROM e.payload
            RETURNING e.page_id, e.event_key, e.seen_batch = $13 AS is_inserted
            """,
            *columns(chunk),
            batch,
            now,
        )
        for page_id, event_key, is_inserted in stored:
            (inserted if is_inserted else updated).add((page_id, event_key))
    updated -= inserted
    total = len({first_two(e) for e in rows})
    return Counts(len(inserted), len(updated), total - len(inserted) - len(updated))
