"""A worker killed at any step: another one goes on, ends in the same rows, and reads only the last page twice."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from reconciler import steps as steps_module
from reconciler import threads as threads_module
from reconciler import worker as worker_module
from simulator import Fault
from sql.errors import StaleLease
from sql.leases import checkpoint
from tests.reconciler.stage import Killed, behaviour

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from tests.reconciler.stage import MakeStage, Stage

KINDS = ["incremental", "full", "audit", "backfill"]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def window(kind: str) -> dict[str, Any]:
    return {"since": LONG_AGO} if kind == "backfill" else {}


@pytest.fixture(autouse=True)
def one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is one last page."""
    monkeypatch.setattr(threads_module, "AT_A_TIME", 1)


async def small(make_stage: MakeStage) -> Stage:
    return await make_stage(conversations=9, messages=40, behaviour=behaviour(max_limit=4))


async def work_through_kills(stage: Stage, arm: Callable[[], None]) -> int:
    """Kill every worker as `arm` says, until one comes to the end; returns how many were killed."""
    for killed in range(200):
        await stage.expire_leases()
        arm()
        async with stage.worker(concurrency=1) as worker:
            await worker.wake()
            if not worker._places:
                return killed
            (place,) = worker._places
            try:
                await place
            except Killed:
                continue
    raise AssertionError("it never ends")


def pages_read(stage: Stage) -> Counter[tuple[str | None, ...]]:
    """Which pages of Graph were read, and how often."""
    return Counter(
        (call.path, call.params.get("after"), call.params.get("since"))
        for call in stage.graph.calls
        if call.status == 200
    )


