"""Whether there is something new in the feed of changes, for many readers that wait: one look is for all of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from sql.changes import BEGINNING, changed_pages, newest_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from sql.changes import Place
    from sql.pool import Pool

LOOK_EVERY_SECONDS = 0.1


class _Seen(NamedTuple):
    """All of a feed from one place to another: `pages` are those with changes there, each with its last one."""

    epoch: UUID
    since: Place
    until: Place
    pages: Mapping[str, Place]
    newest: Place

    def has_more(self, place: Place, page_id: str | None) -> bool:
        """Tell whether there may be changes after a place: there are some, or nobody looked there."""
        last = self.newest if page_id is None else self.pages.get(page_id, BEGINNING)
        return place < self.since or last > place


class Newest:
    """Looks at what is new, at most every so often however many ask. No LISTEN: a pooler would swallow it.

    So that one busy Page does not have the readers of all the others ask the database, it keeps what changed by Page.
    """

    def __init__(
        self, pool: Pool, *, every: float = LOOK_EVERY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._every, self._clock = pool, every, clock
        self._seen: _Seen | None = None
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def quiet_until(self, epoch: UUID | None, place: Place, page_id: str | None) -> Place | None:
        """Return how far after a place there are no changes, of one Page or of all; None: there may be, so read."""
        if self._seen is not None and self._seen.epoch == epoch and self._seen.has_more(place, page_id):
            return None
        async with self._looking:
            if self._clock() - self._looked_at >= self._every:
                self._seen = await self._look(epoch)
                self._looked_at = self._clock()
        seen = self._seen
        if seen is None or seen.epoch != epoch or seen.has_more(place, page_id):
            return None
        return max(place, seen.until)

    async def _look(self, epoch: UUID | None) -> _Seen:
        seen = self._seen
        async with self._pool.acquire() as connection:
            # a reader with another epoch than ours knows better, or is to be told by the feed
            if seen is not None and seen.epoch == epoch and await newest_place(connection) <= seen.until:
                return seen
            after = BEGINNING if seen is None else seen.until
            read = await changed_pages(connection, after)
        feed = read.feed
        is_ours = seen is None or seen.epoch == feed.epoch
        if not is_ours or not read.is_all or (feed.dropped is not None and after < feed.dropped):
            # another feed, too much, or some of it gone: whoever stands before this has to read it
            return _Seen(feed.epoch, read.horizon, read.horizon, {}, BEGINNING)
        newest = max(read.pages.values(), default=BEGINNING)
        if seen is None:
            return _Seen(feed.epoch, after, read.horizon, read.pages, newest)
        return _Seen(feed.epoch, seen.since, read.horizon, {**seen.pages, **read.pages}, max(newest, seen.newest))
