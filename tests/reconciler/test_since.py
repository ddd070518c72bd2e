"""`since`: sent only where it is proven, and nothing is lost where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest

from simulator import Fault
from sql.capabilities import Capability, list_capabilities, put_capabilities

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage

    Mode = Literal["ignored", "honoured", "refused", "lying"]

MODES = ("ignored", "honoured", "refused", "lying")


async def trust(stage: Stage) -> None:
    """Let `since` be taken for honoured."""
    async with stage.pool.acquire() as connection:
        await put_capabilities(connection, stage.page.id, [Capability("since", "honoured")])


async def answer(stage: Stage) -> str | None:
    async with stage.pool.acquire() as connection:
        known = await list_capabilities(connection, stage.page.id)
    return next((row["answer"] for row in known if row["name"] == "since"), None)


def sent(stage: Stage) -> list[str | None]:
    """The `since` of every call of a list with messages."""
    calls = [c for c in stage.graph.calls if c.path.endswith("/conversations") and "messages" in c.params["fields"]]
    return [call.params.get("since") for call in calls]


async def something_new(stage: Stage, n: int = 12) -> None:
    """A few of many conversations go on, and no webhook tells."""
    stage.clock.advance(7200)
    for thread in stage.threads()[::4][:n]:
        stage.say(thread, 2, each_seconds=1)
    stage.graph.calls.clear()


async def everything(stage: Stage) -> list[Any]:
    return await stage.rows("SELECT mid, psid, thread_id, direction, sent_at, text FROM messages ORDER BY mid")


async def test_it_is_not_sent_to_a_page_of_which_nothing_is_known(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=50)
    stage.behaviour.since = "honoured"
    await stage.sync()
    await something_new(stage)
    await stage.sync()
    assert sent(stage) == [None]
    assert await stage.missing() == []


@pytest.mark.parametrize("known", ["ignored", "refused", "lying", "unknown"])
async def test_it_is_not_sent_to_a_page_that_was_found_to_do_otherwise(make_stage: MakeStage, known: str) -> None:
    stage = await make_stage(conversations=50)
    async with stage.pool.acquire() as connection:
        await put_capabilities(connection, stage.page.id, [Capability("since", known)])
    await stage.sync()
    await something_new(stage)
    await stage.sync()
    assert sent(stage) == [None]


async def test_it_is_the_runs_stop_time_and_spares_the_old_end_of_the_list(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    assert set(sent(stage)) == {None}  # the first load has no stop time
    page = await stage.page_row()
    await something_new(stage)
    await stage.sync()
    stop = int((page["watermark"] - stage.overlap).timestamp())
    assert sent(stage) == [str(stop)] * 2
    assert await stage.missing() == []


@pytest.mark.parametrize("kind", ["full", "audit", "backfill"])
async def test_only_incremental_runs_send_it(make_stage: MakeStage, kind: str) -> None:
    stage = await make_stage(conversations=40)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    await something_new(stage)
    window: dict[str, Any] = {"since": stage.clock()} if kind == "backfill" else {}
    await stage.sync(kind, **window)
    assert set(sent(stage)) == {None}


async def test_a_run_that_began_without_it_goes_on_without_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    stage.behaviour.since = "honoured"
    await stage.sync()
    await something_new(stage)
    await stage.ask()
    stage.kill_before_call(2)
    await stage.work_until_killed()
    await trust(stage)
    await stage.expire_leases()
    await stage.work()
    assert len(sent(stage)) > 2
    assert set(sent(stage)) == {None}
    assert await stage.missing() == []


@pytest.mark.parametrize("mode", ["ignored", "honoured", "refused"])
async def test_whatever_graph_does_with_it_a_run_ends_in_the_same_rows(make_stage: MakeStage, mode: Mode) -> None:
    stage = await make_stage(conversations=100, messages=25, page_rows=10)
    stage.behaviour.since = mode
    await trust(stage)
    await stage.sync()
    await something_new(stage)
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])


async def test_the_stop_rule_holds_where_it_is_ignored(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    await trust(stage)
    await stage.sync()
    await something_new(stage, 1)
    await stage.sync()
    assert len(sent(stage)) == 3


async def test_where_it_is_refused_the_same_call_is_made_without_it_and_it_is_sent_no_more(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    stage.behaviour.since = "refused"
    await trust(stage)
    await stage.sync()
    await something_new(stage)
    await stage.sync()
    first, *others = sent(stage)
    assert first is not None
    assert set(others) == {None}
    assert await answer(stage) == "refused"
    await something_new(stage)
    await stage.sync()
    assert set(sent(stage)) == {None}
    assert await stage.missing() == []


async def test_it_is_not_to_blame_for_a_cursor_that_went_stale(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    await something_new(stage, 25)
    stage.faults.add(Fault("stale_cursor", times=2))
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await answer(stage) == "honoured"
    assert await stage.missing() == []


async def test_it_may_be_refused_with_a_cursor_alone(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    await something_new(stage, 25)

    def refuse(_call: object) -> None:
        stage.behaviour.since = "refused"

    stage.graph.hooks.append(refuse)
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await answer(stage) == "refused"
    assert await stage.missing() == []


async def test_where_it_lies_the_next_audit_ends_in_the_same_rows_and_it_is_sent_no_more(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=100, messages=25)
    stage.behaviour.since = "lying"
    await trust(stage)
    await stage.sync()
    await something_new(stage, 24)
    await stage.sync()
    assert await stage.missing() != []
    stage.clock.advance(60)
    run = await stage.sync("audit")
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    assert await answer(stage) == "lying"
    await something_new(stage, 24)
    await stage.sync()
    assert set(sent(stage)) == {None}
    assert await stage.missing() == []


async def test_an_audit_finds_out_by_what_was_missed_though_every_proof_is_passed(make_stage: MakeStage) -> None:
    """It hides one conversation in a hundred, and none of those that the proof looks at."""
    stage = await make_stage(conversations=100, messages=25)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    await something_new(stage, 24)
    hidden = stage.threads()[20]

    def hide(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations") and stage.graph.calls[-1].params.get("since"):
            body["data"] = [node for node in body["data"] if node["id"] != hidden.thread_id]

    stage.between.change = hide
    await stage.sync()
    assert len(await stage.missing()) == 2
    for thread in stage.threads()[30:60]:  # now it is far down the list
        stage.say(thread)
    for _ in range(2):
        stage.clock.advance(60)
        assert (await stage.sync("audit"))["state"] == "succeeded"
        assert await answer(stage) == "lying"
    assert await stage.missing() == []


async def test_an_audit_whose_list_was_overlooked_by_nobody_blames_nobody(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60, messages=25, page_rows=10)
    stage.behaviour.since = "honoured"
    await trust(stage)
    await stage.sync()
    await something_new(stage, 20)
    await stage.sync()
    await something_new(stage, 20)
    await stage.sync("audit")
    assert await answer(stage) == "honoured"


@pytest.mark.parametrize("mode", MODES)
async def test_every_audit_finds_out_what_graph_does_with_it(make_stage: MakeStage, mode: Mode) -> None:
    stage = await make_stage(conversations=60)
    stage.behaviour.since = mode
    run = await stage.sync("audit")
    assert await answer(stage) == mode
    assert run["api_calls"] == stage.calls() == 2 + stage.calls("/messages")


async def test_an_audit_that_finds_that_it_filters_no_more_lets_it_be_sent_no_more(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60)
    stage.behaviour.since = "honoured"
    await stage.sync("audit")
    assert await answer(stage) == "honoured"
    stage.behaviour.since = "ignored"
    await stage.sync("audit")
    assert await answer(stage) == "ignored"
    stage.behaviour.since = "honoured"
    await stage.sync("audit")
    assert await answer(stage) == "honoured"


async def test_where_it_has_lied_no_audit_trusts_it_again(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60)
    stage.behaviour.since = "lying"
    await stage.sync("audit")
    stage.behaviour.since = "honoured"
    calls = stage.list_calls()
    await stage.sync("audit")
    assert await answer(stage) == "lying"
    assert stage.list_calls() == calls + 1


@pytest.mark.parametrize("mode", ["honoured", "lying"])
@pytest.mark.parametrize("size", [{"conversations": 20}, {"conversations": 60, "page_rows": 7}])
async def test_few_conversations_prove_nothing_so_that_a_lie_that_they_do_not_show_loses_nothing(
    make_stage: MakeStage, size: dict[str, int], mode: Mode
) -> None:
    stage = await make_stage(**size)
    stage.behaviour.since = "honoured"  # so that the proof would be passed
    await stage.sync("audit")
    assert await answer(stage) == "unknown"
    stage.behaviour.since = mode
    await something_new(stage, 24)
    await stage.sync()
    assert set(sent(stage)) == {None}
    assert await stage.missing() == []


@pytest.mark.parametrize("fault", ["http_500", "html"])
async def test_an_audit_that_cannot_find_out_leaves_what_is_known(make_stage: MakeStage, fault: str) -> None:
    stage = await make_stage(conversations=30)
    stage.behaviour.since = "honoured"
    await trust(stage)
    stage.faults.add(Fault(fault, path="/conversations", first=2, times=5))
    run = await stage.sync("audit")
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await answer(stage) == "honoured"


async def test_too_few_conversations_leave_it_unknown(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=2)
    await stage.sync("audit")
    assert await answer(stage) == "unknown"
