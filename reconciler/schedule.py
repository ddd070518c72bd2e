"""The schedule: every few seconds, queue the Pages that are due and wake the worker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from sql.sync_runs import enqueue_due

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from reconciler.worker import Worker
    from sql.pool import Pool

log = structlog.get_logger(__name__)

TICK_SECONDS = 2.0


class Schedule:
    """What the job does each time it fires."""

    def __init__(self, pool: Pool, worker: Worker, *, interval: timedelta) -> None:
        self._pool, self._worker, self._interval = pool, worker, interval

    async def run_once(self) -> dict[str, int]:
        """Queue what is due and start what is queued; returns how many of each."""
        async with self._pool.acquire() as connection:
            queued = await enqueue_due(connection, every=self._interval)
        return {"queued": queued, "started": await self._worker.wake()}

    async def _tick(self) -> None:
        try:
            await self.run_once()
        except Exception as error:  # noqa: BLE001 - the next tick tries again, whatever it was
            log.warning("schedule_tick_failed", reason=type(error).__name__)


@asynccontextmanager
async def scheduled(schedule: Schedule) -> AsyncIterator[None]:
    """Fire the job every few seconds while the context is open."""
    scheduler = AsyncIOScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    scheduler.add_job(schedule._tick, "interval", seconds=TICK_SECONDS)  # noqa: SLF001 - the one who fires it
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)
