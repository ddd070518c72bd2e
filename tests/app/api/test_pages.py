from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.graph import graph_error, thread
from tests.app.service import (
    PAGE_TOKEN,
    add_page,
    assert_problem,
    columns,
    deliver,
    running,
    settings_for,
    text_delivery,
)

if TYPE_CHECKING:
    import httpx

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE = "1001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOWN = {"page_id", "name", "state", "state_reason", "watermark", "last_synced_at", "next_sync_at"}
PACE = {"sync_interval_seconds", "daily_call_budget", "calls_last_day", "usage_percent"}


async def add(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post("/api/pages", json={"access_token": PAGE_TOKEN, **body})


async def sealed_token(service: Service, page_id: str) -> str | None:
    async with service.state["pool"].acquire() as connection:
        token: str | None = await connection.fetchval(
            "SELECT token_encrypted FROM facebook_pages WHERE page_id = $1", page_id
        )
    return token


async def test_a_page_is_added_by_its_token_alone_and_graph_says_which_it_is(
    service: Service, graph: FakeGraph
) -> None:
    graph.add(PAGE_TOKEN, PAGE, name="Café ☕")
    response = await add(service)
    assert response.status_code == 201
    page = response.json()
    assert page.keys() >= SHOWN | PACE
    known = await columns(service, "facebook_pages") | await columns(service, "page_subscriptions")
    derived = {"audit", "loss_today", "cooldown_until", "cooldown_reason"}
    assert {name.removeprefix("subscription_") for name in page} - derived <= known
    assert (page["page_id"], page["name"], page["state"]) == (PAGE, "Café ☕", "active")
    assert (await service.http.get(f"/api/pages/{PAGE}")).json() == page
    assert (await service.http.get("/api/pages")).json() == {"data": [page]}


async def test_a_token_goes_in_encrypted_and_never_comes_out(service: Service, graph: FakeGraph) -> None:
    graph.add(PAGE_TOKEN, PAGE)
    texts = [(await add(service)).text, (await add(service)).text]
    texts += [(await service.http.get(path)).text for path in ("/api/pages", f"/api/pages/{PAGE}", "/api/runs")]
    assert not any(PAGE_TOKEN in text or "token" in text for text in texts)
    sealed = await sealed_token(service, PAGE)
    assert sealed is not None
    assert PAGE_TOKEN not in sealed
    assert service.state["tokens"].open(sealed) == PAGE_TOKEN


async def test_a_known_page_gets_the_new_token_with_200_and_is_active_again(service: Service, graph: FakeGraph) -> None:
    graph.add(PAGE_TOKEN, PAGE)
    assert (await add(service)).status_code == 201
    async with service.state["pool"].acquire() as connection:
        await connection.execute("UPDATE facebook_pages SET state = 'needs_reauth', state_reason = 'dead'")
    graph.add("EAAnew", PAGE, name="A new name")
    response = await add(service, access_token="EAAnew")
    assert response.status_code == 200
    page = response.json()
    assert (page["state"], page["state_reason"], page["name"]) == ("active", None, "A new name")
    sealed = await sealed_token(service, PAGE)
    assert sealed is not None
    assert service.state["tokens"].open(sealed) == "EAAnew"


async def test_what_the_owner_says_goes_before_what_graph_says(service: Service, graph: FakeGraph) -> None:
    graph.add(PAGE_TOKEN, PAGE, name="By Graph")
    assert (await add(service, name="By its owner")).json()["name"] == "By its owner"
    assert (await add(service, page_id=PAGE)).json()["name"] == "By Graph"


async def test_a_token_of_another_page_is_a_422_problem(service: Service, graph: FakeGraph) -> None:
    graph.add(PAGE_TOKEN, PAGE)
    assert PAGE in assert_problem(await add(service, page_id="7"), 422, "page_id")
    assert (await service.http.get("/api/pages")).json() == {"data": []}


async def test_a_token_that_graph_refuses_is_a_422_problem_that_does_not_repeat_it(
    service: Service, graph: FakeGraph
) -> None:
    for refusal in (
        None,
        (400, graph_error(190, f"Error validating access token: {PAGE_TOKEN} has expired")),
        (403, graph_error(10, f"No permission with {PAGE_TOKEN}")),
        (400, graph_error(100, f"Unsupported get request with {PAGE_TOKEN}")),
    ):
        graph.refusal = refusal
        response = await add(service)
        assert_problem(response, 422, "access_token")
        assert PAGE_TOKEN not in response.text
    graph.refusal = (200, {"name": "no id"})
    assert "no id" in assert_problem(await add(service), 422, "access_token")
    assert (await service.http.get("/api/pages")).json() == {"data": []}


@pytest.mark.parametrize("body", [{}, {"name": "Shop"}, {"page_id": PAGE}])
async def test_a_persons_token_is_a_422_problem_that_names_the_import(
    service: Service, graph: FakeGraph, body: dict[str, str]
) -> None:
    graph.persons[PAGE_TOKEN] = []
    response = await add(service, **body)
    assert "/api/pages/import" in assert_problem(response, 422, "access_token")
    assert PAGE_TOKEN not in response.text
    assert (await service.http.get("/api/pages")).json() == {"data": []}


async def test_a_graph_that_passes_over_fields_is_asked_for_the_tokens_type(database: str, graph: FakeGraph) -> None:
    graph.persons[PAGE_TOKEN], graph.knows_fields = [], False
    graph.add("EAAthe-pages", PAGE)
    async with running(settings_for(database, facebook_app_id="4400")) as service:
        graph.token_types = {PAGE_TOKEN: "USER", "EAAthe-pages": "PAGE"}
        assert "/api/pages/import" in assert_problem(await add(service), 422, "access_token")
        assert (await add(service, access_token="EAAthe-pages")).status_code == 201


@pytest.mark.parametrize(
    "refusal",
    [
        (400, graph_error(100, "(#100) Tried accessing nonexisting field (category) on node type (Page)")),
        (400, graph_error(100, "(#100) Tried accessing nonexisting field (category)")),
        (400, graph_error(100, "(#100) Tried accessing nonexisting field (id) on node type (User)")),
        (400, graph_error(10, "(#10) This endpoint requires the 'pages_read_engagement' permission")),
        (400, graph_error(190, "Invalid OAuth access token")),
        (404, {"detail": "Not Found"}),
        (500, graph_error(2, "Service temporarily unavailable")),
        (200, {"id": PAGE, "name": "A Page", "category": "Shop"}),
        (200, {}),
    ],
)
async def test_a_token_is_taken_unless_graph_says_clearly_that_it_is_a_persons(
    database: str, graph: FakeGraph, refusal: tuple[int, dict[str, Any]]
) -> None:
    graph.add(PAGE_TOKEN, PAGE)
    answer, asked = graph.answer, 0

    async def once(path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        nonlocal asked
        asked += 1
        return await answer(path, authorization) if asked == 1 else refusal

    graph.answer = once  # type: ignore[method-assign]
    async with running(settings_for(database, facebook_app_id="4400")) as service:
        assert (await add(service)).status_code == 201
        assert asked > 1


async def test_a_graph_that_is_away_is_a_502_problem_but_a_page_named_in_full_is_taken(
    service: Service, graph: FakeGraph
) -> None:
    graph.is_away = True
    assert "give page_id and name" in assert_problem(await add(service), 502, "access_token")
    assert (await add(service, page_id=PAGE, name="Shop")).status_code == 201


async def test_a_graph_that_fails_or_limits_is_a_502_problem(service: Service, graph: FakeGraph) -> None:
    for refusal in (
        (500, graph_error(2, "Service temporarily unavailable")),
        (400, graph_error(4, "Application request limit reached")),
    ):
        graph.refusal = refusal
        assert_problem(await add(service), 502, "access_token")


@pytest.mark.parametrize("page_id", [PAGE, None])
async def test_adding_holds_no_connection_while_graph_is_asked(
    service: Service, graph: FakeGraph, page_id: str | None
) -> None:
    graph.add(PAGE_TOKEN, PAGE)
    idle: list[int] = []
    answer = graph.answer

    async def watching(path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        idle.append(service.state["pool"].get_size() - service.state["pool"].get_idle_size())
        return await answer(path, authorization)

    graph.answer = watching  # type: ignore[method-assign]
    assert (await add(service, page_id=page_id)).status_code == 201
    assert set(idle) == {0}


async def test_what_is_wrong_in_a_page_is_named_and_the_token_is_not_repeated(service: Service) -> None:
    for field, value in (
        ("access_token", ""),
        ("access_token", None),
        ("access_token", 5),
        ("access_token", f"{PAGE_TOKEN} x"),
        ("access_token", f"{PAGE_TOKEN}\n"),
        ("access_token", f"{PAGE_TOKEN}\x00"),
        ("access_token", f"{PAGE_TOKEN}é"),
        ("access_token", PAGE_TOKEN * 200),
        ("page_id", ""),
        ("page_id", "a/b"),
        ("page_id", "../1"),
        ("page_id", "a\x00"),
        ("page_id", 12),
        ("name", ""),
        ("name", "a\x00"),
        ("name", "x" * 501),
    ):
        response = await add(service, **{field: value})
        assert_problem(response, 422, field)
        assert PAGE_TOKEN not in response.text
    assert_problem(await service.http.post("/api/pages", json={}), 422, "access_token")


async def test_a_removed_page_loses_its_token_and_its_queue_and_keeps_its_conversations(
    service: Service, graph: FakeGraph
) -> None:
    await add_page(service, graph, PAGE)
    await deliver(service.http, text_delivery(PAGE, "p1", "m_1", "hello"))
    await service.http.post("/api/conversations/sync", json={"page_id": PAGE})
    response = await service.http.delete(f"/api/pages/{PAGE}")
    assert (response.status_code, response.content) == (204, b"")
    assert await sealed_token(service, PAGE) is None
    assert_problem(await service.http.get(f"/api/pages/{PAGE}"), 404, "page_id")
    assert_problem(await service.http.delete(f"/api/pages/{PAGE}"), 404, "page_id")
    assert (await service.http.get("/api/pages")).json() == {"data": []}
    (run,) = (await service.http.get("/api/runs")).json()["data"]
    assert (run["state"], run["error"]) == ("cancelled", "the Page was removed")
    assert len((await service.http.get("/api/conversations")).json()["data"]) == 1


async def test_a_page_removed_while_it_is_synced_stores_nothing_more(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    await add_page(syncing, graph, "1002")
    graph.gate.clear()
    await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE})
    await graph.waiting.acquire()
    assert (await syncing.http.delete(f"/api/pages/{PAGE}")).status_code == 204
    graph.gate.set()
    response = await syncing.http.post("/api/conversations/sync", json={"page_id": "1002", "wait_seconds": 60})
    assert response.json()["state"] == "succeeded"
    assert (await syncing.http.get("/api/conversations")).json()["data"] == []
    (run,) = (await syncing.http.get("/api/runs", params={"page_id": PAGE})).json()["data"]
    assert run["state"] == "cancelled"


async def test_a_removed_page_can_be_added_again(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    await service.http.delete(f"/api/pages/{PAGE}")
    graph.add(PAGE_TOKEN, PAGE)
    response = await add(service)
    assert response.status_code == 200
    assert response.json()["state"] == "active"
