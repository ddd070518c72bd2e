from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from simulator import Behaviour, Graph
from simulator.clock import graph_time
from tests.simulator.conftest import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator import TurnedClock, World


def since(graph: Graph) -> str:
    """A time in the midst of the list."""
    times = [c.updated_time_ms for c in graph.world.true_conversations(graph.world.pages[0].id)]
    return str(times[20] // 1000)


async def listed(call: Caller, **params: Any) -> list[str]:
    return [row["id"] for row in await call.all(f"{call.page.id}/conversations", **params)]


async def test_since_is_ignored_unless_told_otherwise(call: Caller, graph: Graph) -> None:
    assert await listed(call, since=since(graph)) == await listed(call)


async def test_since_can_be_honoured(call: Caller, graph: Graph) -> None:
    graph.behaviour.since = "honoured"
    assert await listed(call, since=since(graph), limit=10) == (await listed(call))[:21]


async def test_since_can_be_refused(call: Caller, graph: Graph) -> None:
    graph.behaviour.since = "refused"
    assert (await call.error(f"{call.page.id}/conversations", since=since(graph)))["code"] == 100


async def test_since_can_lie_by_hiding_some_that_are_newer(call: Caller, graph: Graph) -> None:
    graph.behaviour.since = "lying"
    shown, everything = await listed(call, since=since(graph)), await listed(call)
    assert set(shown) < set(everything[:21])
    assert shown
    assert await listed(call) == everything


@pytest.mark.parametrize("order", ["shuffled_pages", "shuffled"])
@pytest.mark.parametrize("limit", [7, 100])
async def test_the_list_can_be_out_of_order_and_still_be_complete(
    call: Caller, graph: Graph, order: Any, limit: int
) -> None:
    right = await listed(call)
    graph.behaviour.order = order
    rows = await listed(call, limit=limit)
    assert rows != right
    assert sorted(rows) == sorted(right)


async def test_edits_reactions_unsends_and_reads_can_move_updated_time(world: World, clock: TurnedClock) -> None:
    graph = Graph(world, behaviour=Behaviour(updated_time="changes", read_lag_seconds=0))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test") as http:
        call = Caller(graph, http)
        page_id = call.page.id
        threads = list(world.threads(call.page))[20:24]
        mids = [world.person_sends(page_id, thread.psid)[0].mid or "" for thread in threads]
        does: tuple[Callable[[], object], ...] = (
            lambda: world.edit(mids[0]),
            lambda: world.react(mids[1]),
            lambda: world.unsend(mids[2]),
            lambda: world.read(page_id, threads[3].psid),
        )
        old = list(world.threads(call.page))[40]
        world.read(page_id, old.psid)
        for do, thread in zip(does, threads, strict=True):
            clock.advance(5)
            do()
            first = (await call.json(f"{page_id}/conversations", limit=1))["data"][0]
            assert first == {"id": thread.thread_id, "updated_time": graph_time(world.now_ms())}
        rows = await call.all(f"{page_id}/conversations", limit=7)
        truth = list(world.true_conversations(page_id))
        assert [row["id"] for row in rows] == [c.thread_id for c in truth]
        assert old.thread_id in [row["id"] for row in rows[:5]]


async def test_offset_cursors_repeat_rows_when_one_is_bumped_and_lose_none(
    call: Caller, graph: Graph, clock: TurnedClock
) -> None:
    graph.behaviour.cursors = "offset"
    last = list(graph.world.threads(call.page))[-1]

    def bump() -> None:
        clock.advance(1)
        graph.world.person_sends(call.page.id, last.psid)

    graph.after_list_call(2, bump)
    rows = await listed(call, limit=10)
    everything = await listed(call, limit=100)
    assert set(rows) == set(everything) - {last.thread_id}
    assert len(rows) == len(set(rows)) + 1


async def test_answers_can_be_short_or_empty_and_still_have_a_next_page(call: Caller, graph: Graph) -> None:
    right = await listed(call)
    graph.behaviour.short_pages = 0.9
    sizes, rows = [], []
    async for page in call.pages(f"{call.page.id}/conversations", limit=6):
        sizes.append(len(page))
        rows += [row["id"] for row in page]
    assert rows == right
    assert 0 in sizes
    assert set(sizes[:-1]) - {0, 6}


async def test_a_cursor_goes_stale(call: Caller, graph: Graph, clock: TurnedClock) -> None:
    graph.behaviour.cursor_seconds = 60
    path = f"{call.page.id}/conversations"
    cursor = (await call.json(path, limit=5))["paging"]["cursors"]["after"]
    clock.advance(60)
    await call.json(path, after=cursor)
    clock.advance(1)
    assert (await call.error(path, after=cursor))["code"] == 100


async def test_with_the_rule_of_the_twenty_newest_older_ones_are_stubs(call: Caller, graph: Graph) -> None:
    graph.behaviour.twenty_newest = True
    psid = graph.world.somebody(call.page.id)
    for n in range(25):
        graph.world.person_sends(call.page.id, psid, text=f"text {n}")
    thread = graph.world.find_person(psid)
    assert thread is not None
    rows = await call.all(f"{thread.thread_id}/messages", fields="id,created_time,message,from")
    assert all(row.keys() == {"id", "created_time", "message", "from"} for row in rows[:20])
    assert all(row.keys() == {"id", "created_time"} for row in rows[20:])
    assert len(rows) == thread.past + 25 - sum(thread.base(n).is_gone for n in range(thread.past))
    assert "deleted" in (await call.error(rows[20]["id"], fields="message"))["message"]
    assert (await call.json(rows[19]["id"], fields="message"))["message"] == "text 5"


def test_the_defaults_promise_nothing_that_meta_does_not(world: World) -> None:
    assert Graph(world).behaviour == Behaviour(
        since="ignored",
        updated_time="messages",
        read_lag_seconds=5,
        has_reply_to=False,
        counts_are_estimates=True,
        order="newest_first",
        cursors="position",
        cursor_seconds=None,
        twenty_newest=False,
        short_pages=0,
        hides_media=0,
    )


async def test_unless_told_otherwise_what_happened_is_shown_five_seconds_later(
    world: World, clock: TurnedClock
) -> None:
    graph = Graph(world)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test") as http:
        call = Caller(graph, http)
        mid = world.person_sends(call.page.id)[0].mid
        clock.advance(4.9)
        assert (await call.error(f"{mid}"))["error_subcode"] == 33
        clock.advance(0.1)
        assert (await call.json(f"{mid}"))["id"] == mid


async def test_the_data_can_lag_behind_its_date(call: Caller, graph: Graph, clock: TurnedClock) -> None:
    graph.behaviour.read_lag_seconds = 30
    clock.advance(100)
    mid = graph.world.person_sends(call.page.id, text="old")[0].mid
    assert mid is not None
    clock.advance(31)
    graph.world.edit(mid, "new")
    graph.world.react(mid)
    psid = graph.world.new_person(call.page.id)
    graph.world.person_sends(call.page.id, psid)
    before = await listed(call)
    assert await call.json(mid, fields="message,reactions") == {"id": mid, "message": "old"}
    clock.advance(31)
    node = await call.json(mid, fields="message,reactions")
    assert (node["message"], len(node["reactions"]["data"])) == ("new", 1)
    assert len(await listed(call)) == len(before) + 1


async def test_reply_to_can_be_a_field(call: Caller, graph: Graph) -> None:
    first = graph.world.person_sends(call.page.id)[0]
    reply = graph.world.person_sends(call.page.id, first.psid, reply_to=first.mid)[0]
    graph.behaviour.has_reply_to = True
    assert (await call.json(f"{reply.mid}", fields="reply_to"))["reply_to"] == {"id": first.mid}


async def test_media_can_be_hidden_as_in_europe(call: Caller, graph: Graph) -> None:
    attachments: Any = ()
    while [a.kind for a in attachments] != ["video"]:
        attachments = graph.world.some_attachments()
    mid = graph.world.person_sends(call.page.id, attachments=attachments)[0].mid
    graph.behaviour.hides_media = 1
    (node,) = (await call.json(f"{mid}", fields="attachments"))["attachments"]["data"]
    assert node.keys() == {"id", "name"}
    assert node["name"].startswith("Media not available")


def test_a_switch_that_is_set_to_nothing_known_is_refused() -> None:
    wrong: Any = "maybe"
    with pytest.raises(ValueError, match="since must be one of ignored, honoured, refused, lying, not maybe"):
        Behaviour(since=wrong)
