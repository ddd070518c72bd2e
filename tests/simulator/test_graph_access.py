from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from simulator import Graph, TurnedClock, World
from tests.simulator.conftest import SECRET, Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def strict(world: World) -> AsyncIterator[Caller]:
    graph = Graph(world, app_secret=SECRET)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(graph.app), base_url="https://graph.test") as http:
        yield Caller(graph, http)


def proof(token: str, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), token.encode(), "sha256").hexdigest()


async def test_with_a_pages_token_me_is_the_page(call: Caller) -> None:
    assert await call.json("me") == {"id": call.page.id, "name": call.page.name}
    assert await call.json("me/conversations", limit=3) != {}


async def test_a_category_is_a_pages_and_no_persons(call: Caller) -> None:
    assert await call.json("me", fields="id,category") == {"id": call.page.id, "category": "Shop"}
    user = call.graph.world.user_token
    assert (await call.json("me", fields="id,name", token=user)).keys() == {"id", "name"}
    message = (await call.error("me", fields="id,name,category", token=user))["message"]
    assert message == "(#100) Tried accessing nonexisting field (category) on node type (User)"


async def test_the_token_may_come_in_the_query(call: Caller) -> None:
    response = await call.http.get("/v26.0/me", params={"access_token": call.page.access_token})
    assert response.json()["id"] == call.page.id


async def test_no_token_and_a_wrong_one_are_errors(call: Caller) -> None:
    assert (await call.http.get("/v26.0/me")).json()["error"]["code"] == 104
    error = await call.error("me", token="EAAnothing")
    assert (error["code"], error["type"]) == (190, "OAuthException")
    assert error["fbtrace_id"]


@pytest.mark.parametrize("subcode", [458, 459, 460, 463, 464, 467, 492])
async def test_a_dead_token_says_why_until_it_is_renewed(call: Caller, subcode: int) -> None:
    old = call.page.access_token
    call.page.kill_token(subcode)
    error = await call.error("me")
    assert (error["code"], error["error_subcode"]) == (190, subcode)
    call.page.renew_token()
    assert (await call.json("me"))["id"] == call.page.id
    assert (await call.error("me", token=old))["code"] == 190


async def test_the_proof_is_demanded_and_checked(strict: Caller) -> None:
    token = strict.page.access_token
    assert (await strict.json("me", appsecret_proof=proof(token)))["id"] == strict.page.id
    missing = await strict.error("me")
    assert missing["code"] == 100
    assert "appsecret_proof" in missing["message"]
    assert (await strict.error("me", appsecret_proof=proof(token, "other")))["code"] == 104
    strict.graph.requires_proof = False
    assert (await strict.json("me"))["id"] == strict.page.id
    assert (await strict.error("me", appsecret_proof="00"))["code"] == 104


@pytest.mark.parametrize(
    ("path", "fields", "name", "kind"),
    [
        ("{page}/conversations", "id,xyz", "xyz", "UnifiedThread"),
        ("{page}/conversations", "messages.limit(2){id,nope}", "nope", "Message"),
        ("{page}/conversations", "participants{id,shoe_size}", "shoe_size", "Participants"),
        ("{thread}", "subject", "subject", "UnifiedThread"),
        ("{thread}/messages", "id,reply_to", "reply_to", "Message"),
        ("{message}", "attachments{colour}", "colour", "Attachments"),
        ("{page}/conversations", "messages{attachments{image_data{url,hue}}}", "hue", "ImageData"),
        ("{thread}/messages", "reactions{reaction,users{id,email}}", "email", "Users"),
        ("{thread}", "id{x}", "x", "Id"),
        ("me", "fans", "fans", "Page"),
        ("{person}", "age", "age", "User"),
    ],
)
async def test_an_unknown_field_is_refused_by_name(call: Caller, path: str, fields: str, name: str, kind: str) -> None:
    thread = next(t for t in call.graph.world.threads(call.page) if int(t.psid) % 11)
    message = next(thread.newest_first()).message.mid
    place = path.format(page=call.page.id, thread=thread.thread_id, message=message, person=thread.psid)
    error = await call.error(place, fields=fields)
    assert error["code"] == 100
    assert error["message"] == f"(#100) Tried accessing nonexisting field ({name}) on node type ({kind})"


