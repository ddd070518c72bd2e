"""Events: every other item, kept whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.batches import ROWS_PER_STATEMENT, first_two, numbered
from sql.rows import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sql.rows import Event
    from sql.upsert import Connection


async def upsert_events(connection: Connection, rows: list[Event], batch: int, now: datetime) -> Counts:
    """Merge events: field by field, present beats absent, ties by the greater value."""
    [(inserted, updated, _)] = await connection.fetch(
        "SELECT u.inserted, u.updated, note_changes(u.changed) FROM upsert_events($1::event_row[], $2, $3) AS u",
        numbered(rows, first_two, ROWS_PER_STATEMENT),
        batch,
        now,
    )
    return Counts(inserted, updated, count_events(rows) - inserted - updated)


def count_events(rows: Iterable[Event]) -> int:
    """Count the events that rows tell of."""
    return len({first_two(e) for e in rows})
