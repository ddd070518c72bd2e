"""Rolling audits: a few calls every night, and in the end everything is verified."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reconciler.audit import Share
from reconciler.schedule import Schedule
from simulator import Fault
from sql.audits import UNKNOWN_BUDGET
from sql.leases import Run
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage

LONG = 60


async def night(stage: Stage, budget: int) -> Any:
    """Let a night pass, with an audit that may make so many calls; returns its run."""
    stage.clock.advance(86400)
    before = stage.calls()
    row = await stage.one(
        """
        INSERT INTO sync_runs (page_id, kind, requested_by, call_budget) VALUES ($1, 'audit', 'schedule', $2)
        RETURNING id
        """,
        stage.page.id,
        budget,
    )
    await stage.work()
    run = await stage.run(row["id"])
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert run["api_calls"] == stage.calls() - before <= budget
    return run


async def audited(stage: Stage) -> set[str]:
    return {r["thread_id"] for r in await stage.rows("SELECT * FROM conversation_threads WHERE audited_at IS NOT NULL")}


async def test_it_makes_no_more_calls_than_its_share(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=20, messages=LONG, page_rows=10)
    await stage.sync("full")
    for budget in (1, 2, 5, 17):
        await night(stage, budget)


async def test_in_a_few_nights_every_conversation_is_verified(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=20, messages=LONG, behaviour=behaviour(max_limit=20))
    await stage.sync("full")
    covered = [0]
    while covered[-1] < 20:
        await night(stage, 12)
        covered.append(len(await audited(stage)))
        assert covered[-1] > covered[-2], "a night without progress"
    assert len(covered) > 3
    rows = await stage.rows("SELECT DISTINCT audit_state FROM conversation_threads")
    assert [r["audit_state"] for r in rows] == ["verified"]
    assert await stage.rows("SELECT * FROM audit_listings") == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []


async def test_the_least_recently_audited_come_first(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=12, messages=LONG, behaviour=behaviour(max_limit=50))
    await stage.sync("full")
    stage.clock.advance(60)
    await stage.sync("audit")
    order = [thread.thread_id for thread in stage.threads() if thread.count() > 30][::-1]
    for n, thread_id in enumerate(order):
        await stage.do(
            "UPDATE conversation_threads SET audit_tried_at = now() - $2 * interval '1 day' WHERE thread_id = $1",
            thread_id,
            len(order) - n,
        )
    calls = len(stage.graph.calls)
    await night(stage, 6)
    read = [c.path.partition("/")[0] for c in list(stage.graph.calls)[calls:] if c.path.endswith("/messages")]
    first = list(dict.fromkeys(read))
    assert len(first) >= 2
    assert first == order[: len(first)]


async def test_a_conversation_too_long_for_a_night_keeps_no_other_from_its_turn(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=8, messages=30, behaviour=behaviour(max_limit=25))
    giant = stage.threads()[3]
    stage.say(giant, 400)
    await stage.sync("full")
    for _ in range(12):
        await night(stage, 8)
    assert await audited(stage) == {thread.thread_id for thread in stage.threads()} - {giant.thread_id}
    stage.clock.advance(60)
    await stage.sync("audit")
    assert giant.thread_id in await audited(stage)


async def test_a_list_longer_than_a_night_is_gone_on_with_in_the_next(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60, messages=4, page_rows=5)
    await stage.sync("full")
    for thread in stage.threads()[-5:]:
        for table in ("conversation_threads", "conversations", "messages"):
            await stage.do(f"DELETE FROM {table} WHERE psid = $1", thread.psid)
    cursors = []
    for _ in range(4):
        calls = len(stage.graph.calls)
        await night(stage, 8)
        listed = [c for c in list(stage.graph.calls)[calls:] if c.path.endswith("/conversations")]
        cursors += [c.params.get("after") for c in listed if "messages" in c.params["fields"]]
    assert len(cursors) == len(set(cursors)) + cursors.count(None) - 1
    known = {r["thread_id"] for r in await stage.rows("SELECT thread_id FROM conversation_threads")}
    assert known == {thread.thread_id for thread in stage.threads()}
    await stage.sync()
    assert await stage.missing() == []


async def test_a_cursor_that_went_stale_over_the_day_costs_one_call(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60, messages=4, behaviour=behaviour(max_limit=5, cursor_seconds=3600.0))
    await stage.sync("full")
    covered = [0]
    while covered[-1] < 60:
        await night(stage, 10)
        covered.append(len(await audited(stage)))
        assert covered[-1] > covered[-2], "a night without progress"


async def test_it_promises_nothing_to_the_runs_after_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=LONG, page_rows=10)
    await stage.sync("full")
    stage.clock.advance(3600)
    for thread in stage.threads()[::3]:
        stage.say(thread, 30, each_seconds=1)
    before = await stage.page_row()
    await night(stage, 4)
    after = await stage.page_row()
    for name in ("watermark", "last_synced_at", "next_sync_at"):
        assert after[name] == before[name]
    await stage.sync()
    assert await stage.missing() == []


async def test_what_it_finds_behind_and_cannot_read_any_more_is_read_by_the_next_sync(make_stage: MakeStage) -> None:
    """No list of an incremental run would reach it."""
    stage = await make_stage(conversations=60, messages=4, page_rows=10)
    await stage.sync("full")
    stage.clock.advance(3600)
    thread = stage.threads()[40]
    stage.say(thread, 40, each_seconds=1)
    stage.clock.advance(86400)
    for other in stage.threads()[1:40]:
        stage.say(other)
    # as if an earlier walk had overlooked it
    newest = stage.updated(stage.threads()[0])
    await stage.do("UPDATE facebook_pages SET watermark = $1", newest)
    await stage.do("UPDATE conversation_threads SET synced_to = $1 WHERE thread_id <> $2", newest, thread.thread_id)
    await night(stage, 10)
    row = await stage.thread_row(thread.thread_id)
    assert row["sync_error"] is not None or row["audit_state"] == "repaired"
    await stage.sync()
    assert not [m for m in await stage.missing() if m.split()[0] in {s.message.mid for s in thread.newest_first()}]


async def test_an_error_of_the_page_ends_it_and_the_next_night_goes_on(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, messages=LONG, behaviour=behaviour(max_limit=20))
    await stage.sync("full")
    stage.faults.add(Fault("no_permission", path="/messages", first=3, times=1))
    row = await stage.one(
        """
        INSERT INTO sync_runs (page_id, kind, requested_by, call_budget) VALUES ($1, 'audit', 'schedule', 9)
        RETURNING id
        """,
        stage.page.id,
    )
    await stage.work()
    assert (await stage.run(row["id"]))["state"] == "failed"
    for _ in range(6):
        await night(stage, 9)
    assert len(await audited(stage)) == 6


async def test_the_schedule_audits_every_page_once_a_night_within_its_share(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3, conversations=6, messages=LONG, page_rows=10)
    for page in stage.world.pages:
        await stage.sync("full", page)
    await stage.do("UPDATE facebook_pages SET daily_call_budget = 40 WHERE page_id = $1", stage.page.id)
    async with stage.worker() as worker:
        schedule = Schedule(stage.pool, worker, interval=timedelta(hours=1), audit_share=0.5)
        assert (await schedule.run_once())["queued"] == 0
        await stage.do("UPDATE facebook_pages SET next_audit_at = now()")
        assert (await schedule.run_once())["queued"] == 3
        assert (await schedule.run_once())["queued"] == 0
        await worker.run_once()
    runs = await stage.rows("SELECT * FROM sync_runs WHERE requested_by = 'schedule' ORDER BY call_budget")
    assert [(run["kind"], run["state"]) for run in runs] == [("audit", "succeeded")] * 3
    assert [run["call_budget"] for run in runs] == [20, UNKNOWN_BUDGET, UNKNOWN_BUDGET]
    assert runs[0]["page_id"] == stage.page.id
    assert all(0 < run["api_calls"] <= run["call_budget"] for run in runs)


def test_a_share_counts_what_the_run_has_called_before_and_in_this_process() -> None:
    calls = 100  # of other runs of this process

    def run(budget: int | None, api_calls: int) -> Run:
        unset: dict[str, Any] = dict.fromkeys(Run._fields)
        return Run(**unset | {"call_budget": budget, "api_calls": api_calls})

    share = Share(run(10, 3), lambda: calls)
    assert share.is_limited
    assert not share.is_half_spent()
    calls += 2
    assert share.is_half_spent()
    assert not share.is_spent()
    calls += 5
    assert share.is_spent()
    unlimited = Share(run(None, 3), lambda: calls)
    calls += 10**6
    assert not unlimited.is_limited
    assert not unlimited.is_spent()
    assert not unlimited.is_half_spent()
