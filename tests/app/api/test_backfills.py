from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.app.graph import thread
from tests.app.service import add_page, assert_problem

if TYPE_CHECKING:
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "1001"
SINCE, UNTIL = "2026-02-01T00:00:00Z", "2026-03-01T12:00:01Z"


async def backfill(service: Service, **body: Any) -> Any:
    response = await service.http.post("/api/backfills", json={"page_ids": [PAGE], "since": SINCE, **body})
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/api/backfills/{response.json()['id']}"
    return response.json()


async def show(service: Service, backfill_id: str) -> Any:
    response = await service.http.get(f"/api/backfills/{backfill_id}")
    assert response.status_code == 200
    return response.json()


async def test_a_backfill_is_202_with_an_address_where_its_progress_is(syncing: Service, graph: FakeGraph) -> None:
    old = NOON - timedelta(days=60)
    await add_page(
        syncing,
        graph,
        PAGE,
        thread(PAGE, "p1", ("m_1", "in the window", NOON)),
        thread(PAGE, "p2", ("m_2", "old", old)),
    )
    graph.gate.clear()
    made = await backfill(syncing, until=UNTIL)
    assert made["state"] == "running"
    assert (made["since"], made["until"], made["page_ids"]) == (SINCE, UNTIL, [PAGE])
    assert [(run["page_id"], run["kind"]) for run in made["runs"]] == [(PAGE, "backfill")]
    assert (made["runs"][0]["since"], made["runs"][0]["until"]) == (SINCE, UNTIL)
    assert (made["estimate"]["calls"], made["estimate"]["calls_at_least"], made["estimate"]["seconds"]) == (
        None,
        1,
        None,
    )
    assert "how many conversations 1 Pages have" in made["estimate"]["unknown"][0]
    await graph.waiting.acquire()
    graph.gate.set()
    await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    while (done := await show(syncing, made["id"]))["state"] == "running":  # it may have given way to the sync
        pass
    assert (done["state"], done["pages_ended"], done["pages_failed"]) == ("succeeded", 1, 0)
    assert done["estimate"] is None
    graph.gate.clear()  # or it may have ended before it is shown
    again = await backfill(syncing)
    graph.gate.set()
    assert again["estimate"]["calls"] == 1
    assert done["inserted"] == done["runs"][0]["inserted"] >= 1
    messages = await syncing.http.get(f"/api/conversations/{PAGE}/p1/messages")
    assert [m["mid"] for m in messages.json()["data"]] == ["m_1"]


async def test_all_means_every_active_page(service: Service, graph: FakeGraph) -> None:
    response = await service.http.post("/api/backfills", json={"all": True, "since": SINCE})
    assert "there is no active Page" in assert_problem(response, 422, "all")
    for page_id in ("1001", "1002", "1003"):
        await add_page(service, graph, page_id)
    await service.http.delete("/api/pages/1002")
    response = await service.http.post("/api/backfills", json={"all": True, "since": SINCE})
    assert response.json()["page_ids"] == ["1001", "1003"]
    assert [run["page_id"] for run in response.json()["runs"]] == ["1001", "1003"]


