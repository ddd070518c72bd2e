"""Remove a Page: end its webhooks, forget its token, and, where that is asked for, erase what was mirrored of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

from app.searching import search_day
from app.webhook.redaction import paths_of_pages, redacted
from reconciler.graph.errors import GraphError, GraphUnavailable, RateLimited
from reconciler.tokens import TokenUnreadableError
from sql.deliveries import journal_days
from sql.erasure_journal import Sought, lock_deliveries, put_redacted
from sql.page_erasures import (
    claim_page_erasure,
    erase_rows,
    let_page_erasure_go,
    note_journal_day,
    note_page_erased,
    request_page_erasure,
)
from sql.pages import remove_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    import asyncpg

    from reconciler.watchdog import Watchdog
    from sql.page_erasures import PageErasure
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 30.0


class Removed(NamedTuple):
    """What became of a Page's webhooks: `why_subscribed` is None where they have ended or were to be left."""

    why_subscribed: str | None


class StillSubscribedError(Exception):
    """Graph can't be asked now to end the Page's webhooks, and only its token can: nothing was done."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.__doc__} ({reason})")


async def remove(
    pool: Pool, watchdog: Watchdog, page_id: str, *, unsubscribe: bool, erase: bool, now: datetime | None = None
) -> Removed | None:
    """Remove a Page; returns None when there is none. What is to be erased goes once `PageEraser` sees to it.

    Where Graph refuses for good to end the webhooks, as with a dead token, they go on, and what they bring is stored.

    Raises:
        StillSubscribedError: Graph can't be asked now.

    """
    why_subscribed = None
    if unsubscribe:
        try:
            await watchdog.unsubscribe(page_id)
        except (GraphUnavailable, RateLimited) as error:
            raise StillSubscribedError(str(error)) from None
        except (GraphError, TokenUnreadableError) as error:
            why_subscribed = str(error)
            log.warning("removed_page_stays_subscribed", page_id=page_id, reason=why_subscribed)
    async with pool.acquire() as connection, connection.transaction():
        removed = await remove_page(connection, page_id)
        if removed and erase:
            await request_page_erasure(connection, page_id, now=now or datetime.now(UTC))
    return Removed(why_subscribed) if removed else None


class PageEraser:
    """Erases what was mirrored of removed Pages. Any number may run, and go on where another was killed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self, page_id: str | None = None) -> dict[str, int]:
        """See to all that is to be erased, or to one Page's; returns how many rows and bodies of the journal went."""
        pages = rows = bodies = 0
        while True:
            async with self._pool.acquire() as connection:
                erasure = await claim_page_erasure(connection, page_id)
            if erasure is None:
                return {"pages": pages, "rows": rows, "deliveries": bodies}
            try:
                # the journal first: a replay that has read a body has then written its rows, or never will
                bodies += await self._erase_journal(erasure)
                rows += await self._erase_rows(erasure)
            except BaseException:
                async with self._pool.acquire() as connection:
                    await let_page_erasure_go(connection, erasure)
                raise
            async with self._pool.acquire() as connection:
                await note_page_erased(connection, erasure, now=datetime.now(UTC))
            log.info("page_erased", page_id=erasure.page_id)
            pages += 1

    async def _erase_rows(self, erasure: PageErasure) -> int:
        rows = 0
        while True:
            async with self._pool.acquire() as connection, connection.transaction():
                done = await erase_rows(connection, erasure.page_id)
            if not done:
                return rows
            rows += done

    async def _erase_journal(self, erasure: PageErasure) -> int:
        async with self._pool.acquire() as connection:
            days = await journal_days(connection)
        changed = 0
        for day in days:
            if erasure.journal_day is None or day > erasure.journal_day:
                changed += await self._erase_day(erasure, day)
                async with self._pool.acquire() as connection:
                    await note_journal_day(connection, erasure, day)
        return changed

    async def _erase_day(self, erasure: PageErasure, day: date) -> int:
        sought = Sought(erasure.page_id, until=erasure.requested_at)
        return sum([await self._redact(keys, erasure) async for keys in search_day(self._pool, day, sought)])

    async def _redact(self, keys: Sequence[tuple[date, UUID]], erasure: PageErasure) -> int:
        changed = 0
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await lock_deliveries(connection, keys)
            # webhooks that come in meanwhile must not wait
            left = await asyncio.to_thread(lambda: [_without(row, erasure.page_id) for row in rows])
            for row, of_others in zip(rows, left, strict=True):
                if of_others is not None:
                    await put_redacted(connection, row, *of_others)
                    changed += 1
        return changed


def _without(row: asyncpg.Record, page_id: str) -> tuple[bytes, list[dict[str, str]]] | None:
    """A body without a Page's items, and the dead letters that are left; None when it has none of the Page's."""
    paths = paths_of_pages(row["body"], {page_id})
    if not paths:
        return None
    left = [letter for letter in row["dead_letters"] or () if letter["path"] not in paths]
    return redacted(row["body"], paths), left
