"""Facebook's callbacks: who asks that their data go is erased, and whose token is withdrawn needs a new one."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from app.erasing import JournalEraser
from app.facebook.requests import GIVEN_UP_AFTER, FacebookRequests
from app.facebook.signed_request import sign_request
from tests.app.graph import graph_error
from tests.app.service import (
    APP_SECRET,
    PAGE_TOKEN,
    add_page,
    assert_problem,
    deliver,
    running,
    settings_for,
    text_delivery,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

USER, PERSON, PAGE, OTHER_PAGE = "218471", "7001", "1001", "1002"
APP_ID = "440055"
LATER = datetime.now(UTC) + timedelta(hours=1)


class Meta:
    """What the Graph API tells of an app's users, beside what it tells of Pages."""

    def __init__(self, graph: FakeGraph) -> None:
        self._of_pages = graph.answer
        self.ids: list[tuple[str, str]] | tuple[int, dict[str, Any]] = []
        self.granted_by: dict[str, str | None] = {}  # by the Page's token; None: it is dead
        graph.answer = self.answer  # type: ignore[method-assign]
        self._graph = graph

    async def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        if path.endswith("/ids_for_pages"):
            assert authorization == f"Bearer {APP_ID}|{APP_SECRET}"
            if isinstance(self.ids, tuple):
                return self.ids
            return 200, {"data": [{"id": psid, "page": {"id": page_id}} for page_id, psid in self.ids]}
        if path.endswith("/debug_token"):
            return 400, graph_error(100, "the query is not shown here")
        return await self._of_pages(path, authorization)


@pytest.fixture
def meta(graph: FakeGraph) -> Meta:
    return Meta(graph)


@pytest.fixture
async def service(database: str, meta: Meta) -> AsyncIterator[Service]:
    assert meta
    async with running(settings_for(database, facebook_app_id=APP_ID, public_url="https://mirror.example/")) as made:
        yield made


def signed(secret: str = APP_SECRET, **told: Any) -> str:
    payload = {"user_id": USER, "algorithm": "HMAC-SHA256", "issued_at": 1291836800, **told}
    return sign_request(json.dumps(payload).encode(), secret.encode())


async def post(service: Service, path: str, request: str) -> httpx.Response:
    asked = service.http.build_request(
        "POST",
        path,
        content=f"signed_request={quote(request)}",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    del asked.headers["authorization"]
    return await service.http.send(asked)


async def see_to(service: Service, now: datetime | None = None) -> dict[str, int]:
    state = service.state
    seen = FacebookRequests(state["pool"], state["graph"], state["tokens"], service.settings)
    return await seen.run_once(now)


async def ask_deletion(service: Service) -> str:
    """Returns the path of the page that tells how far it is."""
    response = await post(service, "/facebook/data-deletion", signed())
    assert response.status_code == 200, response.text
    url: str = response.json()["url"]
    return url.removeprefix("https://mirror.example")


async def read_page(service: Service, path: str) -> str:
    response = await service.http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    return response.text


async def states(service: Service) -> dict[str, str]:
    pages = (await service.http.get("/api/pages")).json()["data"]
    return {page["page_id"]: page["state"] for page in pages}


async def requests(service: Service) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await service.http.get("/api/facebook-requests")).json()["data"]
    return rows


# -- that a person's data go --------------------------------------------------------------------------------------


async def test_the_answer_is_what_meta_asks_for_a_url_and_an_alphanumeric_code(service: Service) -> None:
    response = await post(service, "/facebook/data-deletion", signed())
    assert response.json().keys() == {"url", "confirmation_code"}
    code = response.json()["confirmation_code"]
    assert re.fullmatch("[a-z0-9]{20}", code)
    assert response.json()["url"] == f"https://mirror.example/facebook/data-deletion/{code}"
    again = await post(service, "/facebook/data-deletion", signed())
    assert again.json() == response.json()
    other = await post(service, "/facebook/data-deletion", signed(issued_at=5))
    assert other.json()["confirmation_code"] != code


