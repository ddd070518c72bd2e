"""The schedule: every few seconds, queue the Pages that are due and wake the worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.downtime import Heartbeat
from reconciler.due import soon
from sql.audits import enqueue_audits
from sql.pace import bring_forward, silent_pages
from sql.sync_runs import enqueue_due

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import timedelta

    from reconciler.worker import Worker
    from sql.pool import Pool

log = structlog.get_logger(__name__)

TICK_SECONDS = 2.0
DRAIN_SECONDS = 5.0


class Job(NamedTuple):
    """Something to do again and again."""

    name: str
    run_once: Callable[[], Awaitable[object]]
    every_seconds: float


class Schedule:
    """What is done each time the job fires. A nightly audit may make `audit_share` of a Page's daily calls."""

    def __init__(self, pool: Pool, worker: Worker, *, interval: timedelta, audit_share: float = 0.25) -> None:
        self._pool, self._worker, self._interval, self._audit_share = pool, worker, interval, audit_share
        self._heartbeat = Heartbeat(pool, "schedule", interval=interval)

    async def begin(self) -> None:
        """Say that somebody schedules from now on."""
        await self._heartbeat.run_once()

    async def run_once(self) -> dict[str, int]:
        """Queue what is due and start what is queued; returns how many of each.

        First Pages that are overdue after our own downtime are spread, and those brought forward whose webhooks have
        fallen silent.
        """
        await self._heartbeat.run_once()
        async with self._pool.acquire() as connection:
            now, silent = await silent_pages(connection)
            if silent:
                log.warning("webhooks_silent", pages=silent)
                due = soon(silent, base=self._interval, now=now)
                await bring_forward(connection, due, longest=self._interval)
            queued = await enqueue_due(connection, every=self._interval)
            queued += await enqueue_audits(connection, share=self._audit_share)
        return {"queued": queued, "started": await self._worker.wake()}

    def job(self) -> Job:
        """The job to schedule."""
        return Job("sync", self.run_once, min(TICK_SECONDS, self._interval.total_seconds()))


@asynccontextmanager
async def scheduled(jobs: Sequence[Job]) -> AsyncIterator[None]:
    """Fire each job at its interval while the context is open; one that fails is reported and fires again.

    At the end, jobs that are under way are waited for, and cancelled when they take long: nothing of them is left
    behind that would use what the caller closes next.
    """
    running: set[asyncio.Task[object]] = set()

    async def fire(job: Job) -> None:
        task = asyncio.current_task()
        if task is not None:
            running.add(task)
            task.add_done_callback(running.discard)
        await _run(job)

    scheduler = AsyncIOScheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    for job in jobs:
        scheduler.add_job(fire, "interval", args=[job], seconds=job.every_seconds, id=job.name)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.pause()
        if running:
            await asyncio.wait(running, timeout=DRAIN_SECONDS)
        scheduler.shutdown(wait=False)  # this cancels the jobs that still run, and waits for none
        await asyncio.gather(*running, return_exceptions=True)


async def _run(job: Job) -> None:
    try:
        await job.run_once()
    except Exception as error:  # noqa: BLE001 - it fires again, whatever it was
        log.warning("job_failed", job=job.name, reason=f"{type(error).__name__}: {error}")
