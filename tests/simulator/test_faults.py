from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from simulator import Fault, FaultError, Faults, Graph, Limits, parse_fault
from simulator.faults import KNOWN
from tests.simulator.conftest import Caller

if TYPE_CHECKING:
    from starlette.requests import Request

    from simulator import TurnedClock, World


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("http_500", 500, 1),
        ("transient", 503, 2),
        ("token_dead", 400, 190),
        ("no_permission", 403, 200),
        ("app_limit", 403, 4),
        ("rate_limited", 400, 613),
        ("throttled", 400, 80006),
        ("too_heavy", 500, 1),
        ("not_found", 400, 100),
        ("blocked", 400, 368),
    ],
)
async def test_a_fault_is_answered_with_its_error(call: Caller, name: str, status: int, code: int) -> None:
    call.graph.faults.add(name)
    response = await call.get("me")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert call.graph.faults.happened == {name: 1}


async def test_a_throttled_page_is_told_for_how_long(call: Caller) -> None:
    call.graph.faults.add("throttled@17")
    usage = json.loads((await call.get("me")).headers["x-business-use-case-usage"])
    (entry,) = usage[call.page.id]
    assert (entry["type"], entry["estimated_time_to_regain_access"]) == ("messenger", 17)


async def test_bodies_can_be_html_cut_or_missing(call: Caller) -> None:
    whole = (await call.get("me")).content
    call.graph.faults.add("html#1x1", "cut_body#2x1", "empty_body#3x1")
    html, cut, empty, right = [await call.get("me") for _ in range(4)]
    assert (html.status_code, html.content[:9]) == (502, b"<!DOCTYPE")
    assert (cut.status_code, cut.content) == (200, whole[: len(whole) // 2])
    assert (empty.status_code, empty.content) == (200, b"")
    assert right.content == whole


async def test_a_script_says_which_calls_fail(call: Caller) -> None:
    call.graph.faults.add(Fault("token_dead", value=460, first=3, path="/conversations"))
    codes = []
    for path in ("me", f"{call.page.id}/conversations") * 4:
        response = await call.get(path)
        codes.append(response.json().get("error", {}).get("error_subcode"))
    assert codes == [None, None, None, None, None, 460, None, 460]


async def test_a_fault_of_one_page_leaves_the_others_alone(call: Caller) -> None:
    other = call.graph.world.pages[1]
    call.graph.faults.add(Fault("http_500", page_id=other.id))
    assert (await call.get("me")).status_code == 200
    assert (await call.get("me", token=other.access_token)).status_code == 500


def test_chance_is_the_same_for_the_same_seed() -> None:
    runs = []
    for _ in range(2):
        faults = Faults(["http_500:0.3"], seed=4)
        runs.append(["http_500" in faults.of("1", "me", has_cursor=False).names for _ in range(200)])
    assert runs[0] == runs[1]
    assert 30 < sum(runs[0]) < 90


async def test_a_stale_cursor_hits_only_calls_with_one(call: Caller) -> None:
    call.graph.faults.add("stale_cursor#1x1")
    path = f"{call.page.id}/conversations"
    cursor = (await call.json(path))["paging"]["cursors"]["after"]
    assert (await call.error(path, after=cursor))["code"] == 100
    await call.json(path, after=cursor)


async def test_latency_is_waited_for_and_a_timeout_never_answered(world: World) -> None:
    waited: list[float] = []
    hung: list[str] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def hang(request: Request) -> None:
        hung.append(request.url.path)
        raise httpx.ReadTimeout("never answered")

    graph = Graph(world, faults=Faults(["latency@0.3"]), sleep=sleep, hang=hang)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test") as http:
        call = Caller(graph, http)
        for _ in range(300):
            await call.json("me")
        assert 0.2 < sum(waited) / len(waited) < 0.4
        graph.faults.add("timeout")
        with pytest.raises(httpx.ReadTimeout):
            await call.get("me")
    assert hung == ["/v26.0/me"]


async def test_a_bump_moves_a_row_from_below_to_the_top_while_one_walks(call: Caller, clock: TurnedClock) -> None:
    clock.advance(1)
    call.graph.faults.add("bump#1x1")
    path = f"{call.page.id}/conversations"
    before = [row["id"] for row in (await call.json(path, limit=100))["data"]]
    after = [row["id"] for row in (await call.json(path, limit=100))["data"]]
    assert after[0] == before[45]
    assert sorted(after) == sorted(before)


async def test_another_version_than_asked_for_may_answer(call: Caller) -> None:
    call.graph.faults.add("old_version")
    assert (await call.get("me")).headers["facebook-api-version"] == "v22.0"


async def test_hooks_see_each_call(call: Caller) -> None:
    seen: list[str] = []
    call.graph.hooks.append(lambda made: seen.append(made.path))
    await call.get("me")
    await call.get("t_1")
    assert seen == ["me", "t_1"]


def test_an_unknown_fault_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault("gremlins:0.5")
    assert all(name in str(refused.value) for name in ("gremlins", *KNOWN))


@pytest.mark.parametrize(
    "text", ["", "http_500:2", "http_500:x", "http_500#0", "http_500#1x0", "latency@1e9", "a b", "html@3"]
)
def test_a_fault_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse_fault(text)


def test_a_fault_is_read_from_its_text() -> None:
    assert parse_fault("token_dead:0.5@460#12x3") == Fault("token_dead", 0.5, 460, 12, 3)


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def limited(world: World) -> Caller:
    graph = Graph(world, limits=Limits(calls_per_second=2, burst=4, daily_calls=100))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test")
    return Caller(graph, http)


async def test_two_calls_a_second_per_page_are_answered_and_more_are_not(limited: Caller, clock: TurnedClock) -> None:
    path = f"{limited.page.id}/conversations"
    codes = []
    for _ in range(40):
        response = await limited.get(path, limit=1)
        codes.append(response.json().get("error", {}).get("code"))
        clock.advance(0.25)
    assert set(codes) == {None, 613}
    assert 20 <= codes.count(None) <= 24
    other = limited.graph.world.pages[1]
    await limited.json(f"{other.id}/conversations", token=other.access_token)


async def test_calls_that_are_no_conversations_are_not_limited_by_the_second(limited: Caller) -> None:
    for _ in range(10):
        await limited.json("me")
        await limited.json(f"{limited.page.id}/subscribed_apps")


async def test_several_ids_count_as_several_calls(limited: Caller, clock: TurnedClock) -> None:
    thread = next(limited.graph.world.threads(limited.page))
    mids = [state.message.mid for state in thread.newest_first()][:1] * 8
    await limited.json("", ids=",".join(mids))
    clock.advance(2)  # 4 more calls are allowed: not enough for 8 at once and one more
    assert (await limited.error(thread.thread_id))["code"] == 613
    clock.advance(1)
    await limited.json(thread.thread_id)


async def test_the_days_calls_are_told_used_up_and_come_back(limited: Caller, clock: TurnedClock) -> None:
    told = []
    for _ in range(100):
        clock.advance(0.5)
        response = await limited.get("me")
        assert response.status_code == 200
        told.append(json.loads(response.headers["x-business-use-case-usage"])[limited.page.id][0]["call_count"])
    assert told == list(range(1, 101))
    refused = await limited.get("me")
    assert refused.json()["error"]["code"] == 80006
    (entry,) = json.loads(refused.headers["x-business-use-case-usage"])[limited.page.id]
    wait = entry["estimated_time_to_regain_access"]
    assert 1430 <= wait <= 1440
    await limited.error("me")  # calling on makes it longer
    clock.advance(wait * 60 - 1)
    assert (await limited.error("me"))["code"] == 80006
    clock.advance(180)
    await limited.json("me")


async def test_usage_falls_as_calls_become_a_day_old(limited: Caller, clock: TurnedClock) -> None:
    async def told() -> int:
        usage = json.loads((await limited.get("me")).headers["x-business-use-case-usage"])
        return int(usage[limited.page.id][0]["call_count"])

    rising = [await told() for _ in range(40)]
    clock.advance(12 * 3600)
    rising += [await told() for _ in range(20)]
    assert rising == list(range(1, 61))
    clock.advance(12.5 * 3600)
    assert await told() == 21
    clock.advance(12 * 3600)
    assert await told() == 2


async def test_the_days_calls_can_depend_on_how_many_people_a_page_has(world: World) -> None:
    graph = Graph(world, limits=Limits(daily_calls_per_person=2))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test") as http:
        call = Caller(graph, http)
        for _ in range(120):  # there are 60
            await call.json("me")
        world.new_person(call.page.id)
        for _ in range(2):
            await call.json("me")
        assert (await call.error("me"))["code"] == 80006


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calls_per_second", 0),
        ("calls_per_second", math.nan),
        ("burst", 0),
        ("daily_calls", 0),
        ("daily_calls_per_person", 0),
    ],
)
def test_a_limit_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    numbers: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        Limits(**numbers)