async def test_both_callbacks_may_come_with_the_same_words_and_are_two_requests(service: Service) -> None:
    assert (await post(service, "/facebook/deauthorize", signed())).status_code == 200
    path = await ask_deletion(service)
    assert "being looked for" in await read_page(service, path)
    assert {request["kind"] for request in await requests(service)} == {"deauthorize", "data_deletion"}


async def test_without_a_public_url_links_go_where_the_request_came_to(database: str, graph: object) -> None:
    assert graph
    async with running(settings_for(database)) as service:
        response = await post(service, "/facebook/data-deletion", signed())
        assert response.json()["url"].startswith("http://mirror.test/facebook/data-deletion/")


async def test_the_persons_that_graph_names_are_erased_and_the_page_says_so_step_by_step(
    service: Service, meta: Meta, graph: FakeGraph
) -> None:
    for page_id in (PAGE, OTHER_PAGE):
        await add_page(service, graph, page_id)
        await deliver(service.http, text_delivery(page_id, f"{PERSON}-{page_id}", f"m_{page_id}", "a private word"))
    await deliver(service.http, text_delivery(PAGE, "7999", "m_9", "somebody else's"))
    meta.ids = [(page_id, f"{PERSON}-{page_id}") for page_id in (PAGE, OTHER_PAGE)]
    path = await ask_deletion(service)
    assert "being looked for" in await read_page(service, path)
    assert await see_to(service, LATER) == {"tried": 1, "ended": 1}
    assert "copies" in await read_page(service, path)
    await JournalEraser(service.state["pool"]).run_once()
    page = await read_page(service, path)
    assert "It is done" in page
    assert USER not in page
    listed = (await service.http.get("/api/conversations")).json()["data"]
    assert [conversation["psid"] for conversation in listed] == ["7999"]
    [request] = await requests(service)
    assert (request["state"], request["persons"], request["user_id"]) == ("done", 2, None)


async def test_an_id_that_is_a_conversations_own_is_found_without_graph(database: str, graph: FakeGraph) -> None:
    async with running(settings_for(database)) as service:
        await add_page(service, graph, PAGE)
        await deliver(service.http, text_delivery(PAGE, USER, "m_1", "a private word"))
        response = await post(service, "/facebook/data-deletion", signed())
        await see_to(service, LATER)
        await JournalEraser(service.state["pool"]).run_once()
        found = await service.http.get("/facebook/data-deletion/" + response.json()["confirmation_code"])
        assert "It is done" in found.text
        assert (await service.http.get("/api/conversations")).json()["data"] == []


async def test_a_person_of_whom_nothing_is_stored_is_told_so(service: Service) -> None:
    path = await ask_deletion(service)
    await see_to(service, LATER)
    assert "Nothing about you is stored" in await read_page(service, path)


async def test_what_graph_refuses_to_tell_is_left_to_the_owner_and_the_page_says_what_to_do(
    service: Service, meta: Meta
) -> None:
    meta.ids = (400, graph_error(10, "This app has no permission for it"))
    path = await ask_deletion(service)
    await see_to(service, LATER)
    assert "ask that Page to delete" in await read_page(service, path)
    [request] = await requests(service)
    assert (request["state"], request["user_id"]) == ("unmatched", USER)
    assert "Graph does not tell whose id this is" in request["outcome"]


async def test_while_graph_cant_be_asked_it_is_tried_again_and_not_for_ever(
    service: Service, meta: Meta, graph: FakeGraph
) -> None:
    assert meta
    graph.is_away = True
    path = await ask_deletion(service)
    assert await see_to(service, LATER) == {"tried": 1, "ended": 0}
    assert await see_to(service, LATER) == {"tried": 0, "ended": 0}
    assert "being looked for" in await read_page(service, path)
    assert "tried again later" in (await requests(service))[0]["outcome"]
    assert await see_to(service, LATER + GIVEN_UP_AFTER) == {"tried": 1, "ended": 1}
    assert (await requests(service))[0]["state"] == "unmatched"


