from __future__ import annotations

import asyncio
import time

import pytest

from app.webhook.deadlines import Deadlines


class Timers:
    """Stands for the event loop: keeps what is to be called, and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pending: list[tuple[float, object]] = []

    def call_later(self, delay: float, callback: object) -> object:
        self.pending.append((self.now + delay, callback))
        return callback

    def ring(self) -> None:
        [(self.now, callback)] = self.pending
        self.pending.clear()
        assert callable(callback)
        callback()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    made = Timers()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


class Wait:
    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done


def test_each_is_ended_at_its_deadline_but_for_those_that_are_done(timers: Timers) -> None:
    ended: list[tuple[float, Wait]] = []
    deadlines: Deadlines[Wait] = Deadlines(lambda wait: ended.append((timers.now, wait)))
    first, second, third = Wait(), Wait(), Wait()
    for deadline, wait in ((1.0, first), (1.5, second), (2.0, third)):
        deadlines.add(deadline, wait)
    second.is_done = True
    timers.ring()
    timers.ring()
    assert ended == [(1.0, first), (2.0, third)]
    assert timers.pending == []


def test_one_timer_serves_all_and_what_is_done_is_let_go(timers: Timers) -> None:
    deadlines: Deadlines[Wait] = Deadlines(lambda _: pytest.fail("none was late"))
    waits = [Wait() for _ in range(1000)]
    for n, wait in enumerate(waits):
        deadlines.add(3 + n / 1000, wait)
        wait.is_done = True
    assert len(timers.pending) == 1
    assert len(deadlines._waits) == 1
    timers.ring()
    assert timers.pending == []


def test_a_timer_that_rings_early_is_set_again(timers: Timers) -> None:
    ended: list[Wait] = []
    deadlines: Deadlines[Wait] = Deadlines(ended.append)
    waiting = Wait()
    deadlines.add(1.0, waiting)
    timers.pending = [(0.999, timers.pending[0][1])]
    timers.ring()
    assert ended == []
    timers.ring()
    assert ended == [waiting]


async def test_on_a_real_loop_a_future_past_its_deadline_is_ended() -> None:
    deadlines: Deadlines[asyncio.Future[str]] = Deadlines(lambda future: future.set_result("late"))
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    deadlines.add(time.monotonic(), future)
    assert await future == "late"
