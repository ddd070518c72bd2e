"""Messages: one row per (page_id, mid), whatever door told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sql.batches import ROWS_PER_STATEMENT, columns, first_two, passes
from sql.rows import Counts, Message
from sql.upsert_reactions import apply_reaction_snapshots, delete_reactions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sql.batches import Key
    from sql.upsert import Connection


_UNSET = Message("", "", None)
_DELETED = slice(7, 9)
_REGISTERS = slice(9, 13)
_DELIVERY = 15


def folded(rows: Iterable[Message]) -> list[Message]:
    """Join rows that tell different things of one message, so that one statement takes them.

    What tells the same thing twice is left as it is: to choose is the database's functions' affair.
    """
    by_key: dict[tuple[str, str], Message] = {}
    others = []
    for row in rows:
        key = (row.page_id, row.mid)
        known = by_key.get(key)
        joined = row if known is None else _joined(known, row)
        if joined is None:
            others.append(row)
        else:
            by_key[key] = joined
    return [*by_key.values(), *others]


def _joined(a: Message, b: Message) -> Message | None:
    """Both rows in one; None where a rule of merging would be needed."""
    if a.deleted_at is not None and b.deleted_at is not None and a[_DELETED] != b[_DELETED]:
        return None
    values: list[Any] = []
    for of_a, of_b, unset in zip(a[:_DELIVERY], b, _UNSET, strict=False):
        if of_a not in (unset, of_b) and of_b != unset:
            return None
        values.append(of_a if of_a != unset else of_b)
    if values[_DELETED.start] is not None and any(values[_REGISTERS]):
        return None
    brought_by = a if a.delivery_id is not None else b
    return Message._make([*values, brought_by.delivery_day, brought_by.delivery_id])


async def upsert_messages(
    connection: Connection, rows: list[Message], batch: int, now: datetime, expected_since: datetime | None
) -> tuple[Counts, set[tuple[str, str]], set[tuple[str, str, str]]]:
    """Merge messages, and what follows from them for their reactions.

    Returns the counts, the conversations whose last message may have changed, and whose a thread is by a message of
    it: (page_id, thread_id, psid), also where that was known.
    """
    touched: set[tuple[str, str]] = set()
    inserted: set[Key] = set()
    updated: set[Key] = set()
    repaired: set[Key] = set()
    learnt: set[tuple[str, str, str]] = set()
    for chunk in passes(folded(rows), first_two, ROWS_PER_STATEMENT):
        stored = await connection.fetch(
            """
            INSERT INTO messages AS m (
                page_id, mid, psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                seen_batch, changed_batch, updated_at
            )
            SELECT
                n.page_id, n.mid, n.psid, n.thread_id, n.direction, n.sent_at, n.sent_at_rank,
                n.deleted_at, n.deleted_at_is_estimated,
                n.original::jsonb, n.edits::jsonb, n.graph::jsonb, n.links::jsonb,
                n.webhook_seen_at, n.sync_seen_at, n.delivery_day, n.delivery_id,
                CASE WHEN n.sent_at IS NOT NULL THEN $18::bigint END, $18, $19
            FROM unnest(
                $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::smallint[],
                $8::timestamptz[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[],
                $14::timestamptz[], $15::timestamptz[], $16::date[], $17::uuid[]
            ) AS n (
                page_id, mid, psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id
            )
            ON CONFLICT (page_id, mid) DO UPDATE SET (
                psid, thread_id, direction, sent_at, sent_at_rank, deleted_at, deleted_at_is_estimated,
                original, edits, graph, links, webhook_seen_at, sync_seen_at, delivery_day, delivery_id,
                moved_from, seen_batch, changed_batch, updated_at
            ) = (
                SELECT
                    r.psid, r.thread_id, r.direction, r.sent_at, r.sent_at_rank, r.deleted_at,
                    r.deleted_at_is_estimated, r.original, r.edits, r.graph, r.links, r.webhook_seen_at,
                    r.sync_seen_at, r.delivery_day, r.delivery_id, r.moved_from, r.seen_batch, r.changed_batch,
                    r.updated_at
                FROM merge_message(m, excluded) AS r
            )
            WHERE merge_message(m, excluded) IS DISTINCT FROM m
            RETURNING
                m.page_id, m.mid, m.psid, m.moved_from, m.thread_id, m.sent_at,
                m.seen_batch = $18 AS is_inserted, m.changed_batch = $18 AS is_changed,
                m.deleted_at IS NOT NULL AS is_deleted, m.graph ? 'reactions' AS has_snapshot
            """,
            *columns(chunk),
            batch,
            now,
        )
        emptied: list[tuple[str, str]] = []
        snapshots: list[tuple[str, str]] = []
        for page_id, mid, psid, moved_from, thread_id, sent_at, *flags in stored:
            is_inserted, is_changed, is_deleted, has_snapshot = flags
            if is_changed and sent_at is not None:
                touched.add((page_id, psid))
                if moved_from is not None and moved_from != thread_id:
                    touched.add((page_id, moved_from))
                (inserted if is_inserted else updated).add((page_id, mid))
                if is_inserted and expected_since is not None and sent_at >= expected_since:
                    repaired.add((page_id, mid))
            if is_deleted:
                emptied.append((page_id, mid))
            elif has_snapshot:
                snapshots.append((page_id, mid))
            if thread_id is not None and thread_id != psid:
                learnt.add((page_id, thread_id, psid))
        if emptied:
            await delete_reactions(connection, emptied)
        if snapshots:
            await apply_reaction_snapshots(connection, snapshots, now)
    updated -= inserted
    total = len({first_two(m) for m in rows if m.sent_at is not None or m.edits or m.deleted_at})
    counts = Counts(len(inserted), len(updated), max(total - len(inserted) - len(updated), 0), len(repaired))
    return counts, touched, learnt