@pytest.mark.parametrize("path", ["/facebook/data-deletion", "/facebook/deauthorize"])
async def test_what_is_not_signed_by_facebook_is_refused_and_leaves_nothing(service: Service, path: str) -> None:
    assert_problem(await post(service, path, signed("another secret")), 403, "signed_request")
    assert_problem(await post(service, path, ""), 422, "signed_request")
    assert_problem(await post(service, path, signed(algorithm="none")), 422, "signed_request")
    for content in (b"", b"\xff", b"signed_request", b"a=1&" * 50, b"signed_request=a&signed_request=b", b"{}"):
        assert_problem(await service.http.post(path, content=content), 422, "signed_request")
    assert_problem(await service.http.post(path, content=b"x" * 100_000), 413)
    assert await requests(service) == []


async def test_a_code_that_nobody_was_given_shows_nothing(service: Service) -> None:
    await post(service, "/facebook/deauthorize", signed())
    [request] = await requests(service)
    for code in ("0" * 20, "x", "%00", "a%20b", request["code"]):
        response = await service.http.get(f"/facebook/data-deletion/{code}")
        assert response.status_code == 404


async def test_requests_are_an_admins_to_read_and_are_paged(service: Service) -> None:
    for n in range(3):
        await post(service, "/facebook/data-deletion", signed(issued_at=n))
    first = (await service.http.get("/api/facebook-requests?limit=2")).json()
    rest = (await service.http.get("/api/facebook-requests", params={"cursor": first["next"]})).json()
    assert len({row["code"] for row in [*first["data"], *rest["data"]]}) == 3
    assert rest["next"] is None


# -- that somebody took back what they allowed --------------------------------------------------------------------


async def test_a_page_that_took_this_app_off_needs_a_new_token_and_no_other_does(
    service: Service, graph: FakeGraph
) -> None:
    for page_id in (PAGE, OTHER_PAGE):
        await add_page(service, graph, page_id)
    response = await post(service, "/facebook/deauthorize", signed(user_id="0", profile_id=PAGE))
    assert response.status_code == 200
    await see_to(service, LATER)
    assert await states(service) == {PAGE: "needs_reauth", OTHER_PAGE: "active"}
    page = (await service.http.get(f"/api/pages/{PAGE}")).json()
    assert "took that back" in page["state_reason"]


async def test_the_pages_whose_tokens_a_person_gave_need_new_ones_and_so_do_dead_tokens(
    service: Service, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = {"1001": USER, "1002": "another", "1003": None, "1004": "another"}
    for page_id in granted:
        await add_page(service, graph, page_id)

    async def get(token: str, _lane: str, path: str, params: dict[str, str]) -> Any:
        assert (token, path) == (f"{APP_ID}|{APP_SECRET}", "debug_token")
        by = granted[params["input_token"].removeprefix(f"{PAGE_TOKEN}-")]
        data = {"is_valid": by is not None, "user_id": by}
        return type("Answer", (), {"data": {"data": data}})

    monkeypatch.setattr(service.state["graph"], "get", get)
    await post(service, "/facebook/deauthorize", signed())
    await see_to(service, LATER)
    assert await states(service) == {
        "1001": "needs_reauth",
        "1002": "active",
        "1003": "needs_reauth",
        "1004": "active",
    }


async def test_where_graph_does_not_tell_every_page_is_synced_at_once_to_find_out(
    service: Service, graph: FakeGraph
) -> None:
    await add_page(service, graph, PAGE)
    async with service.state["pool"].acquire() as connection:
        await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 day'")
    await post(service, "/facebook/deauthorize", signed())
    await see_to(service, LATER)
    page = (await service.http.get(f"/api/pages/{PAGE}")).json()
    assert page["state"] == "active"
    assert datetime.fromisoformat(page["next_sync_at"]) <= LATER
    [request] = await requests(service)
    assert request["outcome"] == "0 of 1 Pages need a new token; 1 are synced at once to find out"