async def test_an_unknown_page_is_a_404_problem_and_nothing_is_queued(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    response = await service.http.post("/api/backfills", json={"page_ids": [PAGE, "7"], "since": SINCE})
    assert "7" in assert_problem(response, 404, "page_ids")
    assert (await service.http.get("/api/backfills")).json()["data"] == []
    assert (await service.http.get("/api/runs")).json()["data"] == []


async def test_what_is_wrong_in_a_backfill_request_is_a_422_problem(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"since": UNTIL, "until": SINCE}, "until"),
        ({"since": SINCE, "until": SINCE}, "until"),
        ({"since": tomorrow}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": ""}, "since"),
        ({"since": None}, "since"),
        ({"since": 5}, "since"),
        ({"since": "2026"}, "since"),
        ({"since": "2026-02-30"}, "since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "since"),
        ({"since": SINCE, "until": "9999-12-31T23:59:59-14:00"}, "until"),
        ({"since": SINCE, "until": "never"}, "until"),
        ({"since": SINCE, "page_ids": []}, "page_ids"),
        ({"since": SINCE, "page_ids": "all"}, "page_ids"),
        ({"since": SINCE, "page_ids": [""]}, "page_ids.0"),
        ({"since": SINCE, "all": True}, "page_ids"),
        ({"since": SINCE, "all": "perhaps"}, "all"),
    ]
    for body, field in wrong:
        response = await service.http.post("/api/backfills", json={"page_ids": [PAGE], **body})
        assert assert_problem(response, 422, field), body
    assert_problem(await service.http.post("/api/backfills", json={"page_ids": [PAGE]}), 422, "since")
    assert_problem(await service.http.post("/api/backfills", json={"since": SINCE}), 422, "page_ids")
    assert (await service.http.get("/api/backfills")).json()["data"] == []


async def test_a_time_without_a_zone_is_utc_and_a_date_is_its_midnight(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    for given, meant in (
        ("2026-02-01", "2026-02-01T00:00:00Z"),
        ("2026-02-01T10:00:00", "2026-02-01T10:00:00Z"),
        ("2026-02-01T10:00:00+02:00", "2026-02-01T08:00:00Z"),
    ):
        assert (await backfill(service, since=given))["since"] == meant


async def test_a_window_that_is_queued_already_is_joined_and_each_can_be_cancelled_alone(
    service: Service, graph: FakeGraph
) -> None:
    await add_page(service, graph, PAGE)
    first, second = await backfill(service), await backfill(service)
    assert first["id"] != second["id"]
    assert [run["id"] for run in first["runs"]] == [run["id"] for run in second["runs"]]
    response = await service.http.delete(f"/api/backfills/{first['id']}")
    assert response.status_code == 200
    assert response.json()["state"] == "cancelled"
    assert (await show(service, first["id"]))["state"] == "cancelled"
    left = await show(service, second["id"])
    assert left["state"] == "running"
    assert [run["state"] for run in left["runs"]] == ["queued"]
    response = await service.http.delete(f"/api/backfills/{second['id']}")
    assert [run["state"] for run in response.json()["runs"]] == ["cancelled"]
    assert response.json()["state"] == "cancelled"


async def test_a_cancelled_running_backfill_stores_nothing_more_and_the_page_goes_on(
    syncing: Service, graph: FakeGraph
) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    graph.gate.clear()
    made = await backfill(syncing)
    await graph.waiting.acquire()
    cancelled = (await syncing.http.delete(f"/api/backfills/{made['id']}")).json()
    assert cancelled["state"] == "cancelled"
    assert cancelled["runs"][0]["error"] == "cancelled by an operator"
    assert cancelled["runs"][0]["finished_at"] is not None
    graph.gate.set()
    response = await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    assert response.json()["state"] == "succeeded"
    assert response.json()["inserted"] == 1  # the cancelled run had read it and stored none of it
    assert (await show(syncing, made["id"]))["inserted"] == 0


async def test_cancelling_what_has_ended_changes_nothing(syncing: Service, graph: FakeGraph) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    made = await backfill(syncing)
    await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    before = await show(syncing, made["id"])
    assert before["state"] == "succeeded"
    assert (await syncing.http.delete(f"/api/backfills/{made['id']}")).json() == before


async def test_backfills_are_listed_newest_first_and_page_by_a_cursor(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    made = [(await backfill(service, since=f"2026-01-{day:02}"))["id"] for day in range(1, 6)]
    first = (await service.http.get("/api/backfills", params={"limit": 2})).json()
    await backfill(service)
    second = (await service.http.get("/api/backfills", params={"limit": 2, "cursor": first["next"]})).json()
    third = (await service.http.get("/api/backfills", params={"limit": 2, "cursor": second["next"]})).json()
    assert [b["id"] for page in (first, second, third) for b in page["data"]] == made[::-1]
    assert third["next"] is None
    assert first["data"][0]["state"] == "running"


async def test_an_unknown_backfill_is_a_404_problem(service: Service) -> None:
    assert_problem(await service.http.get(f"/api/backfills/{uuid4()}"), 404, "backfill_id")
    assert_problem(await service.http.delete(f"/api/backfills/{uuid4()}"), 404, "backfill_id")
