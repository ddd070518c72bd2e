from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.asking import STEP_UP_AFTER, Asker, Ladder, Rung
from reconciler.graph.errors import BadAnswer, GraphUnavailable, TooHeavy
from sql.pages import read_page
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage

LIST_LIMITS = [100, 50, 25, 10, 5, 1, 1, 25]


async def asker_of(stage: Stage, *, reactions: bool = False, at: dict[str, int] | None = None) -> Asker:
    async with stage.pool.acquire() as connection:
        page = await read_page(connection, stage.page.id)
    assert page is not None
    token = stage.tokens.open(page.token_encrypted)
    return Asker(stage.pool, stage.client(), page, token, asks_reactions=reactions, at=at or {})


def limits(stage: Stage) -> list[int]:
    return [int(call.params["limit"]) for call in stage.graph.calls]


def ladder() -> Ladder:
    return Ladder((Rung(100), Rung(50), Rung(1)), Rung(1, is_lean=True))


def test_a_ladder_goes_up_again_step_by_step_after_some_answers() -> None:
    steps = ladder()
    assert steps.below(Rung(100)) == Rung(50)
    assert steps.below(Rung(50)) == Rung(1)
    for expected in (Rung(1), Rung(50), Rung(100)):
        assert steps.rung == expected
        for _ in range(STEP_UP_AFTER):
            steps.went_well(steps.rung)
    assert steps.rung == Rung(100)


def test_a_refusal_between_starts_the_count_anew() -> None:
    steps = ladder()
    steps.below(Rung(100))
    for _ in range(STEP_UP_AFTER - 1):
        steps.went_well(Rung(50))
    steps.below(Rung(100))
    for _ in range(STEP_UP_AFTER - 1):
        steps.went_well(Rung(50))
    assert steps.rung == Rung(50)


def test_two_who_ask_at_once_go_down_one_step_together() -> None:
    steps = ladder()
    assert steps.below(Rung(100)) == Rung(50)
    assert steps.below(Rung(100)) == Rung(50)


def test_the_least_is_asked_for_once_and_is_no_place_to_stand_on() -> None:
    steps = ladder()
    steps.below(Rung(50))
    assert steps.below(Rung(1)) == Rung(1, is_lean=True)
    assert steps.below(Rung(1, is_lean=True)) is None
    assert steps.rung == Rung(1)
    steps.went_well(Rung(1, is_lean=True))
    assert steps.rung == Rung(1)


def test_a_ladder_of_a_checkpoint_stands_where_it_stood_and_never_beside_its_rungs() -> None:
    assert Ladder((Rung(100), Rung(50)), Rung(1), at=1).rung == Rung(50)
    assert Ladder((Rung(100), Rung(50)), Rung(1), at=9).rung == Rung(50)
    assert Ladder((Rung(100), Rung(50)), Rung(1), at=-9).rung == Rung(100)


async def test_the_list_is_asked_for_less_and_less_and_last_without_messages(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("too_heavy")
    asker = await asker_of(stage)
    with pytest.raises(TooHeavy):
        await asker.conversations(None)
    assert limits(stage) == LIST_LIMITS
    nested = ["messages.limit(" in call.params["fields"] for call in stage.graph.calls]
    assert nested == [True] * 7 + [False]
    assert asker.at == {"list": 6, "messages": 0}


async def test_messages_are_asked_for_one_by_one_and_last_without_what_is_heavy(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("too_heavy")
    asker = await asker_of(stage)
    with pytest.raises(TooHeavy):
        await asker.messages("t_1", None)
    assert limits(stage) == [100, 50, 25, 10, 5, 1, 1]
    assert stage.graph.calls[-1].params["fields"] == "id,created_time,from,to,message"


async def test_a_graph_that_answers_but_not_to_this_is_asked_for_less(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("http_500")
    asker = await asker_of(stage)
    with pytest.raises(GraphUnavailable):
        await asker.conversations(None)
    assert limits(stage) == [100] * 5 + [25] * 5
    stage.graph.calls.clear()
    with pytest.raises(GraphUnavailable):
        await asker.messages("t_1", None)
    assert limits(stage) == [100] * 5 + [1] * 10


@pytest.mark.parametrize("fault", ["timeout", "html", "cut_body", "empty_body"])
async def test_a_graph_that_is_away_is_not_asked_for_less(make_stage: MakeStage, fault: str) -> None:
    stage = await make_stage()
    stage.faults.add(fault)
    with pytest.raises(GraphUnavailable):
        await (await asker_of(stage)).conversations(None)
    assert {call.params["limit"] for call in stage.graph.calls} <= {"100"}


async def test_reactions_are_asked_for_by_whole_walks_only(make_stage: MakeStage) -> None:
    stage = await make_stage()
    told = await (await asker_of(stage)).conversations(None)
    assert not told.has_reactions
    told = await (await asker_of(stage, reactions=True)).conversations(None)
    assert told.has_reactions
    asked = ["reactions" in call.params["fields"] for call in stage.graph.calls]
    assert asked == [False, True]


async def test_an_answer_to_the_least_says_that_reactions_were_not_asked_for(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("too_heavy#1x6")
    thread = stage.threads()[0]
    told = await (await asker_of(stage, reactions=True)).messages(thread.thread_id, None)
    assert not told.has_reactions
    assert "reactions" not in told.answer.data["data"][0]


async def test_a_refused_field_is_dropped_at_once_and_for_later(make_stage: MakeStage) -> None:
    stage = await make_stage(behaviour=behaviour())
    stage.refuse_field("reactions")
    asker = await asker_of(stage, reactions=True)
    told = await asker.conversations(None)
    assert not told.has_reactions
    assert stage.calls() == 2
    assert (await stage.page_row())["dropped_fields"] == ["reactions"]
    await (await asker_of(stage, reactions=True)).conversations(None)
    assert stage.calls() == 3


@pytest.mark.parametrize("field", ["id", "updated_time", "created_time"])
async def test_a_field_without_which_nothing_can_be_done_is_not_dropped(make_stage: MakeStage, field: str) -> None:
    stage = await make_stage()
    stage.refuse_field(field)
    with pytest.raises(BadAnswer, match="can't be left out"):
        await (await asker_of(stage)).conversations(None)
    assert (await stage.page_row())["dropped_fields"] == []


async def test_a_refusal_that_names_no_field_that_was_asked_for_is_no_loop(make_stage: MakeStage) -> None:
    stage = await make_stage()

    def refuse(_path: str, body: dict[str, Any]) -> None:
        body.clear()
        body["error"] = {"code": 100, "message": "(#100) Tried accessing nonexisting field (sticker)"}

    stage.between.change = refuse
    with pytest.raises(BadAnswer):
        await (await asker_of(stage)).conversations(None)
    assert stage.calls() == 2


async def test_an_id_cannot_lead_out_of_its_path(make_stage: MakeStage) -> None:
    stage = await make_stage()
    paths: list[bytes] = []

    async def note(request: Any) -> None:
        paths.append(request.url.raw_path)

    stage.between.before = note
    asker = await asker_of(stage)
    for thread_id in ("t_1/../me?x=", "../me"):
        with pytest.raises(Exception, match=r"Graph error"):
            await asker.messages(thread_id, None)
    assert paths[0].startswith(b"/v26.0/t_1%2F..%2Fme%3Fx%3D/messages?")
    assert paths[1].startswith(b"/v26.0/..%2Fme/messages?")
