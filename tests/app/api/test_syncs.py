from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.app.graph import graph_error, thread
from tests.app.service import PAGE_TOKEN, add_page, assert_problem, columns

if TYPE_CHECKING:
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "1001"
RUN_FIELDS = {
    "id",
    "page_id",
    "kind",
    "state",
    "since",
    "until",
    "conversations",
    "messages",
    "inserted",
    "repaired",
    "api_calls",
    "started_at",
    "finished_at",
    "error",
}


async def sync(service: Service, status: int, **body: Any) -> Any:
    response = await service.http.post("/api/conversations/sync", json={"page_id": PAGE, **body})
    assert response.status_code == status, response.text
    return response.json()


async def test_a_sync_that_ends_in_time_is_answered_200_with_the_finished_run(
    syncing: Service, graph: FakeGraph
) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_2", "second", NOON), ("m_1", "first", NOON)))
    run = await sync(syncing, 200, wait_seconds=60)
    assert run.keys() >= RUN_FIELDS
    assert run.keys() <= await columns(syncing, "sync_runs")
    assert run["page_id"] == PAGE
    assert (run["kind"], run["state"], run["error"]) == ("incremental", "succeeded", None)
    assert (run["conversations"], run["messages"], run["inserted"]) == (1, 2, 2)
    assert run["api_calls"] >= 1
    assert run["started_at"] <= run["finished_at"]
    assert (await syncing.http.get(f"/api/runs/{run['id']}")).json() == run
    messages = await syncing.http.get(f"/api/conversations/{PAGE}/p1/messages")
    assert [m["text"] for m in messages.json()["data"]] == ["second", "first"]
    page = (await syncing.http.get(f"/api/pages/{PAGE}")).json()
    assert page["last_synced_at"] is not None
    assert page["watermark"] == "2026-03-01T12:00:00Z"


async def test_a_sync_is_202_with_its_address_while_it_has_not_ended(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    graph.gate.clear()
    response = await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 0.01})
    assert response.status_code == 202
    run = response.json()
    assert response.headers["location"] == f"/api/runs/{run['id']}"
    await graph.waiting.acquire()
    assert (await syncing.http.get(response.headers["location"])).json()["state"] == "running"
    graph.gate.set()
    assert (await sync(syncing, 200, wait_seconds=60))["state"] == "succeeded"


