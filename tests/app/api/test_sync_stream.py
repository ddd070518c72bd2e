"""The stream of server-sent events, over a real socket: only there can a client go away."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson
import pytest

from app.api import syncs
from tests.app.graph import thread
from tests.app.service import AUTHORIZATION, PAGE_TOKEN, add_page, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "1001"


class Event(NamedTuple):
    name: str
    id: str
    run: dict[str, Any]


@pytest.fixture
async def http(syncing: Service, graph: FakeGraph) -> AsyncIterator[httpx.AsyncClient]:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    async with (
        served(syncing.app, lifespan="off") as address,
        httpx.AsyncClient(base_url=address, headers=AUTHORIZATION, timeout=60) as client,
    ):
        yield client


@asynccontextmanager
async def stream(http: httpx.AsyncClient, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    path = f"/api/conversations/sync-stream?page_id={PAGE}"
    async with http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield response.aiter_lines()


async def next_event(lines: AsyncIterator[str]) -> Event | None:
    """Read up to the end of an event; None at the end of the stream."""
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if name in {"event", "id", "data"}:
            fields[name] = value
        elif not line and "data" in fields:
            return Event(fields["event"], fields["id"], orjson.loads(fields["data"]))
    return None


async def all_events(lines: AsyncIterator[str]) -> list[Event]:
    events = []
    while (event := await next_event(lines)) is not None:
        events.append(event)
    return events


async def runs(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await http.get("/api/runs")).json()["data"]
    return found


async def test_a_run_is_told_as_progress_then_complete_and_its_end_ends_the_stream(
    http: httpx.AsyncClient, graph: FakeGraph
) -> None:
    graph.gate.clear()
    async with stream(http) as lines:
        first = await next_event(lines)
        assert first is not None
        assert first.name == "progress"
        assert first.run["state"] in {"queued", "running"}
        graph.gate.set()
        rest = await all_events(lines)
    assert [event.name for event in rest if event.name != "progress"] == ["complete"]
    last = rest[-1]
    assert last.name == "complete"
    assert {event.id for event in (first, *rest)} == {str(last.run["id"])}
    (run,) = await runs(http)
    assert last.run == run
    assert (run["state"], run["inserted"]) == ("succeeded", 1)


async def test_a_failed_run_ends_the_stream_with_failed_and_why(http: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.pages.clear()
    async with stream(http) as lines:
        last = (await all_events(lines))[-1]
    assert last.name == "failed"
    assert "token is dead" in last.run["error"]
    assert PAGE_TOKEN not in str(last)


async def test_a_quiet_stream_beats_so_that_no_proxy_closes_it(
    http: httpx.AsyncClient, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncs, "HEARTBEAT_SECONDS", 0.05)
    graph.gate.clear()
    beats = 0
    async with stream(http) as lines:
        async for line in lines:
            beats += line.startswith(":")
            if beats == 3:
                break
    graph.gate.set()
    assert beats == 3


async def test_who_has_a_revoked_key_is_told_nothing_more_and_the_run_goes_on(
    http: httpx.AsyncClient, graph: FakeGraph
) -> None:
    made = (await http.post("/api/keys", json={"name": "an operator", "role": "operate"})).json()
    graph.gate.clear()
    async with stream(http, authorization=f"Bearer {made['key']}") as lines:
        assert await next_event(lines) is not None
        await graph.waiting.acquire()
        assert (await http.delete(f"/api/keys/{made['id']}")).status_code == 204
        assert {event.name for event in await all_events(lines)} <= {"progress"}
    assert [run["state"] for run in await runs(http)] == ["running"]
    graph.gate.set()


async def test_a_client_that_goes_away_does_not_stop_the_run(http: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.gate.clear()
    async with stream(http) as lines:
        first = await next_event(lines)
        await graph.waiting.acquire()
    assert first is not None
    assert [run["state"] for run in await runs(http)] == ["running"]
    graph.gate.set()
    # another run of the Page begins only when this one has ended
    await http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    run = (await http.get(f"/api/runs/{first.id}")).json()
    assert (run["state"], run["inserted"]) == ("succeeded", 1)


async def test_who_comes_back_with_the_last_id_follows_the_same_run(http: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.gate.clear()
    async with stream(http) as lines:
        first = await next_event(lines)
    assert first is not None
    graph.gate.set()
    for _ in range(2):  # while it runs or just has, and long after
        async with stream(http, **{"last-event-id": first.id}) as lines:
            last = (await all_events(lines))[-1]
        assert (last.name, last.id) == ("complete", first.id)
    assert len(await runs(http)) == 1
    for stranger in ("0", "x", "9" * 30):
        async with stream(http, **{"last-event-id": stranger}) as lines:
            assert (await all_events(lines))[-1].id != first.id


async def test_many_streams_of_one_page_share_a_run(http: httpx.AsyncClient, graph: FakeGraph) -> None:
    graph.gate.clear()

    async def follow() -> str:
        async with stream(http) as lines:
            assert await next_event(lines) is not None
            watching.release()
            return (await all_events(lines))[-1].id

    watching = asyncio.Semaphore(0)
    following = [asyncio.create_task(follow()) for _ in range(5)]
    for _ in following:
        await watching.acquire()
    graph.gate.set()
    assert len(set(await asyncio.gather(*following))) <= 2  # the one that ran at once, and one after it for the rest