@pytest.mark.parametrize("fields", ["id,", "id{", "messages{id", "messages.limit(3){id}}", "a" + "{a" * 12, ",", "id}"])
async def test_fields_that_cannot_be_read_are_a_syntax_error(call: Caller, fields: str) -> None:
    error = await call.error(f"{call.page.id}/conversations", fields=fields)
    assert error["code"] == 2500


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5", "9" * 30])
async def test_a_limit_that_is_none_is_refused(call: Caller, limit: str) -> None:
    assert (await call.error(f"{call.page.id}/conversations", limit=limit))["code"] == 100


@pytest.mark.parametrize("cursor", ["x", "", "QVFIUZD", "QVFIUe30ZD"])
async def test_a_cursor_that_is_none_is_refused(call: Caller, cursor: str) -> None:
    thread = next(call.graph.world.threads(call.page))
    for path in (f"{call.page.id}/conversations", f"{thread.thread_id}/messages"):
        assert (await call.error(path, after=cursor))["code"] == 100


async def test_a_cursor_into_one_edge_is_of_no_use_in_another(call: Caller) -> None:
    first, second = list(call.graph.world.threads(call.page))[:2]
    cursor = (await call.json(f"{first.thread_id}/messages", limit=1))["paging"]["cursors"]["after"]
    assert (await call.error(f"{second.thread_id}/messages", after=cursor))["code"] == 100


@pytest.mark.parametrize("path", ["", "t_1", "m_1", "12", "a/b/c", "{page}/nothing", "t_1/messages"])
async def test_a_path_that_leads_nowhere_is_an_error(call: Caller, path: str) -> None:
    assert (await call.error(path.format(page=call.page.id)))["code"] in {100, 2500}


async def test_a_query_that_asks_for_too_much_is_too_heavy_until_it_asks_for_less(call: Caller) -> None:
    path, nested = f"{call.page.id}/conversations", "messages.limit(100){id}"
    response = await call.get(path, fields=nested, limit=100)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == 1
    assert "reduce the amount of data" in response.json()["error"]["message"]
    assert (await call.get(path, fields=nested, limit=25)).status_code == 200
    assert (await call.get(path, fields="messages.limit(20){id}", limit=100)).status_code == 200


async def test_several_ids_weigh_what_they_ask_for_together(call: Caller) -> None:
    ids = ",".join(thread.thread_id for thread in list(call.graph.world.threads(call.page))[:50])
    assert (await call.error("", ids=ids, fields="messages.limit(200){id}"))["code"] == 1
    assert len(await call.json("", ids=ids, fields="messages.limit(90){id}")) == 50


async def test_a_path_without_a_version_is_served_by_the_newest(call: Caller) -> None:
    response = await call.http.get("/me", params={"access_token": call.page.access_token})
    assert (response.json()["id"], response.headers["facebook-api-version"]) == (call.page.id, "v26.0")


async def test_every_answer_has_the_worlds_date_and_the_version_served(call: Caller, clock: TurnedClock) -> None:
    clock.advance(0.9)
    response = await call.get("me")
    date = parsedate_to_datetime(response.headers["date"])
    assert date == clock().replace(microsecond=0)
    assert response.headers["facebook-api-version"] == "v26.0"
    error = await call.get("t_1")
    assert error.headers["date"] == response.headers["date"]


@pytest.mark.parametrize(
    ("day", "asked", "served"),
    [
        ("2026-09-01", "v20.0", "v20.0"),
        ("2026-10-01", "v20.0", "v21.0"),
        ("2026-10-01", "v2.12", "v21.0"),
        ("2027-02-01", "v19.0", "v22.0"),
    ],
)
async def test_an_expired_version_is_served_by_the_oldest_living_one(day: str, asked: str, served: str) -> None:
    world = World(1, pages=1, now=TurnedClock(datetime.fromisoformat(day).replace(tzinfo=UTC)))
    token = world.pages[0].access_token
    transport = httpx.ASGITransport(Graph(world).app)
    async with httpx.AsyncClient(transport=transport, base_url="https://graph.test") as http:
        response = await http.get(f"/{asked}/me", params={"access_token": token})
    assert response.headers["facebook-api-version"] == served