async def test_without_a_reconciler_a_sync_is_queued_for_another_process(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    run = await sync(service, 202)
    assert run["state"] == "queued"
    assert run["started_at"] is None
    assert (await sync(service, 202))["id"] == run["id"]
    full = await sync(service, 202, mode="full")
    assert full["id"] != run["id"]
    assert full["kind"] == "full"
    response = await service.http.post("/api/conversations/sync-all")
    assert response.status_code == 202
    assert [r["id"] for r in response.json()["data"]] == [run["id"]]
    assert not any(path.endswith("conversations") for path in graph.paths)


async def test_who_asks_beside_a_running_run_gets_one_follow_up_that_all_share(
    syncing: Service, graph: FakeGraph
) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    graph.gate.clear()
    first = await sync(syncing, 202)
    await graph.waiting.acquire()
    second, third = await sync(syncing, 202), await sync(syncing, 202)
    assert first["id"] < second["id"] == third["id"]
    graph.gate.set()
    ended = await asyncio.gather(*(sync(syncing, 200, wait_seconds=60) for _ in range(3)))
    assert {run["state"] for run in ended} == {"succeeded"}
    runs = (await syncing.http.get("/api/runs")).json()["data"]
    assert {run["state"] for run in runs} == {"succeeded"}


async def test_sync_all_has_one_result_per_page_and_a_dead_token_harms_no_other(
    syncing: Service, graph: FakeGraph
) -> None:
    for number in (1001, 1002, 1003):
        await add_page(syncing, graph, str(number), thread(str(number), "p1", (f"m_{number}", "hello", NOON)))
    del graph.pages[f"{PAGE_TOKEN}-1002"]
    for _ in range(2):  # the second time the Page is known to need a new token, and gets its result all the same
        response = await syncing.http.post("/api/conversations/sync-all", json={"wait_seconds": 60})
        assert response.status_code == 200, response.text
        runs = response.json()["data"]
        assert {run["page_id"]: run["state"] for run in runs} == {
            "1001": "succeeded",
            "1002": "failed",
            "1003": "succeeded",
        }
        failed = next(run for run in runs if run["state"] == "failed")
        assert "190" in failed["error"]
        assert "add the Page again with a new one" in failed["error"]
        assert PAGE_TOKEN not in response.text
    page = (await syncing.http.get("/api/pages/1002")).json()
    assert page["state"] == "needs_reauth"
    async with syncing.state["pool"].acquire() as connection:
        await connection.execute("UPDATE facebook_pages SET state = 'paused' WHERE page_id = '1003'")
    response = await syncing.http.post("/api/conversations/sync-all", json={"wait_seconds": 60})
    states = {run["page_id"]: run["state"] for run in response.json()["data"]}
    assert states == {"1001": "succeeded", "1002": "failed", "1003": "failed"}
    assert PAGE_TOKEN not in page["state_reason"]


async def test_sync_all_without_pages_is_200_with_nothing(service: Service) -> None:
    response = await service.http.post("/api/conversations/sync-all", json={})
    assert (response.status_code, response.json()) == (200, {"data": []})


async def test_a_page_that_is_unknown_or_removed_is_a_404_problem(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    await service.http.delete(f"/api/pages/{PAGE}")
    for page_id in ("7", PAGE):
        response = await service.http.post("/api/conversations/sync", json={"page_id": page_id})
        assert_problem(response, 404, "page_id")
        response = await service.http.get("/api/conversations/sync-stream", params={"page_id": page_id})
        assert_problem(response, 404, "page_id")
    assert (await service.http.get("/api/runs")).json()["data"] == []


async def test_what_is_wrong_in_a_sync_request_is_named(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    for field, value in (
        ("mode", "sideways"),
        ("mode", None),
        ("wait_seconds", -1),
        ("wait_seconds", 301),
        ("wait_seconds", "long"),
        ("page_id", ""),
        ("page_id", 5),
        ("page_id", "a\x00b"),
        ("page_id", "x" * 201),
    ):
        body = {"page_id": PAGE, field: value}
        assert_problem(await service.http.post("/api/conversations/sync", json=body), 422, field)
    response = await service.http.post("/api/conversations/sync", content=b'{"page_id": "1001", "wait_seconds": NaN}')
    assert_problem(response, 422, "wait_seconds")
    assert_problem(await service.http.post("/api/conversations/sync", json={}), 422, "page_id")


async def test_graphs_refusal_is_in_the_run_without_the_token(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE)
    graph.refusal = (403, graph_error(200, f"No permission for access_token={PAGE_TOKEN}-{PAGE}"))
    run = await sync(syncing, 200, wait_seconds=60)
    assert run["state"] == "failed"
    assert "No permission" in run["error"]
    assert PAGE_TOKEN not in run["error"]


async def test_runs_are_listed_newest_first_by_page_and_state_and_page_by_a_cursor(
    service: Service, graph: FakeGraph
) -> None:
    for page_id in ("1001", "1002"):
        await add_page(service, graph, page_id)
        for mode in ("incremental", "full"):
            await service.http.post("/api/conversations/sync", json={"page_id": page_id, "mode": mode})
    runs = (await service.http.get("/api/runs")).json()
    ids = [run["id"] for run in runs["data"]]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 4
    assert runs["next"] is None
    assert all(run.keys() >= RUN_FIELDS for run in runs["data"])
    of_page = (await service.http.get("/api/runs", params={"page_id": "1001"})).json()["data"]
    assert {run["page_id"] for run in of_page} == {"1001"}
    assert (await service.http.get("/api/runs", params={"state": "failed"})).json()["data"] == []
    assert_problem(await service.http.get("/api/runs", params={"state": "lost"}), 422, "state")
    first = (await service.http.get("/api/runs", params={"limit": 3})).json()
    await service.http.post("/api/backfills", json={"all": True, "since": "2026-01-01"})
    rest = (await service.http.get("/api/runs", params={"limit": 3, "cursor": first["next"]})).json()
    assert [run["id"] for page in (first, rest) for run in page["data"]] == ids
    for other in ({"page_id": "1001"}, {"state": "queued"}):
        params = {**other, "cursor": first["next"]}
        assert_problem(await service.http.get("/api/runs", params=params), 422, "cursor")
    assert_problem(await service.http.get("/api/runs/0"), 404, "run_id")
    assert_problem(await service.http.get(f"/api/runs/{2**63}"), 404, "run_id")
