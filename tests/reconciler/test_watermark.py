"""The watermark of a Page, and `synced_to` of a thread: who moves them, and how far."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sql.rows import Rows
from sql.upsert import upsert

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage

NO_OVERLAP = timedelta(0)


async def test_a_completed_run_moves_it_to_the_newest_conversation_by_graphs_clock(make_stage: MakeStage) -> None:
    stage = await make_stage()
    newest = stage.threads()[0]
    await stage.sync()
    page = await stage.page_row()
    assert page["watermark"] == stage.updated(newest)
    assert page["watermark"] < stage.clock()
    assert abs((page["last_synced_at"] - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("kind", ["incremental", "full", "audit"])
async def test_every_run_of_what_is_new_moves_it(make_stage: MakeStage, kind: str) -> None:
    stage = await make_stage()
    await stage.sync(kind)
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])


async def test_it_never_passes_the_date_of_the_runs_first_answer(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    began = stage.clock()

    def from_the_future(path: str, body: dict[str, Any]) -> None:
        stage.clock.advance(30)
        if path.endswith("/conversations"):
            body["data"][0]["updated_time"] = "2031-01-01T00:00:00+0000"

    stage.between.change = from_the_future
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert run["first_response_at"] == began
    assert (await stage.page_row())["watermark"] == began


async def test_it_only_moves_forward(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync()
    before = (await stage.page_row())["watermark"]

    def older(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            for node in body["data"]:
                node["updated_time"] = "2020-01-01T00:00:00+0000"

    stage.between.change = older
    assert (await stage.sync("full"))["state"] == "succeeded"
    assert (await stage.page_row())["watermark"] == before


async def test_an_empty_list_does_not_move_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=0)
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert run["first_response_at"] is not None
    page = await stage.page_row()
    assert page["watermark"] is None
    assert page["last_synced_at"] is not None


async def test_an_empty_list_after_a_full_one_does_not_move_it(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync()
    before = (await stage.page_row())["watermark"]

    def nothing(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            body.clear()
            body["data"] = []

    stage.between.change = nothing
    stage.clock.advance(3600)
    assert (await stage.sync())["state"] == "succeeded"
    assert (await stage.page_row())["watermark"] == before


async def test_a_failed_run_does_not_move_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    stage.faults.add("no_permission#2")
    run = await stage.sync()
    assert run["state"] == "failed"
    assert run["newest_updated_time"] is not None
    page = await stage.page_row()
    assert page["watermark"] is page["last_synced_at"] is None


async def test_a_backfill_moves_neither_it_nor_synced_to(make_stage: MakeStage) -> None:
    stage = await make_stage()
    run = await stage.sync("backfill", since=datetime(2000, 1, 1, tzinfo=UTC))
    assert run["state"] == "succeeded"
    page = await stage.page_row()
    assert page["watermark"] is page["last_synced_at"] is None
    threads = await stage.rows("SELECT synced_to FROM conversation_threads")
    assert len(threads) == 12
    assert {t["synced_to"] for t in threads} == {None}
    assert await stage.missing() == []


async def test_a_webhook_moves_neither(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync()
    before = await stage.page_row()
    thread = stage.threads()[0]
    stored = await stage.thread_row(thread.thread_id)
    stage.clock.advance(3600)
    (mid,) = stage.say(thread)
    rows = Rows()
    rows.add([stage.webhook_row(thread, mid)])
    async with stage.pool.acquire() as connection, connection.transaction():
        await upsert(connection, rows)
    assert await stage.page_row() == before
    assert await stage.thread_row(thread.thread_id) == stored


async def test_a_cancelled_run_does_not_move_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    run_id = await stage.ask()

    async def cancel() -> None:
        await stage.do("UPDATE sync_runs SET state = 'cancelled', finished_at = now() WHERE id = $1", run_id)

    stage.after_call(2, cancel)
    await stage.work()
    assert stage.list_calls() == 2
    assert (await stage.run(run_id))["state"] == "cancelled"
    assert (await stage.page_row())["watermark"] is None


async def test_every_thread_that_was_read_is_synced_up_to_its_time(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=8, messages=30)
    await stage.sync()
    stored = {t["thread_id"]: t["synced_to"] for t in await stage.rows("SELECT * FROM conversation_threads")}
    assert stored == {thread.thread_id: stage.updated(thread) for thread in stage.threads()}


async def test_what_comes_within_the_watermarks_own_second_is_not_lost(make_stage: MakeStage) -> None:
    stage = await make_stage(overlap=NO_OVERLAP, page_rows=500)
    first, second = stage.threads()[:2]
    stage.clock.advance(3600)
    stage.say(first)
    await stage.sync()
    assert (await stage.page_row())["watermark"] == stage.updated(first)
    # the clock stands: both are of the same second as the watermark
    stage.say(second)
    stage.say(first, 25)
    assert stage.updated(second) == stage.updated(first)
    await stage.sync()
    assert await stage.missing() == []


async def test_a_second_run_with_nothing_new_is_one_call_and_changes_nothing(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60)
    await stage.sync()
    before = await stage.rows("SELECT mid, updated_at, changed_batch FROM messages ORDER BY mid")
    calls = stage.calls()
    run = await stage.sync()
    assert stage.calls() == calls + 1
    assert (run["state"], run["inserted"], run["api_calls"]) == ("succeeded", 0, 1)
    assert await stage.rows("SELECT mid, updated_at, changed_batch FROM messages ORDER BY mid") == before


async def test_ten_changed_conversations_are_one_call(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60)
    await stage.sync()
    stage.clock.advance(3600)
    for thread in stage.threads()[20:30]:
        stage.say(thread, 3)
    calls = stage.calls()
    run = await stage.sync()
    assert stage.calls() == calls + 1
    assert (run["inserted"], run["repaired"]) == (30, 30)
    assert await stage.missing() == []
