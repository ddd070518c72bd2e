"""What an owner does with Pages besides adding them: pause, resume, subscribe, unsubscribe, import, remove."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from reconciler.watchdog import WANTED_FIELDS
from sql.cooldowns import APP, cool_down, page_scope
from sql.subscriptions import claim_checks
from tests.app.graph import graph_error, thread
from tests.app.service import PAGE_TOKEN, add_page, assert_problem, deliver, text_delivery

if TYPE_CHECKING:
    import httpx
    import pytest

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE, OTHER = "1001", "1002"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
USER_TOKEN = "EAAuser-token-55ab"


async def post(service: Service, what: str, page_id: str = PAGE) -> httpx.Response:
    return await service.http.post(f"/api/pages/{page_id}/{what}")


async def shown(service: Service, page_id: str = PAGE) -> dict[str, Any]:
    response = await service.http.get(f"/api/pages/{page_id}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def rows(service: Service, query: str, *args: object) -> list[Any]:
    async with service.state["pool"].acquire() as connection:
        return [tuple(row) for row in await connection.fetch(query, *args)]


EXPECTED = "SELECT field FROM webhook_expectations WHERE page_id = $1 AND ended_at IS NULL ORDER BY field"


async def test_a_paused_page_is_not_synced_nor_expected_of_until_it_is_resumed(
    syncing: Service, graph: FakeGraph
) -> None:
    await add_page(syncing, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
    expected = await rows(syncing, EXPECTED, PAGE)
    assert expected
    paused = (await post(syncing, "pause")).json()
    assert (paused["state"], paused["state_reason"]) == ("paused", "paused by its owner")
    assert await rows(syncing, EXPECTED, PAGE) == []
    assert await rows(syncing, "SELECT id FROM sync_runs WHERE state IN ('queued', 'running')") == []
    run = await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    assert (run.json()["state"], "resume it" in run.json()["error"]) == ("failed", True)
    assert (await deliver(syncing.http, text_delivery(PAGE, "p2", "m_2", "hello"))).status_code == 200
    assert (await syncing.http.get(f"/api/conversations/{PAGE}/p2")).status_code == 200
    resumed = (await post(syncing, "resume")).json()
    assert (resumed["state"], resumed["state_reason"]) == ("active", None)
    assert await rows(syncing, EXPECTED, PAGE) == expected
    run = await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    assert run.json()["state"] == "succeeded"


async def test_pausing_and_resuming_twice_changes_nothing_more(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    for what, state in (("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")):
        assert (await post(service, what)).json()["state"] == state


async def test_a_page_whose_token_is_dead_is_not_resumed_without_another(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    async with service.state["pool"].acquire() as connection:
        await connection.execute("UPDATE facebook_pages SET state = 'needs_reauth', state_reason = 'dead'")
    assert_problem(await post(service, "resume"), 409, "page_id")
    assert (await shown(service))["state"] == "needs_reauth"


async def test_pages_that_there_are_none_of_are_404_problems(service: Service) -> None:
    for what in ("pause", "resume", "subscribe", "unsubscribe"):
        assert_problem(await post(service, what), 404, "page_id")
    assert_problem(await service.http.delete(f"/api/pages/{PAGE}"), 404, "page_id")


async def test_an_unsubscribed_page_stays_so_until_it_is_subscribed_again(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    subscribed = (await post(service, "subscribe")).json()
    assert set(subscribed["subscribed_fields"]) == set(graph.subscribed[PAGE]) == set(WANTED_FIELDS)
    assert subscribed["subscription_is_wanted"]
    ended = (await post(service, "unsubscribe")).json()
    assert (ended["subscription_is_wanted"], ended["subscribed_fields"]) == (False, [])
    assert graph.subscribed == {}
    assert await rows(service, EXPECTED, PAGE) == []
    async with service.state["pool"].acquire() as connection:
        await connection.execute("UPDATE page_subscriptions SET next_check_at = now() - interval '1 day'")
        assert await claim_checks(connection, limit=9) == []
    # a new token or a pause are no wish for webhooks
    await service.http.post("/api/pages", json={"access_token": f"{PAGE_TOKEN}-{PAGE}"})
    await post(service, "pause")
    await post(service, "resume")
    assert await rows(service, EXPECTED, PAGE) == []
    assert (await post(service, "subscribe")).json()["subscription_is_wanted"]
    assert {field for (field,) in await rows(service, EXPECTED, PAGE)} == set(WANTED_FIELDS)


async def test_a_removed_page_that_is_added_again_wants_its_webhooks_again(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    await post(service, "unsubscribe")
    await service.http.delete(f"/api/pages/{PAGE}")
    await service.http.post("/api/pages", json={"access_token": f"{PAGE_TOKEN}-{PAGE}"})
    assert (await shown(service))["subscription_is_wanted"]
    assert await rows(service, EXPECTED, PAGE) != []


async def test_a_graph_that_is_away_or_refuses_is_told_and_nothing_changes(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    await post(service, "subscribe")
    graph.is_away = True
    assert_problem(await post(service, "subscribe"), 502)
    assert_problem(await post(service, "unsubscribe"), 502)
    assert_problem(await service.http.delete(f"/api/pages/{PAGE}"), 502, "unsubscribe")
    graph.is_away = False
    graph.refusal = (400, graph_error(190, "Error validating access token"))
    assert_problem(await post(service, "unsubscribe"), 409, "page_id")
    page = await shown(service)
    assert (page["subscription_is_wanted"], page["state"]) == (True, "active")


async def test_removing_a_page_ends_its_webhooks_unless_told_not_to(service: Service, graph: FakeGraph) -> None:
    for page_id in (PAGE, OTHER):
        await add_page(service, graph, page_id)
        await post(service, "subscribe", page_id)
    assert (await service.http.delete(f"/api/pages/{PAGE}")).status_code == 204
    assert graph.subscribed.keys() == {OTHER}
    graph.is_away = True
    assert (await service.http.delete(f"/api/pages/{OTHER}", params={"unsubscribe": "false"})).status_code == 204
    assert graph.subscribed.keys() == {OTHER}


async def test_a_page_with_a_dead_token_can_be_removed(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    graph.refusal = (400, graph_error(190, "Error validating access token"))
    assert (await service.http.delete(f"/api/pages/{PAGE}")).status_code == 204


async def test_the_list_tells_cooldowns_and_what_webhooks_missed_today(service: Service, graph: FakeGraph) -> None:
    for page_id in (PAGE, OTHER):
        await add_page(service, graph, page_id)
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    async with service.state["pool"].acquire() as connection:
        await connection.execute("UPDATE webhook_expectations SET started_at = $1", midnight - timedelta(days=2))
        # missed yesterday, missed and repaired today, in time today
        for n, (sent_at, webhook, sync) in enumerate(
            (
                (midnight - timedelta(hours=1), None, now),
                (midnight, None, now + timedelta(hours=1)),
                (midnight, midnight + timedelta(seconds=1), None),
            )
        ):
            await connection.execute(
                """
                INSERT INTO messages (
                    page_id, mid, psid, direction, sent_at, sent_at_rank, webhook_seen_at, sync_seen_at, seen_batch,
                    changed_batch, updated_at
                ) VALUES ($1, 'm_' || $2, 'p', 'inbound', $3, 0, $4, $5, 1, 1, now())
                """,
                PAGE,
                str(n),
                sent_at,
                webhook,
                sync,
            )
        an_hour = timedelta(hours=1)
        await cool_down(connection, page_scope(PAGE), "of the Page", wait=an_hour, first=an_hour, longest=an_hour)
    pages = {page["page_id"]: page for page in (await service.http.get("/api/pages")).json()["data"]}
    missed = int(now - midnight >= timedelta(minutes=15))  # it is only decided then
    told = pages[PAGE]["loss_today"]
    assert (told["sent"], told["missed"], told["repaired"]) == (2, missed, missed)
    assert told["loss_percent"] == (50.0 if missed else None)
    assert pages[OTHER]["loss_today"] == {"sent": 0, "missed": 0, "repaired": 0, "loss_percent": None}
    assert (pages[PAGE]["cooldown_reason"], pages[OTHER]["cooldown_reason"]) == ("of the Page", None)
    assert datetime.fromisoformat(pages[PAGE]["cooldown_until"]) > now
    assert await shown(service) == pages[PAGE]
    async with service.state["pool"].acquire() as connection:
        two = timedelta(hours=2)
        await cool_down(connection, APP, "of the app", wait=two, first=two, longest=two)
    assert (await shown(service))["cooldown_reason"] == (await shown(service, OTHER))["cooldown_reason"] == "of the app"


def account(page_id: str, **more: Any) -> dict[str, Any]:
    row = {"id": page_id, "name": f"Page {page_id}", "access_token": f"EAA-of-{page_id}", "tasks": ["MESSAGING"]}
    return {**row, **more}


async def take_all(service: Service, **body: Any) -> httpx.Response:
    return await service.http.post("/api/pages/import", json={"user_access_token": USER_TOKEN, **body})


async def test_all_pages_of_a_person_are_added_with_a_token_of_their_own(service: Service, graph: FakeGraph) -> None:
    graph.persons[USER_TOKEN] = [
        *(account(str(n)) for n in range(1, 6)),
        account("6", tasks=["ADVERTISE"]),
        account("7", access_token=None),
        account("8", tasks=None),
        {"id": None},
    ]
    response = await take_all(service)
    assert response.status_code == 200, response.text
    outcomes = {page["page_id"]: (page["outcome"], page["reason"]) for page in response.json()["data"]}
    assert {page_id for page_id, (outcome, _) in outcomes.items() if outcome == "added"} == {*"123458"}
    assert outcomes["6"] == ("skipped", "the person lacks the task MESSAGING on it")
    assert outcomes["7"] == ("skipped", "Graph gives no token of it")
    pages = (await service.http.get("/api/pages")).json()["data"]
    assert {page["page_id"]: page["name"] for page in pages} == {n: f"Page {n}" for n in "123458"}
    sealed = dict(await rows(service, "SELECT page_id, token_encrypted FROM facebook_pages"))
    assert {page_id: service.state["tokens"].open(token) for page_id, token in sealed.items()} == {
        n: f"EAA-of-{n}" for n in "123458"
    }
    again = (await take_all(service, page_ids=["2"])).json()["data"]
    assert [(page["page_id"], page["outcome"]) for page in again] == [("2", "updated")]
    everything = response.text + json.dumps(pages)
    assert USER_TOKEN not in everything
    assert "EAA-of" not in everything


async def test_what_is_wrong_in_an_import_is_named(service: Service, graph: FakeGraph) -> None:
    assert_problem(await take_all(service), 422, "user_access_token")
    graph.persons[USER_TOKEN] = [account("1")]
    assert "Pages for this token: 9" in assert_problem(await take_all(service, page_ids=["1", "9"]), 422, "page_ids")
    assert [page["page_id"] for page in (await service.http.get("/api/pages")).json()["data"]] == ["1"]
    graph.is_away = True
    assert_problem(await take_all(service), 502, "user_access_token")
    assert_problem(await take_all(service, page_ids=[]), 422, "page_ids")
    for token in ("", "a b", 7, None):
        assert_problem(await take_all(service, user_access_token=token), 422, "user_access_token")


async def test_a_list_of_pages_that_leads_back_to_itself_ends_as_a_problem(
    service: Service, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = {"data": [account("1")], "paging": {"cursors": {"after": "1"}, "next": "https://graph.test/next"}}
    monkeypatch.setattr(graph, "_accounts", lambda *_: (200, around))
    assert "leads back" in assert_problem(await take_all(service), 422, "user_access_token")
