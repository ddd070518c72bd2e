"""Graph in all weathers: a run ends right or says why, and the watermark is never wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from simulator import Fault
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage

WEATHERS = {
    "errors": ["http_500:0.15", "transient:0.15", "html:0.05"],
    "cut answers": ["cut_body:0.15", "empty_body:0.15", "timeout:0.05"],
    "limits": ["rate_limited:0.05", "throttled:0.03", "app_limit:0.02"],
    "heavy": ["too_heavy:0.3", "stale_cursor:0.05"],
    "everything": [
        "http_500:0.05",
        "transient:0.05",
        "html:0.03",
        "cut_body:0.05",
        "empty_body:0.03",
        "timeout:0.03",
        "rate_limited:0.03",
        "throttled:0.02",
        "app_limit:0.01",
        "too_heavy:0.05",
        "not_found:0.03",
        "stale_cursor:0.03",
        "bump:0.1",
    ],
}


async def watermark_is_right(stage: Stage) -> bool:
    """All that Graph shows of conversations as old as the watermark is stored, or known to be left to do."""
    watermark = (await stage.page_row())["watermark"]
    if watermark is None:
        return True
    left = {
        r["thread_id"]
        for r in await stage.rows(
            """
            SELECT thread_id FROM conversation_threads WHERE sync_error IS NOT NULL
            UNION SELECT thread_id FROM unfinished_threads
            """
        )
    }
    stored = {r["mid"] for r in await stage.rows("SELECT mid FROM messages WHERE sent_at IS NOT NULL")}
    lost = [
        m.mid
        for m in stage.world.true_messages(stage.page.id)
        if m.in_graph
        and m.mid not in stored
        and m.thread_id not in left
        and stage.updated(stage.world.find_thread(m.thread_id)) < watermark
    ]
    return lost == []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("weather", WEATHERS)
async def test_it_ends_right_or_says_why(make_stage: MakeStage, weather: str, seed: int) -> None:
    stage = await make_stage(conversations=30, messages=30, seed=seed, behaviour=behaviour(max_limit=7))
    stage.faults.add(*WEATHERS[weather])
    for _ in range(4):
        run_id = await stage.ask()
        for _ in range(30):
            await stage.work()
            await stage.do("UPDATE cooldowns SET until = now()")
            await stage.expire_leases()
            run = await stage.run(run_id)
            if run["state"] in {"succeeded", "failed"}:
                break
        assert run["state"] in {"succeeded", "failed"}, run
        assert run["state"] == "succeeded" or run["error"]
        assert await watermark_is_right(stage)
        stage.clock.advance(3600)
        for thread in stage.threads()[::4]:
            stage.say(thread, 3, each_seconds=1)
    stage.faults.clear()
    await stage.do("UPDATE cooldowns SET until = now()")
    await stage.do("UPDATE conversation_threads SET failed_at = failed_at - interval '2 days'")
    for _ in range(2):
        assert (await stage.sync())["state"] == "succeeded"
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM conversation_threads WHERE sync_error IS NOT NULL") == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []


async def test_two_workers_and_three_pages_end_in_the_same_rows_as_one(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3, conversations=20, messages=30, behaviour=behaviour(max_limit=6))
    for page in stage.world.pages:
        await stage.ask(page=page)
    holders: set[Any] = set()

    async def note() -> None:
        holders.update(r["lease_holder"] for r in await stage.rows("SELECT lease_holder FROM facebook_pages"))

    async with stage.worker(concurrency=1) as one, stage.worker(concurrency=1) as other:
        await one.wake()
        await other.wake()
        await note()
        await one.run_once()
        await other.run_once()
    assert len(holders - {None}) == 2
    assert {r["state"] for r in await stage.rows("SELECT state FROM sync_runs")} == {"succeeded"}
    for page in stage.world.pages:
        assert await stage.missing(page) == []


async def test_a_run_goes_on_with_a_version_that_was_not_asked_for(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add(Fault("old_version"))
    assert (await stage.sync())["state"] == "succeeded"
    assert await stage.missing() == []