async def rows_of(stage: Stage) -> list[asyncpg.Record]:
    return await stage.rows(
        """
        SELECT m.mid, m.psid, m.thread_id, m.direction, m.sent_at, m.text, t.synced_to, c.last_message_mid, c.name
        FROM messages AS m
        LEFT JOIN conversation_threads AS t ON t.page_id = m.page_id AND t.thread_id = m.thread_id
        LEFT JOIN conversations AS c ON c.page_id = m.page_id AND c.psid = m.psid
        ORDER BY m.mid
        """
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_before_every_second_call(make_stage: MakeStage, kind: str) -> None:
    stage = await small(make_stage)
    run_id = await stage.ask(kind, **window(kind))
    killed = await work_through_kills(stage, lambda: stage.kill_before_call(2))
    run = await stage.run(run_id)
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    assert max(pages_read(stage).values()) == 1
    assert killed >= len(pages_read(stage)) - 1 > 10
    assert run["failed_conversations"] == 0


@pytest.mark.parametrize("place", ["before the rows", "before the commit", "after the commit"])
async def test_killed_at_every_step_stored(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    stage = await small(make_stage)
    run_id = await stage.ask()
    transaction = steps_module.Steps._transaction
    left = 0

    def arm() -> None:
        nonlocal left
        left = 2

    def is_time() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    async def before_the_commit(*values: Any, **options: Any) -> bool:
        put_off = await checkpoint(*values, **options)
        if place == "before the commit" and is_time():
            raise Killed
        return put_off

    async def around(self: Any, *values: Any) -> None:
        if place == "before the rows" and is_time():
            raise Killed
        await transaction(self, *values)
        if place == "after the commit" and is_time():
            raise Killed

    monkeypatch.setattr(steps_module, "checkpoint", before_the_commit)
    monkeypatch.setattr(steps_module.Steps, "_transaction", around)
    await work_through_kills(stage, arm)
    run = await stage.run(run_id)
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    read = pages_read(stage)
    # what was read and not stored is read once more
    assert max(read.values()) == (1 if place == "after the commit" else 2)
    shown = [m for m in stage.world.true_messages(stage.page.id) if m.in_graph]
    assert run["messages"] == run["inserted"] == len(shown)
    assert run["conversations"] == 9


async def test_killed_while_it_ends_the_run_is_ended_by_the_next(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await small(make_stage)
    run_id = await stage.ask()

    async def killed(*_values: Any, **_options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(worker_module, "finish_run", killed)
        await stage.work_until_killed()
    calls = stage.calls()
    assert (await stage.run(run_id))["state"] == "running"
    assert (await stage.page_row())["watermark"] is None
    await stage.expire_leases()
    await stage.work()
    assert (await stage.run(run_id))["state"] == "succeeded"
    assert stage.calls() == calls
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])


async def test_a_run_with_kills_ends_in_the_rows_of_one_without(make_stage: MakeStage) -> None:
    stage = await small(make_stage)
    await stage.sync()
    expected = await rows_of(stage)
    watermark = (await stage.page_row())["watermark"]
    await stage.do("TRUNCATE messages, conversations, conversation_threads, sync_runs")
    await stage.do("UPDATE facebook_pages SET watermark = NULL")
    await stage.ask()
    await work_through_kills(stage, lambda: stage.kill_before_call(3))
    assert await rows_of(stage) == expected
    assert (await stage.page_row())["watermark"] == watermark


async def test_threads_that_failed_in_this_run_are_not_tried_again_by_it(make_stage: MakeStage) -> None:
    stage = await small(make_stage)
    thread = next(t for t in stage.threads() if t.count() > 21)
    stage.faults.add(Fault("not_found", path=f"{thread.thread_id}/messages"))
    run_id = await stage.ask()
    # the thread fails by its cursor and then from its newest message, before anything is stored of that
    await work_through_kills(stage, lambda: stage.kill_before_call(3))
    run = await stage.run(run_id)
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    assert run["error"] == "1 conversations could not be read: tried again next time"
    assert (await stage.thread_row(thread.thread_id))["failures"] == 1


async def test_a_crash_between_the_list_and_the_older_messages_loses_nothing(make_stage: MakeStage) -> None:
    """The watermark may not move on before what the list left to read is read."""
    stage = await small(make_stage)
    run_id = await stage.ask()
    lists = -(-9 // 4)
    stage.kill_before_call(lists + 1)
    await stage.work_until_killed()
    run = await stage.run(run_id)
    assert run["checkpoint"]["list"]["is_done"]
    assert await stage.rows("SELECT * FROM unfinished_threads") != []
    assert await stage.missing() != []
    assert (await stage.page_row())["watermark"] is None
    await stage.expire_leases()
    await stage.work()
    assert await stage.missing() == []
    assert stage.list_calls() == lists


async def test_a_run_resumed_an_hour_later_keeps_its_first_date_and_loses_nothing(make_stage: MakeStage) -> None:
    stage = await small(make_stage)
    await stage.sync()
    stage.clock.advance(86400)
    for thread in stage.threads():
        stage.say(thread, 25, each_seconds=2)
    began = stage.clock()
    run_id = await stage.ask()
    stage.kill_before_call(3)
    await stage.work_until_killed()
    stage.clock.advance(3600)
    for thread in stage.threads():
        stage.say(thread, 25, each_seconds=2)
    await stage.expire_leases()
    await stage.work()
    run = await stage.run(run_id)
    assert (run["state"], run["first_response_at"]) == ("succeeded", began)
    assert (await stage.page_row())["watermark"] <= began
    await stage.sync()
    assert await stage.missing() == []


async def test_a_worker_stopped_past_its_lease_and_woken_writes_nothing(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await small(make_stage)
    run_id = await stage.ask()
    given_up: list[str] = []
    let_go = worker_module.Worker._let_go

    async def noted(self: Any, run: Any, **options: Any) -> None:
        given_up.append(run.holder)
        await let_go(self, run, **options)

    monkeypatch.setattr(worker_module.Worker, "_let_go", noted)

    async def overtake(_request: object) -> None:
        """The answer is on its way while another worker does the whole run."""
        stage.between.before = None
        await stage.expire_leases()
        await stage.work()
        counts.append(await stage.run(run_id))

    counts: list[asyncpg.Record] = []
    stage.between.before = overtake
    async with stage.worker(concurrency=1) as stopped:
        await stopped.wake()
        (place,) = stopped._places
        await place
    assert given_up == [stopped._holder]
    assert await stage.run(run_id) == counts[0]
    assert counts[0]["state"] == "succeeded"
    assert await stage.missing() == []


async def test_a_stale_step_is_rolled_back_with_its_rows(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await small(make_stage)
    await stage.ask()

    async def overtaken(connection: Any, run: Any, *values: Any, **options: Any) -> bool:
        await stage.do("UPDATE sync_runs SET term = term + 1")
        with pytest.raises(StaleLease):
            await checkpoint(connection, run, *values, **options)
        raise StaleLease("as told")

    monkeypatch.setattr(steps_module, "checkpoint", overtaken)
    async with stage.worker(concurrency=1) as worker:
        await worker.wake()
        (place,) = worker._places
        await place
    for table in ("messages", "conversations", "conversation_threads", "unfinished_threads"):
        assert await stage.rows(f"SELECT * FROM {table}") == []
