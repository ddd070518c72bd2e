"""The truth, asked for over HTTP."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from simulator.telling import graph_and_truth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from simulator import Graph, TurnedClock, World


@pytest.fixture
async def http(graph: Graph) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(graph_and_truth(graph))
    async with httpx.AsyncClient(transport=transport, base_url="https://graph.test") as client:
        yield client


async def told(http: httpx.AsyncClient, kind: str, **params: Any) -> list[Any]:
    answer = await http.get("/simulator/truth", params=params)
    assert answer.status_code == 200
    rows = [json.loads(line) for line in answer.text.splitlines()]
    return [row[kind] for row in rows if kind in row]


async def test_what_must_exist_is_told_now_and_as_it_was(
    http: httpx.AsyncClient, world: World, clock: TurnedClock
) -> None:
    page_id = world.pages[0].id
    mid = world.person_sends(page_id, text="before")[0].mid
    moment = world.now_ms()
    clock.advance(1)
    world.edit(f"{mid}", "after")
    for at in ({}, {"at": moment}):
        truth = world.truth(page_id, *at.values())
        messages = json.loads(json.dumps([asdict(message) for message in truth.messages]))
        assert await told(http, "message", page_id=page_id, **at) == messages
        assert await told(http, "conversation", page_id=page_id, **at) == [asdict(c) for c in truth.conversations]
    texts = [m["text"] for m in await told(http, "message", page_id=page_id, at=moment) if m["mid"] == mid]
    assert texts == ["before"]


@pytest.mark.parametrize(
    ("query", "status", "hint"),
    [("", 404, "page_id"), ("page_id=1", 404, "such as 1"), ("page_id={page}&at=soon", 400, "epoch milliseconds")],
)
async def test_a_question_that_has_no_answer_is_told_why(
    http: httpx.AsyncClient, world: World, query: str, status: int, hint: str
) -> None:
    answer = await http.get(f"/simulator/truth?{query.format(page=world.pages[0].id)}")
    assert answer.status_code == status
    assert hint in answer.json()["error"]


async def test_all_else_is_graph(http: httpx.AsyncClient, world: World) -> None:
    page = world.pages[0]
    answer = await http.get("/v26.0/me", params={"access_token": page.access_token})
    assert answer.json()["id"] == page.id
