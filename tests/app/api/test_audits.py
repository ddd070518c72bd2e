from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.app.graph import thread
from tests.app.service import add_page, assert_problem

if TYPE_CHECKING:
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "1001"
NOTHING_YET = {
    "conversations": 0,
    "verified": 0,
    "unverifiable": 0,
    "never_audited": 0,
    "oldest_audited_at": None,
    "missing_in_graph": 0,
    "coverage": None,
    "coverage_days": 7,
}


async def post(service: Service, path: str, **body: Any) -> Any:
    response = await service.http.post(path, json={"wait_seconds": 60, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def audit(service: Service) -> Any:
    run = await post(service, "/api/conversations/sync", page_id=PAGE, mode="audit")
    assert (run["kind"], run["state"], run["error"]) == ("audit", "succeeded", None)
    return run


async def get(service: Service, path: str) -> Any:
    response = await service.http.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_audits_findings_are_in_its_run(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    first = await audit(syncing)
    assert first["call_budget"] is None
    found = first["audit"]
    assert (found["conversations_repaired"], found["messages_restored"]) == (1, 1)
    found = (await audit(syncing))["audit"]
    oldest = datetime.fromisoformat(found.pop("oldest_audited_at"))
    assert abs((datetime.now(UTC) - oldest).total_seconds()) < 60
    assert found == {
        "conversations_verified": 1,
        "conversations_repaired": 0,
        "conversations_unverifiable": 0,
        "messages_restored": 0,
        "messages_changed": 0,
        "messages_missing": 0,
        "coverage": 1.0,
        "coverage_days": 7,
    }


async def test_another_kind_of_run_has_no_findings(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    run = await post(syncing, "/api/conversations/sync", page_id=PAGE)
    assert run["audit"] is None


async def test_all_pages_can_be_audited_at_once(syncing: Service, graph: FakeGraph) -> None:
    for page_id in ("1001", "1002"):
        await add_page(syncing, graph, page_id, thread(page_id, f"p{page_id}", ("m_1", "hello", NOON)))
    runs = (await post(syncing, "/api/conversations/sync-all", mode="audit"))["data"]
    assert [(run["kind"], run["state"]) for run in runs] == [("audit", "succeeded")] * 2
    pages = (await get(syncing, "/api/pages"))["data"]
    assert [page["audit"]["coverage"] for page in pages] == [1.0, 1.0]


async def test_a_mode_that_is_none_is_refused(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    response = await service.http.post("/api/conversations/sync", json={"page_id": PAGE, "mode": "hasty"})
    assert "audit" in assert_problem(response, 422, "mode")


async def test_a_conversation_tells_when_and_how_it_was_audited(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    await post(syncing, "/api/conversations/sync", page_id=PAGE)
    shown = await get(syncing, f"/api/conversations/{PAGE}/p1")
    assert (shown["audit_state"], shown["audited_at"], shown["missing_in_graph"]) == (None, None, 0)
    await audit(syncing)
    shown = await get(syncing, f"/api/conversations/{PAGE}/p1")
    assert (shown["audit_state"], shown["missing_in_graph"]) == ("verified", 0)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(shown["audited_at"])).total_seconds()) < 60


async def test_a_message_that_graph_lists_no_more_says_since_when(syncing: Service, graph: FakeGraph) -> None:
    two = thread(PAGE, "p1", ("m_2", "second", NOON), ("m_1", "first", NOON))
    await add_page(syncing, graph, PAGE, two)
    await audit(syncing)
    del two["messages"]["data"][1]
    for _ in range(2):
        await audit(syncing)
    assert (await get(syncing, f"/api/conversations/{PAGE}/p1"))["missing_in_graph"] == 1
    messages = (await get(syncing, f"/api/conversations/{PAGE}/p1/messages"))["data"]
    since = {message["mid"]: message["missing_in_graph_since"] for message in messages}
    assert since["m_2"] is None
    assert datetime.fromisoformat(since["m_1"]) > NOON
    assert (await get(syncing, f"/api/pages/{PAGE}"))["audit"]["missing_in_graph"] == 1


async def test_a_page_tells_how_much_of_it_is_verified(syncing: Service, graph: FakeGraph) -> None:
    threads = [thread(PAGE, f"p{n}", (f"m_{n}", "hello", NOON)) for n in range(4)]
    await add_page(syncing, graph, PAGE, *threads)
    assert (await get(syncing, f"/api/pages/{PAGE}"))["audit"] == NOTHING_YET
    await post(syncing, "/api/conversations/sync", page_id=PAGE)
    shown = (await get(syncing, f"/api/pages/{PAGE}"))["audit"]
    assert shown == {**NOTHING_YET, "conversations": 4, "never_audited": 4, "coverage": 0.0}
    await audit(syncing)
    async with syncing.state["pool"].acquire() as connection:
        await connection.execute(
            "UPDATE conversation_threads SET audited_at = now() - interval '8 days' WHERE psid = 'p1'"
        )
        await connection.execute("UPDATE conversation_threads SET audit_state = 'unverifiable' WHERE psid = 'p2'")
    shown = (await get(syncing, f"/api/pages/{PAGE}"))["audit"]
    assert (shown["conversations"], shown["verified"], shown["unverifiable"]) == (4, 2, 1)
    assert (shown["coverage"], shown["never_audited"]) == (0.5, 0)
    days = (datetime.now(UTC) - datetime.fromisoformat(shown["oldest_audited_at"])).total_seconds() / 86400
    assert 7.9 < days < 8.1
