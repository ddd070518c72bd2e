"""The database's arrival: a process that receives starts before Postgres is there, and does the rest once it is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from app.database import DatabaseAwayError, prepare
from app.ending import give_up
from sql.errors import describe, is_away

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

log = structlog.get_logger(__name__)

START_WITHIN_SECONDS = 3.0  # then the process receives, and the database may come, or be migrated, meanwhile
AGAIN_AFTER_SECONDS = 1.0
TOLD_EVERY = 30  # attempts
END_WITHIN_SECONDS = 5.0


@asynccontextmanager
async def arrival(dsn: str, live: Callable[[], AbstractAsyncContextManager[None]]) -> AsyncIterator[asyncio.Event]:
    """Prepare the database, and hold `live` open from then on; gives an event that is set when it is.

    Where the database is there already, that is so before this context opens.

    Raises:
        DatabaseError, sql.errors.MigrationError: what is there can't be used. When this turns out only later, the
            process ends.

    """
    arrived, tried = asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        coming = asyncio.create_task(_come(dsn, live, stack, arrived, tried), name="database-arrival")
        trying = asyncio.create_task(tried.wait())
        try:
            await asyncio.wait({coming, trying}, timeout=START_WITHIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                await coming
            else:
                coming.add_done_callback(_end_if_it_failed)
            yield arrived
        finally:
            for task in (coming, trying):
                task.cancel()
            # a server that stands still is not waited for: it is left to the connection's end
            await asyncio.wait({coming, trying}, timeout=END_WITHIN_SECONDS)


async def _come(
    dsn: str,
    live: Callable[[], AbstractAsyncContextManager[None]],
    stack: AsyncExitStack,
    arrived: asyncio.Event,
    tried: asyncio.Event,
) -> None:
    attempts = 0
    while True:
        try:
            await prepare(dsn)
            await stack.enter_async_context(live())
        except Exception as error:
            if not (isinstance(error, DatabaseAwayError) or is_away(error)):
                raise
            if attempts % TOLD_EVERY == 0:
                reason = str(error) if isinstance(error, DatabaseAwayError) else describe(error)
                log.warning("database_awaited", reason=reason, meanwhile="deliveries are kept in the spool")
            attempts += 1
            tried.set()
            await asyncio.sleep(AGAIN_AFTER_SECONDS)
        else:
            if attempts:
                log.info("database_arrived", attempts=attempts)
            arrived.set()
            return


def _end_if_it_failed(coming: asyncio.Task[None]) -> None:
    error = None if coming.cancelled() else coming.exception()
    if error is not None:
        give_up(error)
