"""Whether there is something new in the feed of changes: asked for many readers that wait, in one small query."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sql.changes import BEGINNING, newest_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from sql.changes import Place
    from sql.pool import Pool

LOOK_EVERY_SECONDS = 0.1


class Newest:
    """Looks for the newest change, at most every so often however many ask. No LISTEN: a pooler would swallow it."""

    def __init__(
        self, pool: Pool, *, every: float = LOOK_EVERY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._every, self._clock = pool, every, clock
        self._place: Place = BEGINNING
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def is_beyond(self, place: Place) -> bool:
        """Tell whether there may be changes after a place."""
        if self._place > place:
            return True
        async with self._looking:
            if self._clock() - self._looked_at >= self._every:
                async with self._pool.acquire() as connection:
                    self._place = await newest_place(connection)
                self._looked_at = self._clock()
        return self._place > place
