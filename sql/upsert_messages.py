"""Messages: one row per (page_id, mid), whatever door told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sql.batches import ROWS_PER_STATEMENT, first_two, numbered
from sql.rows import Counts, Message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

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


class Merged(NamedTuple):
    """What came of messages.

    `touched`: the conversations whose last message may have changed, (page_id, psid). `learnt`: whose a thread is by a
    message of it, (page_id, thread_id, psid), also where that was known.
    """

    counts: Counts
    touched: set[tuple[str, str]]
    learnt: set[tuple[str, str, str]]


async def upsert_messages(connection: Connection, rows: list[Message], batch: int, now: datetime) -> Merged:
    """Merge messages, and what follows from them for their reactions."""
    [(inserted, updated, touched, learnt, _)] = await connection.fetch(
        """
        SELECT u.inserted, u.updated, u.touched, u.learnt, note_changes(u.changed) AS noted
        FROM upsert_messages($1::message_row[], $2, $3) AS u
        """,
        message_chunks(rows),
        batch,
        now,
    )
    unchanged = max(count_messages(rows) - inserted - updated, 0)
    return Merged(
        Counts(inserted, updated, unchanged),
        {(page_id, psid) for page_id, psid in touched or ()},
        {(page_id, thread_id, psid) for page_id, thread_id, psid in learnt or ()},
    )


def message_chunks(rows: Iterable[Message]) -> list[tuple[Any, ...]]:
    """Prepare rows for the database's function."""
    return numbered(folded(rows), first_two, ROWS_PER_STATEMENT)


def count_messages(rows: Iterable[Message]) -> int:
    """Count the messages that rows tell something of: not those that they only refer to."""
    return len({first_two(m) for m in rows if m.sent_at is not None or m.edits or m.deleted_at})
