"""Drain the spool: what waits there goes the way of every webhook, as soon as Postgres takes it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from app import metrics
from app.webhook.durable import measure
from app.webhook.projection import Door
from app.webhook.redaction import paths_of_pages, redacted
from sql.errors import describe, is_away
from sql.health import takes_writes
from sql.page_erasures import erased_pages
from sql.spool import PassOverError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Self

    from app.webhook.delivery_reader import DeliveryReader
    from app.webhook.durable import Durable
    from sql.ingest import Ingest, Ingestor
    from sql.pool import Pool
    from sql.spool import Spool, Spooled

log = structlog.get_logger(__name__)

EVERY_SECONDS = 1.0
ADOPT_EVERY_SECONDS = 5.0
WORK_SECONDS = 5.0  # of one turn
COMMIT_WITHIN_SECONDS = 10.0  # nobody waits for an answer here
MOST_FAILURES = 3  # in a row, of one turn
LAST_ATTEMPT = 20  # about as many seconds after the first


class Drain:
    """Writes what is in the spool. Use as an async context manager: at the end it tries once more."""

    def __init__(
        self,
        spool: Spool,
        pool: Pool,
        ingestor: Ingestor,
        reader: DeliveryReader,
        durable: Durable,
        *,
        on_stored: Callable[[Ingest], None] = lambda _delivery: None,
    ) -> None:
        self._spool, self._pool, self._ingestor, self._reader = spool, pool, ingestor, reader
        self._durable, self._on_stored = durable, on_stored

    async def __aenter__(self) -> Self:
        """Nothing is drained before `run_once`."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave as little as can be to the next process."""
        if not self._durable.is_away and self._spool.depth:
            await self.run_once()

    async def run_once(self) -> dict[str, int]:
        """Write what waits, for a bounded time; returns how many deliveries.

        The first that is committed is the sign that Postgres is back.

        Raises:
            SpoolError: the spool's own file can't be read or written.

        """
        stored = failures = 0
        until = time.monotonic() + WORK_SECONDS
        try:
            while failures < MOST_FAILURES and time.monotonic() < until:
                try:
                    count = await self._spool.drain_once(self._write)
                except PassOverError:
                    failures += 1
                    continue
                if count == 0:
                    await self._look_for_postgres()
                    break
                failures = 0
                stored += count
                measure(self._spool)
        except Exception as error:
            if not is_away(error):
                raise
            self._durable.went_away(type(error).__name__)
        finally:
            measure(self._spool)
        if stored:
            metrics.DRAINED.inc(stored)
            log.info("spool_drained", deliveries=stored, left=self._spool.depth)
        return {"stored": stored}

    async def _look_for_postgres(self) -> None:
        """Nothing waits whose commit could tell: ask."""
        if self._durable.is_away:
            async with asyncio.timeout(COMMIT_WITHIN_SECONDS), self._pool.acquire() as connection:
                if await takes_writes(connection):
                    self._durable.came_back()

    async def _write(self, spooled: list[Spooled]) -> None:
        async with asyncio.timeout(COMMIT_WITHIN_SECONDS), self._pool.acquire() as connection:
            erased = await erased_pages(connection)
        group = await asyncio.to_thread(self._read, spooled, erased)  # webhooks that come in meanwhile must not wait
        try:
            async with asyncio.timeout(COMMIT_WITHIN_SECONDS):
                await self._ingestor.write(group)
        except TimeoutError as error:
            # Postgres stands still, or something holds what these want: the next turn tries others
            self._durable.went_away(type(error).__name__)
            raise PassOverError from error
        except Exception as error:
            if is_away(error):
                raise
            log.warning("spooled_not_written", deliveries=len(group), reason=describe(error))
            if len(group) > 1 or spooled[0].attempts < LAST_ATTEMPT:
                raise PassOverError from error
            await self._bury(group[0], error)
        self._durable.came_back()
        for delivery in group:
            self._on_stored(delivery)

    async def _bury(self, delivery: Ingest, error: Exception) -> None:
        """Journal a delivery whose items Postgres keeps refusing: as a dead letter it is seen, and can be replayed."""
        letter = ("", f"refused by Postgres: {describe(error)}")
        try:
            await self._ingestor.write([delivery._replace(items=[], dead_letters=[letter])])
        except Exception as again:
            if is_away(again):
                raise
            log.error(
                "spooled_delivery_refused", delivery=str(delivery.id), reason=describe(again), kept="in the spool"
            )
            raise PassOverError from again
        metrics.DEAD_LETTERS.inc()
        log.error(
            "spooled_delivery_refused", delivery=str(delivery.id), reason=describe(error), kept="as a dead letter"
        )

    def _read(self, spooled: list[Spooled], erased: Mapping[str, datetime]) -> list[Ingest]:
        return [
            self._reader.read_at_once(Door(one.received_at, one.received_at.date(), one.id), _without(one, erased))
            for one in spooled
        ]


def _without(one: Spooled, erased: Mapping[str, datetime]) -> bytes:
    """A delivery's body without the items of Pages whose erasure was asked for while it waited."""
    pages = {page_id for page_id, requested_at in erased.items() if one.received_at <= requested_at}
    paths = paths_of_pages(one.body, pages) if pages else ()
    return redacted(one.body, paths) if paths else one.body
