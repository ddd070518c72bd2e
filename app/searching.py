"""Search a day of the journal for bodies to take something out of, a few at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.erasure_journal import find_in_journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date
    from uuid import UUID

    from sql.erasure_journal import Sought
    from sql.pool import Pool

SEARCHED_AT_ONCE = 2000
REDACTED_AT_ONCE = 20  # each may have 4 MiB


async def search_day(pool: Pool, day: date, sought: Sought) -> AsyncIterator[list[tuple[date, UUID]]]:
    """Yield the keys, (day, id), of deliveries that may hold what is sought: as many as are redacted at once."""
    after: UUID | None = None
    while True:
        async with pool.acquire() as connection:
            after, found = await find_in_journal(connection, day, after, sought, limit=SEARCHED_AT_ONCE)
        for start in range(0, len(found), REDACTED_AT_ONCE):
            yield [(day, delivery_id) for delivery_id in found[start : start + REDACTED_AT_ONCE]]
        if after is None:
            return
