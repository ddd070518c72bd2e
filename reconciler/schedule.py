"""The schedule: every few seconds, queue the Pages that are due and wake the worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.downtime import Heartbeat
from reconciler.due import soon
from sql.audits import enqueue_audits
from sql.errors import forget_values
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
CLOCK_EVERY_SECONDS = 1.0  # look whether it was set back


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
    behind that would use what the caller closes next, but for one that waits for a database that stands still.
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
    following = asyncio.create_task(_follow_clock(scheduler, jobs), name="schedule-clock")
    try:
        yield
    finally:
        following.cancel()
        scheduler.pause()
        if running:
            await asyncio.wait(running, timeout=DRAIN_SECONDS)
        scheduler.shutdown(wait=False)  # this cancels the jobs that still run, and waits for none
        if running:  # one that rolls back, where the database stands still, ends with its connection
            await asyncio.wait(running, timeout=DRAIN_SECONDS)


async def _follow_clock(scheduler: AsyncIOScheduler, jobs: Sequence[Job]) -> None:
    """Fire what a clock that was set back has put off: APScheduler would wait until it reads that time again."""
    while True:
        await asyncio.sleep(CLOCK_EVERY_SECONDS)
        now = datetime.now(UTC)
        for job in jobs:
            known = scheduler.get_job(job.name)
            if known is None or known.next_run_time is None:
                continue
            put_off = (known.next_run_time - now).total_seconds() - job.every_seconds
            if put_off > CLOCK_EVERY_SECONDS:
                log.warning("clock_set_back", job=job.name, seconds=round(put_off))
                scheduler.modify_job(job.name, next_run_time=now)


async def _run(job: Job) -> None:
    try:
        await job.run_once()
    except Exception as error:  # noqa: BLE001 - it fires again, whatever it was
        forget_values(error)
        log.warning("job_failed", job=job.name, reason=f"{type(error).__name__}: {error}")
