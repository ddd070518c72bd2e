"""The walk of a Page's list: where it stops, what it checks, what it survives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage


async def test_it_stops_after_25_old_conversations_in_a_row(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    await stage.sync()
    assert stage.list_calls() == 10
    run = await stage.sync()
    assert run["state"] == "succeeded"
    # one is as new as the watermark, 25 are old
    assert stage.list_calls() == 10 + 3


async def test_one_new_conversation_among_old_ones_starts_the_count_anew(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    await stage.sync()
    stage.clock.advance(3600)
    late = stage.threads()[20]

    def misplaced(path: str, body: dict[str, Any]) -> None:
        for node in body["data"] if path.endswith("/conversations") else []:
            if node["id"] == late.thread_id:
                node["updated_time"] = "2026-09-01T08:30:00+0000"

    stage.between.change = misplaced
    calls = stage.list_calls()
    run = await stage.sync()
    assert run["order_violated"]
    assert stage.list_calls() == calls + 10


@pytest.mark.parametrize("order", ["shuffled", "shuffled_pages"])
async def test_a_list_out_of_order_is_walked_to_its_end_and_reported(make_stage: MakeStage, order: Any) -> None:
    stage = await make_stage(conversations=100, behaviour=behaviour(max_limit=10, order=order))
    await stage.sync()
    calls = stage.list_calls()
    stage.clock.advance(3600)
    for thread in stage.threads()[::9]:
        stage.say(thread)
    with capture_logs() as lines:
        run = await stage.sync()
    assert run["order_violated"]
    assert run["state"] == "succeeded"
    assert stage.list_calls() == calls + 10
    assert [line["event"] for line in lines].count("list_out_of_order") == 1
    assert await stage.missing() == []


async def test_a_list_in_order_is_not_reported(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=100, page_rows=10)
    assert not (await stage.sync())["order_violated"]


@pytest.mark.parametrize("cursors", ["position", "offset"])
async def test_a_conversation_bumped_between_two_pages_loses_nothing(make_stage: MakeStage, cursors: Any) -> None:
    """What it was told between two runs is behind the watermark by the time it is seen."""
    stage = await make_stage(conversations=60, behaviour=behaviour(max_limit=10, cursors=cursors))
    await stage.sync()
    stage.clock.advance(3600)
    quiet = stage.threads()[45]
    stage.say(quiet, 30, each_seconds=1)  # missed, and more than are nested
    stage.clock.advance(3600)
    for thread in stage.threads()[20:40]:
        stage.say(thread, each_seconds=1)
    stage.clock.advance(3600)
    stage.after_call(1, lambda: stage.say(quiet))
    await stage.sync()
    assert len(await stage.missing()) == 31
    stage.clock.advance(60)
    await stage.sync()
    assert await stage.missing() == []


async def test_short_and_empty_pages_do_not_end_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60, messages=40, behaviour=behaviour(max_limit=10, short_pages=0.7))
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert await stage.missing() == []


async def test_an_empty_page_with_a_next_one_does_not_end_it(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    seen: list[str] = []

    def first_is_empty(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations") and not seen:
            body["data"] = []
        seen.append(path)

    stage.between.change = first_is_empty
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert run["conversations"] == 4


async def test_an_answer_without_rows_fails_the_run_and_is_no_end_of_the_list(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)
    stage.between.change = lambda _path, body: body.clear()
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("failed", "an answer without a list of rows")
    assert (await stage.page_row())["watermark"] is None


async def test_a_stale_cursor_walks_the_list_anew(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, page_rows=10)
    stage.faults.add("stale_cursor#2x1")
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert stage.list_calls() == 2 + 1 + 3
    assert await stage.missing() == []
    assert not run["order_violated"]


async def test_a_run_resumed_after_its_cursor_went_stale_walks_the_list_anew(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, behaviour=behaviour(max_limit=10, cursor_seconds=600))
    run_id = await stage.ask()
    began = stage.clock()
    stage.kill_before_call(3)
    await stage.work_until_killed()
    stage.clock.advance(3600)
    stage.say(stage.threads()[25], 25)
    await stage.expire_leases()
    await stage.work()
    run = await stage.run(run_id)
    assert run["state"] == "succeeded"
    assert run["first_response_at"] == began
    assert (await stage.page_row())["watermark"] <= began
    await stage.sync()
    assert await stage.missing() == []


async def test_cursors_that_go_stale_again_and_again_fail_the_run(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, page_rows=10)
    stage.faults.add("stale_cursor")
    run = await stage.sync()
    assert run["state"] == "failed"
    assert run["error"].startswith("the list's cursors go stale again and again")
    assert stage.list_calls() == 2 * 4
    assert (await stage.page_row())["watermark"] is None


async def test_a_list_that_leads_back_to_its_beginning_fails_the_run(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, page_rows=10)
    cursors: list[str] = []

    def circle(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            paging = body.setdefault("paging", {"cursors": {}})
            cursors.append(paging["cursors"].get("after", ""))
            paging["cursors"]["after"] = cursors[0]
            paging["next"] = "https://graph.test/more"

    stage.between.change = circle
    run = await stage.sync()
    assert (run["state"], stage.list_calls()) == ("failed", 2)
    assert "leads back" in run["error"]


async def test_too_heavy_asks_for_less_from_the_same_cursor(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=150, messages=1)
    stage.faults.add("too_heavy#2x3")
    run = await stage.sync()
    assert run["state"] == "succeeded"
    asked = [(call.params.get("after"), int(call.params["limit"]), call.error_code) for call in stage.graph.calls]
    # 50 conversations are left after the first answer
    assert [limit for _, limit, _ in asked] == [100, 100, 50, 25, *[10] * 5]
    heavy = [cursor for cursor, _, code in asked if code == 1]
    assert len(heavy) == 3
    assert len(set(heavy)) == 1
    assert await stage.missing() == []


async def test_a_page_that_is_always_heavy_is_read_without_nested_messages(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=5, messages=8, behaviour=behaviour(max_rows=5))
    stage.behaviour.max_rows = 25
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert await stage.missing() == []


async def test_one_conversation_that_graph_cannot_show_holds_nobody_back(make_stage: MakeStage) -> None:
    """Whatever asks for the nested messages of it fails, for ever."""
    stage = await make_stage(conversations=30, page_rows=10)
    poisoned = stage.threads()[14]
    stage.poison(poisoned)
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert run["error"] == "1 conversations could not be read: tried again next time"
    assert {line.split()[0] for line in await stage.missing()} == {
        m.mid for m in stage.world.true_messages(stage.page.id) if m.thread_id == poisoned.thread_id and m.in_graph
    }
    assert (await stage.thread_row(poisoned.thread_id))["synced_to"] is None
    assert (await stage.page_row())["watermark"] is not None


async def test_a_listed_conversation_that_cannot_be_read_is_tried_by_id_next_time(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)
    odd = stage.threads()[3]

    def without_time(path: str, body: dict[str, Any]) -> None:
        for node in body["data"] if path.endswith("/conversations") else []:
            if node["id"] == odd.thread_id:
                node["updated_time"] = "some day"

    stage.between.change = without_time
    run = await stage.sync()
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    assert (await stage.thread_row(odd.thread_id))["sync_error"].startswith("Graph shows it in a shape")
    assert await stage.missing() != []
    stage.between.change = None
    await stage.sync()
    assert await stage.missing() == []
    assert (await stage.thread_row(odd.thread_id))["sync_error"] is None


async def test_rows_that_are_no_conversations_cost_no_other(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)

    def odd_rows(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            body["data"] = [None, 7, "t_1", {}, {"id": None}, *body["data"]]

    stage.between.change = odd_rows
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []


async def test_a_conversation_without_nested_messages_is_read_from_its_newest_one(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)

    def without(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            del body["data"][0]["messages"]
            body["data"][1]["messages"]["paging"] = {"next": "https://graph.test/without-a-cursor"}

    stage.between.change = without
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    assert stage.calls("/messages") == 2


async def test_what_postgres_refuses_is_left_out_alone(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)
    bad, good = stage.threads()[2], stage.threads()[3]
    await stage.do(f"ALTER TABLE conversations ADD CHECK (psid <> '{bad.psid}')")
    run = await stage.sync()
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    assert "CheckViolation" in (await stage.thread_row(bad.thread_id))["sync_error"]
    assert (await stage.thread_row(good.thread_id))["synced_to"] is not None
    assert {m.split()[0] for m in await stage.missing()} == {
        m.mid for m in stage.world.true_messages(stage.page.id) if m.psid == bad.psid and m.in_graph
    }


async def test_a_field_that_graph_does_not_know_is_dropped_and_not_asked_for_again(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)
    stage.behaviour.has_reply_to = False
    await stage.sync()
    assert (await stage.page_row())["dropped_fields"] == ["reply_to"]
    refused = [call for call in stage.graph.calls if call.error_code == 100]
    assert len(refused) == 1
    calls = stage.calls()
    await stage.sync()
    assert stage.calls() == calls + 1


async def test_a_refused_field_that_cannot_be_left_out_fails_the_run_by_its_name(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6)
    stage.refuse_field("updated_time")
    run = await stage.sync()
    assert run["state"] == "failed"
    assert "can't be left out" in run["error"]
    assert "updated_time" in run["error"]


@pytest.mark.parametrize(("field", "dropped"), [("shares", "shares"), ("link", "shares"), ("messages", "messages")])
async def test_any_other_field_can_be_left_out(make_stage: MakeStage, field: str, dropped: str) -> None:
    stage = await make_stage(conversations=6)
    stage.refuse_field(field)
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert dropped in (await stage.page_row())["dropped_fields"]
    assert len(await stage.rows("SELECT * FROM conversation_threads WHERE synced_to IS NOT NULL")) == 6