async def test_a_user_lists_all_pages_with_their_tokens_page_by_page(call: Caller) -> None:
    user = call.graph.world.user_token
    rows = await call.all("me/accounts", token=user, limit=1)
    assert [(row["id"], row["access_token"]) for row in rows] == [
        (p.id, p.access_token) for p in call.graph.world.pages
    ]
    assert "MESSAGING" in rows[0]["tasks"]
    few = await call.all("me/accounts", token=user, limit=1, fields="id,name")
    assert few == [{"id": p.id, "name": p.name} for p in call.graph.world.pages]
    assert (await call.error("me/accounts", token=user, fields="id,fans"))["code"] == 100
    assert (await call.json("me", token=user))["name"]


async def test_debug_token_tells_of_whom_a_token_is_and_whether_it_works(strict: Caller) -> None:
    app_token = f"{strict.graph.app_id}|{SECRET}"
    page = strict.page
    data = (await strict.json("debug_token", input_token=page.access_token, token=app_token))["data"]
    assert (data["type"], data["is_valid"], data["profile_id"]) == ("PAGE", True, page.id)
    assert {"scope": "pages_messaging", "target_ids": [page.id]} in data["granular_scopes"]
    page.kill_token(460)
    data = (await strict.json("debug_token", input_token=page.access_token, token=app_token))["data"]
    assert (data["is_valid"], data["error"]["error_subcode"]) == (False, 460)
    assert not (await strict.json("debug_token", input_token="EAAx", token=app_token))["data"]["is_valid"]
    wrong = f"{strict.graph.app_id}|other"
    assert (await strict.error("debug_token", input_token="EAAx", token=wrong))["code"] == 190


async def test_a_subscription_is_read_replaced_and_ended(call: Caller) -> None:
    path = f"/v26.0/{call.page.id}/subscribed_apps"
    headers = {"authorization": f"Bearer {call.page.access_token}"}
    posted = await call.http.post(path, params={"subscribed_fields": "messages,message_echoes"}, headers=headers)
    assert posted.json() == {"success": True}
    (app,) = (await call.json(f"{call.page.id}/subscribed_apps"))["data"]
    assert (app["id"], app["subscribed_fields"]) == (call.graph.app_id, ["message_echoes", "messages"])
    await call.http.post(path, data={"subscribed_fields": "standby"}, headers=headers)
    assert call.page.subscribed_fields == {"standby"}  # replaced, not added; a form will do too
    for fields, hint in (("", "required"), ("messages,likes", "likes")):
        refused = await call.http.post(path, params={"subscribed_fields": fields}, headers=headers)
        assert hint in refused.json()["error"]["message"]
    assert (await call.http.delete(path, headers=headers)).json() == {"success": True}
    assert await call.json(f"{call.page.id}/subscribed_apps") == {"data": []}


async def test_other_methods_change_nothing(call: Caller) -> None:
    headers = {"authorization": f"Bearer {call.page.access_token}"}
    response = await call.http.delete(f"/v26.0/{call.page.id}/conversations", headers=headers)
    assert response.json()["error"]["message"].startswith("Unsupported delete request")


async def test_calls_are_kept_per_page_without_their_secrets(strict: Caller) -> None:
    token = strict.page.access_token
    await strict.json(f"{strict.page.id}/conversations", limit=5, appsecret_proof=proof(token))
    await strict.http.get("/v26.0/t_1", params={"access_token": token, "appsecret_proof": proof(token)})
    first, second = strict.graph.calls_of(strict.page.id)
    assert (first.path, first.params, first.status) == (f"{strict.page.id}/conversations", {"limit": "5"}, 200)
    assert (second.path, second.params, second.error_code) == ("t_1", {}, 100)
    assert strict.graph.calls_of(strict.page.id, "/conversations") == [first]
    assert strict.graph.calls_of(strict.graph.world.pages[1].id) == []


async def test_ended_versions_need_no_more_than_the_clock(clock: TurnedClock, call: Caller) -> None:
    clock.advance(timedelta(days=365).total_seconds())
    response = await call.http.get("/v21.0/me", params={"access_token": call.page.access_token})
    assert response.headers["facebook-api-version"] == "v23.0"
