from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from app.webhook import group_commit
from app.webhook.group_commit import WRITERS, GroupCommit, NotDurableError
from sql.ingest import Ingest, Ingestor
from sql.rows import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

AT = datetime(2031, 3, 14, 1, 59, tzinfo=UTC)


class Held(Ingestor):
    """Writes nothing, keeps each group until it is let go, and fails as told."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.let_go = asyncio.Event()
        self.failure: Exception | None = None
        self._begun = asyncio.Condition()

    async def write(self, group: Sequence[Ingest]) -> Counts:
        async with self._begun:
            self.groups.append([d.id.int for d in group])
            self._begun.notify_all()
        await self.let_go.wait()
        if self.failure is not None:
            raise self.failure
        return Counts()

    async def has_begun(self, groups: int) -> None:
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.groups) >= groups)


def delivery(number: int, body: bytes = b"{}") -> Ingest:
    return Ingest(AT.date(), UUID(int=number), AT, body, [], [])


class Commits:
    """Requests, each a task of its own."""

    def __init__(self, group_commit: GroupCommit) -> None:
        self._group_commit = group_commit
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def arrive(self, *numbers: int, body: bytes = b"{}", began: float | None = None) -> None:
        """Let requests arrive; returns once all of them wait."""
        for number in numbers:
            task = asyncio.create_task(self._group_commit.commit(delivery(number, body), began=began))
            self.tasks[number] = task
        await asyncio.sleep(0)

    async def answered(self, *numbers: int) -> None:
        for number in numbers:
            await self.tasks[number]

    async def refused(self, *numbers: int, reason: str) -> None:
        for number in numbers:
            with pytest.raises(NotDurableError, match=reason):
                await self.tasks[number]


async def busy(held: Held, commits: Commits) -> None:
    """Give every writer something to write: requests 1 to WRITERS."""
    for number in range(1, WRITERS + 1):
        await commits.arrive(number)
        await held.has_begun(number)


async def test_requests_that_arrive_during_a_transaction_are_written_together_by_the_next() -> None:
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, 11, 12)
        assert held.groups == [[1], [2]]
        held.let_go.set()
        await commits.answered(1, 2, 10, 11, 12)
    assert held.groups == [[1], [2], [10, 11, 12]]


async def test_nobody_is_answered_before_their_transaction_has_committed() -> None:
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        assert not any(task.done() for task in commits.tasks.values())
        held.let_go.set()
        await commits.answered(1, 2)


class HeldInTask(Held):
    """As the real one, which talks to the database in a task of its own."""

    async def write(self, group: Sequence[Ingest]) -> Counts:
        return await asyncio.create_task(super().write(group))


async def test_the_database_has_the_next_group_before_those_of_the_last_are_answered() -> None:
    held = HeldInTask()
    async with GroupCommit(held) as waiting:

        async def request() -> list[list[int]]:
            await waiting.commit(delivery(1))
            return [*held.groups]

        first = asyncio.create_task(request())
        await held.has_begun(1)
        commits = Commits(waiting)
        for number in range(2, WRITERS + 1):
            await commits.arrive(number)
            await held.has_begun(number)
        await commits.arrive(10)
        held.let_go.set()
        assert [10] in await first


async def test_a_group_holds_at_most_so_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_GROUP", 2)
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, 11, 12, 13, 14)
        held.let_go.set()
        await commits.answered(10, 11, 12, 13, 14)
    assert held.groups[WRITERS:] == [[10, 11], [12, 13], [14]]


async def test_a_group_holds_at_most_so_many_bytes_and_at_least_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_GROUP_BYTES", 10)
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, 11, 12, body=b"x" * 5)
        await commits.arrive(13, body=b"x" * 50)
        held.let_go.set()
        await commits.answered(10, 11, 12, 13)
    assert held.groups[WRITERS:] == [[10, 11], [12], [13]]


async def test_a_full_queue_refuses_at_once_and_takes_again_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_QUEUE_BYTES", 10)
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, body=b"x" * 8)
        assert waiting.queued_bytes == 8
        await commits.arrive(11, body=b"x" * 3)
        await commits.refused(11, reason="the queue is full")
        await commits.arrive(12, body=b"x" * 2)
        held.let_go.set()
        await commits.answered(10, 12)
        assert waiting.queued_bytes == 0
        await commits.arrive(13, body=b"x" * 10)
        await commits.answered(13)


async def test_whoever_waits_too_long_is_told_so_while_the_queue_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "COMMIT_WITHIN_SECONDS", 0.01)
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10)
        await commits.refused(10, reason="no commit in time")
        await commits.refused(1, 2, reason="no commit in time|TimeoutError")
    assert held.groups[WRITERS:] == []


async def test_one_whose_time_is_up_in_a_transaction_does_not_wait_for_those_who_came_later() -> None:
    held = Held()
    waiting = GroupCommit(held)
    commits = Commits(waiting)
    await commits.arrive(10, began=time.monotonic() - group_commit.COMMIT_WITHIN_SECONDS + 0.2)
    await commits.arrive(11)
    writer = asyncio.create_task(waiting.run_once())
    await held.has_begun(1)
    await commits.refused(10, reason="no commit in time")
    assert not commits.tasks[11].done()
    held.let_go.set()
    await commits.answered(11)
    assert await writer == 2


async def test_a_group_that_postgres_does_not_take_is_refused_whole_and_the_next_one_is_tried() -> None:
    held = Held()
    held.failure = OSError("connection refused")
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, 11)
        held.let_go.set()
        await commits.refused(1, 2, 10, 11, reason="Postgres did not commit: OSError")
        held.failure = None
        await commits.arrive(12)
        await commits.answered(12)


async def test_the_end_writes_what_waits_and_takes_nothing_more() -> None:
    held = Held()
    waiting = GroupCommit(held)
    commits = Commits(waiting)
    async with waiting:
        await busy(held, commits)
        await commits.arrive(10, 11)
        held.let_go.set()
    await commits.answered(1, 2, 10, 11)
    await commits.arrive(12)
    await commits.refused(12, reason="the queue is full")


async def test_a_request_that_is_given_up_while_it_waits_is_not_written() -> None:
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        await commits.arrive(10, 11, 12, body=b"x" * 7)
        commits.tasks[11].cancel()
        held.let_go.set()
        await commits.answered(10, 12)
        assert commits.tasks[11].cancelled()
        assert waiting.queued_bytes == 0
    assert held.groups[WRITERS:] == [[10, 12]]


async def test_a_request_that_is_given_up_in_a_transaction_costs_its_neighbours_nothing() -> None:
    held = Held()
    async with GroupCommit(held) as waiting:
        commits = Commits(waiting)
        await busy(held, commits)
        commits.tasks[1].cancel()
        await commits.arrive(10)
        held.let_go.set()
        await commits.answered(2, 10)


async def test_those_who_wait_for_a_writer_that_is_cancelled_are_told() -> None:
    held = Held()
    waiting = GroupCommit(held)
    commits = Commits(waiting)
    await commits.arrive(1)
    writer = asyncio.create_task(waiting.run_once())
    await held.has_begun(1)
    writer.cancel()
    await commits.refused(1, reason="CancelledError")
    with pytest.raises(asyncio.CancelledError):
        await writer


async def test_a_queue_of_given_up_requests_is_no_group() -> None:
    held = Held()
    waiting = GroupCommit(held)
    commits = Commits(waiting)
    await commits.arrive(1)
    commits.tasks[1].cancel()
    await asyncio.wait(commits.tasks.values())
    assert await waiting.run_once() == 0
    assert held.groups == []
