"""One pass over a spool file from which nothing can be removed, because its disk is full.

To take a row out of a file takes room, too. So what is done is remembered in memory until all of the file is done and
can be removed as a whole. Should the process die first, the next one does it all again, which is harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.spool_row import instant, take

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sql.spool_row import Spooled


class SpoolPass:
    """Where the pass stands, and what has to be tried again at its end."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._after = self._read_to = 0
        self._later: dict[UUID, Spooled] = {}

    def next(self, *, limit: int, max_bytes: int) -> list[Spooled]:
        """Read the deliveries whose turn it is; those that could not be written come at the end, one at a time."""
        rows = self._db.execute(
            "SELECT n, id, received_at_us, body, 0 FROM spooled WHERE n > ? ORDER BY n LIMIT ?", (self._after, limit)
        )
        found = take(rows, max_bytes)
        rows.close()
        self._read_to = found[-1][0] if found else self._after
        return [d for _, d in found] or sorted(self._later.values(), key=lambda d: d.attempts)[:1]

    def done(self, deliveries: Sequence[Spooled]) -> None:
        """Remember that Postgres has these, which `next` gave."""
        self._after = self._read_to
        for delivery in deliveries:
            self._later.pop(delivery.id, None)

    def pass_over(self, deliveries: Sequence[Spooled]) -> None:
        """Remember that these, which `next` gave, have to be tried again."""
        self._after = self._read_to
        for delivery in deliveries:
            self._later[delivery.id] = delivery._replace(attempts=delivery.attempts + 1)

    def oldest_at(self) -> datetime | None:
        """When the oldest that is not done came in; None when all is done."""
        first = self._db.execute(
            "SELECT received_at_us FROM spooled WHERE n > ? ORDER BY n LIMIT 1", (self._after,)
        ).fetchone()
        left = [delivery.received_at for delivery in self._later.values()]
        return min([*left, *([instant(first[0])] if first is not None else [])], default=None)
