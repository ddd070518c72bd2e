"""Meta's limits: who waits, how long, and that a restart does not forget it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from simulator import Fault, Limits

if TYPE_CHECKING:
    import asyncpg

    from tests.reconciler.stage import MakeStage, Stage


async def cooldowns(stage: Stage) -> dict[str, asyncpg.Record]:
    rows = await stage.rows("SELECT scope, reason, until - now() AS left FROM cooldowns WHERE until > now()")
    return {row["scope"]: row for row in rows}


async def end_cooldowns(stage: Stage) -> None:
    await stage.do("UPDATE cooldowns SET until = now()")


@pytest.mark.parametrize(
    ("fault", "code", "least", "most"),
    [
        ("rate_limited", "613", timedelta(seconds=2), timedelta(seconds=5)),
        ("throttled@7", "80006", timedelta(minutes=6), timedelta(minutes=7)),
    ],
)
async def test_a_limited_page_waits_and_its_run_goes_on_where_it_stood(
    make_stage: MakeStage, fault: str, code: str, least: timedelta, most: timedelta
) -> None:
    stage = await make_stage(conversations=9, page_rows=3)
    stage.faults.add(f"{fault}#2x1")
    run = await stage.sync()
    assert run["state"] == "queued"
    assert run["error"].startswith("waits until ")
    assert code in run["error"]
    assert run["started_at"] is not None
    assert run["api_calls"] == stage.calls() == 2
    (found,) = (await cooldowns(stage)).items()
    assert found[0] == f"page:{stage.page.id}"
    assert least < found[1]["left"] <= most
    page = await stage.page_row()
    assert (page["state"], page["watermark"], page["lease_holder"]) == ("active", None, None)
    # a new process: nothing but the database knows
    await stage.work()
    assert stage.calls() == 2
    await end_cooldowns(stage)
    await stage.work()
    run = await stage.run(run["id"])
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert stage.list_calls() == 1 + 1 + 2
    assert await stage.missing() == []


async def test_one_pages_limit_does_not_concern_another(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3)
    limited = stage.world.pages[1]
    stage.trouble("throttled", limited)
    for page in stage.world.pages:
        await stage.ask(page=page)
    await stage.work()
    states = {r["page_id"]: r["state"] for r in await stage.rows("SELECT page_id, state FROM sync_runs")}
    assert states == {page.id: "queued" if page is limited else "succeeded" for page in stage.world.pages}


async def test_the_apps_limit_stops_every_page_in_every_process(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3, conversations=9, page_rows=3)
    stage.faults.add(Fault("app_limit", page_id=stage.page.id, first=2, times=1))
    for page in stage.world.pages:
        await stage.ask(page=page)
    async with stage.worker(concurrency=1) as worker:
        await worker.run_once()
    assert list(await cooldowns(stage)) == ["app"]
    assert {r["state"] for r in await stage.rows("SELECT state FROM sync_runs")} == {"queued"}
    calls = stage.calls()
    assert calls == 2
    await stage.work()
    assert stage.calls() == calls
    stage.faults.clear()
    await end_cooldowns(stage)
    await stage.work()
    for page in stage.world.pages:
        assert await stage.missing(page) == []


async def test_runs_that_are_under_way_stop_when_the_app_has_to_wait(make_stage: MakeStage) -> None:
    """Another process met the limit: this one sees it at its next step."""
    stage = await make_stage(conversations=9, page_rows=3)

    async def met_elsewhere() -> None:
        await stage.do("INSERT INTO cooldowns VALUES ('app', now() + interval '1 hour', 0, 'met elsewhere')")

    stage.after_call(1, met_elsewhere)
    run = await stage.sync()
    assert (run["state"], stage.calls()) == ("queued", 1)
    assert len(await stage.rows("SELECT * FROM conversation_threads")) == 3


async def test_a_limit_that_is_used_up_is_kept_before_it_is_met(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=9, page_rows=3, limits=Limits(None, daily_calls=2))
    run = await stage.sync()
    assert run["state"] == "queued"
    assert "used up" in run["error"]
    assert {call.status for call in stage.graph.calls} == {200}
    assert stage.calls() == 2
    assert list(await cooldowns(stage)) == [f"page:{stage.page.id}"]


async def test_a_limit_met_again_and_again_makes_the_pauses_longer(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("rate_limited")
    run_id = await stage.ask()
    pauses = []
    for _ in range(5):
        await stage.work()
        pauses.append(round((await stage.one("SELECT until - now() AS left FROM cooldowns"))["left"].total_seconds()))
        await end_cooldowns(stage)
    assert pauses == [5, 10, 20, 40, 60]
    stage.faults.clear()
    await stage.work()
    assert (await stage.run(run_id))["state"] == "succeeded"


async def test_older_messages_wait_too_and_none_is_read_twice(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=12, messages=60)
    stage.faults.add(Fault("throttled", path="/messages", first=3, times=1))
    run = await stage.sync()
    assert run["state"] == "queued"
    assert await stage.rows("SELECT * FROM unfinished_threads") != []
    await end_cooldowns(stage)
    await stage.work()
    assert (await stage.run(run["id"]))["state"] == "succeeded"
    assert await stage.missing() == []
    assert (await stage.rows("SELECT count(*) FROM conversation_threads WHERE sync_error IS NOT NULL"))[0][0] == 0
