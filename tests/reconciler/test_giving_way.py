"""Long runs give way: what is new is not to wait for what is old."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from reconciler import threads as threads_module
from sql.sync_runs import cancel_runs, enqueue_due
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    import httpx

    from tests.reconciler.stage import MakeStage, Stage


@pytest.fixture(autouse=True)
def one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "AT_A_TIME", 1)


async def large(make_stage: MakeStage, **options: Any) -> Stage:
    return await make_stage(conversations=12, messages=60, behaviour=behaviour(max_limit=6), **options)


async def order_of_ends(stage: Stage) -> list[int]:
    return [r["id"] for r in await stage.rows("SELECT id FROM sync_runs ORDER BY finished_at")]


async def test_a_first_load_lists_all_with_recent_messages_before_it_reads_older_ones(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    await stage.sync()
    kinds = [call.path.rpartition("/")[2] for call in stage.graph.calls]
    assert kinds == ["conversations"] * 2 + ["messages"] * (len(kinds) - 2)
    assert len(kinds) > 10


async def test_older_messages_of_whoever_was_active_last_are_read_first(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    await stage.sync()
    read = [call.path.partition("/")[0] for call in stage.graph.calls if call.path.endswith("/messages")]
    order = [thread.thread_id for thread in stage.threads()]
    assert [order.index(thread_id) for thread_id in read] == sorted(order.index(thread_id) for thread_id in read)


async def test_a_first_load_gives_way_to_an_incremental_and_both_lose_nothing(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    load = await stage.ask()
    asked: list[int] = []

    async def something_new() -> None:
        stage.clock.advance(600)
        for thread in stage.threads()[:3]:
            stage.say(thread, 30, each_seconds=1)
        stage.say(stage.threads()[-1], 2)
        asked.append(await stage.ask())
        assert asked[0] != load

    stage.after_call(4, something_new)
    await stage.work()
    (new,) = asked
    assert await order_of_ends(stage) == [new, load]
    runs = [await stage.run(load), await stage.run(new)]
    assert [(r["state"], r["error"]) for r in runs] == [("succeeded", None)] * 2
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []
    stored = {t["thread_id"]: t["synced_to"] for t in await stage.rows("SELECT * FROM conversation_threads")}
    assert stored == {thread.thread_id: stage.updated(thread) for thread in stage.threads()}
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])


async def test_the_incremental_reads_only_what_is_new_and_the_load_goes_on_where_it_stood(
    make_stage: MakeStage,
) -> None:
    stage = await large(make_stage)
    await stage.ask()

    async def something_new() -> None:
        stage.clock.advance(86400)
        stage.say(stage.threads()[-1], 2)
        await stage.ask()

    stage.after_call(4, something_new)
    await stage.work()
    read = [(call.path, call.params.get("after")) for call in stage.graph.calls]
    # the load's two lists and two of its threads, then one list: one is new, the others wait for the load
    assert [path.rpartition("/")[2] for path, _ in read[:5]] == ["conversations"] * 2 + ["messages"] * 2 + [
        "conversations"
    ]
    deep = [page for page in read if page[0].endswith("/messages")]
    assert len(deep) == len(set(deep))
    assert await stage.missing() == []


async def test_many_interruptions_still_come_to_the_end(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    load = await stage.ask()

    async def news_at_every_page(request: httpx.Request) -> None:
        if request.url.path.endswith("/messages"):
            stage.clock.advance(60)
            stage.say(stage.threads()[-1])
            await stage.ask()

    stage.between.before = news_at_every_page
    async with stage.worker(concurrency=1) as worker:
        await worker.run_once()
    assert (await order_of_ends(stage))[-1] == load
    assert len(await stage.rows("SELECT * FROM sync_runs WHERE state = 'succeeded'")) > 10
    stage.between.before = None
    await stage.sync()
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []


async def test_threads_of_a_load_that_is_cancelled_while_another_runs_are_read_by_that_one(
    make_stage: MakeStage,
) -> None:
    """The watermark moves on: no list would reach them any more."""
    stage = await large(make_stage)
    load = await stage.ask()

    async def something_new() -> None:
        await stage.ask()
        stage.after_call(1, cancel)

    async def cancel() -> None:
        async with stage.pool.acquire() as connection:
            await cancel_runs(connection, [load])

    stage.after_call(4, something_new)
    await stage.work()
    assert [r["state"] for r in await stage.rows("SELECT state FROM sync_runs ORDER BY id")] == [
        "cancelled",
        "succeeded",
    ]
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []


async def test_threads_of_a_load_that_fails_after_it_gave_way_are_read_by_the_next_run(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    load = await stage.ask()
    asked: list[int] = []

    async def something_new() -> None:
        asked.append(await stage.ask())

    async def fail_the_load(_request: httpx.Request) -> None:
        if asked and (await stage.run(asked[0]))["state"] == "succeeded":
            stage.faults.add("no_permission")

    stage.after_call(4, something_new)
    stage.between.before = fail_the_load
    await stage.work()
    assert [r["state"] for r in await stage.rows("SELECT state FROM sync_runs ORDER BY id")] == ["failed", "succeeded"]
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])
    assert await stage.missing() != []
    stage.between.before = None
    stage.faults.clear()
    assert (await stage.run(load))["state"] == "failed"
    assert (await stage.sync())["state"] == "succeeded"
    assert await stage.missing() == []


async def test_a_backfill_gives_way_page_by_page(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    await stage.sync()
    backfill = await stage.ask("backfill", since=datetime(2000, 1, 1, tzinfo=UTC))
    asked: list[int] = []

    async def something_new() -> None:
        asked.append(await stage.ask())

    stage.after_call(1, something_new)
    await stage.work()
    assert await order_of_ends(stage) == [1, asked[0], backfill]
    assert (await stage.run(backfill))["state"] == "succeeded"
    assert await stage.missing() == []


async def test_an_audit_gives_way_to_the_schedule(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    await stage.sync()
    audit = await stage.ask("audit")
    stage.after_call(1, lambda: due(stage))
    await stage.work()
    runs = await stage.rows("SELECT id, kind, state FROM sync_runs WHERE id > 1 ORDER BY finished_at")
    assert [(r["kind"], r["state"]) for r in runs] == [("incremental", "succeeded"), ("audit", "succeeded")]
    assert runs[1]["id"] == audit


async def due(stage: Stage) -> None:
    """Let the schedule find the Page due."""
    await stage.do("UPDATE facebook_pages SET next_sync_at = now()")
    async with stage.pool.acquire() as connection:
        assert await enqueue_due(connection, every=stage.overlap) == 1


async def test_other_pages_news_do_not_wait_for_a_place_that_loads_hold(make_stage: MakeStage) -> None:
    stage = await large(make_stage, pages=2)
    load = await stage.ask()
    asked: list[int] = []

    async def something_new() -> None:
        asked.append(await stage.ask(page=stage.world.pages[1]))

    stage.after_call(4, something_new)
    async with stage.worker(concurrency=1) as worker:
        await worker.run_once()
    ends = await order_of_ends(stage)
    assert set(ends) == {load, *asked}
    for page in stage.world.pages:
        assert await stage.missing(page) == []


async def test_the_schedule_queues_a_page_whose_first_load_goes_on(make_stage: MakeStage) -> None:
    stage = await large(make_stage)
    load = await stage.ask()
    stage.after_call(4, lambda: due(stage))
    await stage.work()
    runs = await stage.rows("SELECT id, state FROM sync_runs ORDER BY finished_at")
    assert [r["state"] for r in runs] == ["succeeded"] * 2
    assert runs[-1]["id"] == load


async def test_a_first_load_that_has_nothing_older_to_read_ends_though_others_wait(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3, conversations=4, messages=3)
    for page in stage.world.pages:
        await stage.ask(page=page)
    async with stage.worker(concurrency=1) as worker:
        await worker.run_once()
    claims = [(await stage.page_row(page))["lease_term"] for page in stage.world.pages]
    assert claims == [1, 1, 1]
