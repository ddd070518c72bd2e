from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from reconciler import schedule
from reconciler.schedule import Job, scheduled

if TYPE_CHECKING:
    from datetime import tzinfo

    import pytest


async def test_a_job_that_fails_fires_again_and_stops_no_other() -> None:
    failed, other = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def fail() -> None:
        failed.release()
        raise RuntimeError("once more")

    async def work() -> None:
        other.release()

    async with scheduled([Job("failing", fail, 0.01), Job("other", work, 0.01)]):
        for _ in range(3):
            await failed.acquire()
            await other.acquire()


async def test_a_job_under_way_is_waited_for_at_the_end() -> None:
    began, go = asyncio.Event(), asyncio.Event()
    ended = 0

    async def work() -> None:
        nonlocal ended
        began.set()
        await go.wait()
        ended += 1

    async with scheduled([Job("slow", work, 0.01)]):
        await began.wait()
        asyncio.get_running_loop().call_later(0.05, go.set)
        assert ended == 0
    assert ended == 1


async def test_a_job_that_takes_long_is_cancelled_and_has_ended_with_the_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "DRAIN_SECONDS", 0.01)
    began, was_cancelled = asyncio.Event(), False

    async def work() -> None:
        nonlocal was_cancelled
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            was_cancelled = True
            raise

    async with scheduled([Job("endless", work, 0.01)]):
        await began.wait()
    assert was_cancelled


async def test_a_job_that_does_not_end_when_it_is_cancelled_keeps_nobody_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a one rolls back, and its database stands still."""
    monkeypatch.setattr(schedule, "DRAIN_SECONDS", 0.01)
    began, answered, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await answered.wait()
            ended.set()

    async with scheduled([Job("stuck", work, 0.01)]):
        await began.wait()
    assert not ended.is_set()
    answered.set()
    await ended.wait()


async def test_jobs_go_on_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        ahead = timedelta(hours=3)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            real = datetime.now(tz) + cls.ahead
            return cls.fromtimestamp(real.timestamp(), tz)

    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Clock)
    monkeypatch.setattr(schedule, "datetime", Clock)
    monkeypatch.setattr(schedule, "CLOCK_EVERY_SECONDS", 0.01)
    worked = asyncio.Semaphore(0)

    async def work() -> None:
        worked.release()

    async with scheduled([Job("often", work, 0.01)]):
        await worked.acquire()
        Clock.ahead = timedelta(0)
        for _ in range(3):
            await worked.acquire()
