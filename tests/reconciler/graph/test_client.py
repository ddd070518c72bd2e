from __future__ import annotations

import asyncio
import gzip
import hmac
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import respx
from structlog.testing import capture_logs

from reconciler.graph import client as client_module
from reconciler.graph.client import MARGIN, GraphClient, new_http_client
from reconciler.graph.errors import (
    BadAnswer,
    GraphError,
    GraphUnavailable,
    NotFound,
    RateLimited,
    TokenDead,
    TooHeavy,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

TOKEN = "EAAtoken"
SECRET = "the app's secret"
DATE = "Sun, 01 Mar 2026 12:00:00 GMT"
URL = "https://graph.facebook.com/v26.0/77/conversations"


@pytest.fixture
def graph() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with new_http_client() as made:
        yield made


@pytest.fixture
def client(http: httpx.AsyncClient) -> GraphClient:
    return made(http)


def made(http: httpx.AsyncClient, **options: Any) -> GraphClient:
    settings: dict[str, Any] = {"app_secret": SECRET, "calls_per_second": 1e6, **options}
    return GraphClient(http, url="https://graph.facebook.com/", version="v26.0", **settings)


def error(code: int, message: str = "m", **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **more}}


async def ask(client: GraphClient, page_id: str = "77", token: str = TOKEN) -> dict[str, Any]:
    return (await client.get(token, page_id, f"{page_id}/conversations", {"limit": 5})).data


async def test_the_token_goes_in_the_header_with_its_proof_and_never_in_the_url(
    graph: respx.MockRouter, client: GraphClient
) -> None:
    route = graph.get(URL).respond(json={"data": []})
    await ask(client)
    request = route.calls.last.request
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    proof = hmac.new(SECRET.encode(), TOKEN.encode(), "sha256").hexdigest()
    assert dict(request.url.params) == {"limit": "5", "appsecret_proof": proof}
    assert TOKEN not in str(request.url)


async def test_without_an_app_secret_there_is_no_proof(graph: respx.MockRouter, http: httpx.AsyncClient) -> None:
    route = graph.get(URL).respond(json={"data": []})
    await ask(made(http, app_secret=None))
    assert "appsecret_proof" not in route.calls.last.request.url.params


async def test_every_timeout_is_set(graph: respx.MockRouter, client: GraphClient) -> None:
    route = graph.get(URL).respond(json={"data": []})
    await ask(client)
    timeouts = route.calls.last.request.extensions["timeout"]
    assert set(timeouts) == {"connect", "read", "write", "pool"}
    assert all(0 < seconds <= 30 for seconds in timeouts.values())


async def test_http_2_and_gzip_are_offered_and_redirects_are_not_followed(
    graph: respx.MockRouter, http: httpx.AsyncClient
) -> None:
    pool = http._transport._pool  # type: ignore[attr-defined]
    assert pool._http2 is True
    packed = gzip.compress(json.dumps({"data": ["packed"]}).encode())
    route = graph.get(URL).respond(content=packed, headers={"content-encoding": "gzip"})
    assert await ask(made(http)) == {"data": ["packed"]}
    assert "gzip" in route.calls.last.request.headers["accept-encoding"]
    graph.get(URL).respond(302, headers={"location": "https://elsewhere.example/"})
    with pytest.raises(BadAnswer, match="HTTP 302"):
        await ask(made(http))


async def test_this_machine_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    async with new_http_client() as http:
        own = http._transport_for_url(httpx.URL("http://127.0.0.1:9000/v26.0/me"))
        metas = http._transport_for_url(httpx.URL("https://graph.facebook.com/v26.0/me"))
        assert own is http._transport
        assert metas is not http._transport


async def test_an_answer_was_read_at_its_date_less_its_duration_and_the_lag_rounded_down(
    graph: respx.MockRouter, http: httpx.AsyncClient
) -> None:
    graph.get(URL).respond(json={"data": []}, headers={"date": DATE})
    clock = iter([100.0, 101.3])
    answer = await made(http, lag_seconds=60, clock=lambda: next(clock)).get(TOKEN, "77", "77/conversations", {})
    assert answer.date == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    assert answer.observed_at == datetime(2026, 3, 1, 11, 58, 58, tzinfo=UTC)


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
async def test_without_a_date_our_own_clock_is_used(
    graph: respx.MockRouter, client: GraphClient, headers: dict[str, str]
) -> None:
    graph.get(URL).respond(json={"data": []}, headers=headers)
    before = datetime.now(UTC)
    answer = await client.get(TOKEN, "77", "77/conversations", {})
    assert before <= answer.date <= datetime.now(UTC)
    assert answer.observed_at <= before - timedelta(seconds=59)


def refuse(kind: type[Exception]) -> Callable[[httpx.Request], httpx.Response]:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind(f"with {request.headers['authorization']}")

    return fail


UNAVAILABLE: dict[str, Any] = {
    "no connection": refuse(httpx.ConnectError),
    "a timeout": refuse(httpx.ReadTimeout),
    "a cut connection": refuse(httpx.RemoteProtocolError),
    "a body that can't be unpacked": refuse(httpx.DecodingError),
    "no answer at all": refuse(TimeoutError),
    "HTML": httpx.Response(502, html="<h1>Sorry</h1>"),
    "HTML with 200": httpx.Response(200, html="<h1>Sorry</h1>"),
    "a cut body": httpx.Response(200, content=b'{"data":[{"id":"t_1"'),
    "a cut error": httpx.Response(500, content=b'{"error":{"mess'),
    "an empty body": httpx.Response(200),
    "an empty 500": httpx.Response(500),
    "a list": httpx.Response(200, json=[]),
    "error 2": httpx.Response(400, json=error(2)),
    "is_transient": httpx.Response(400, json=error(12345, is_transient=True)),
}


@pytest.mark.parametrize("answer", UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
async def test_what_is_temporary_is_tried_five_times_and_no_more(
    graph: respx.MockRouter, client: GraphClient, answer: Any
) -> None:
    route = graph.get(URL).mock(side_effect=answer if callable(answer) else [answer] * 9)
    with pytest.raises(GraphUnavailable) as caught:
        await ask(client)
    assert route.call_count == client.calls["77"] == 5
    assert TOKEN not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("answer", UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
async def test_what_was_temporary_ends_in_the_answer(graph: respx.MockRouter, client: GraphClient, answer: Any) -> None:
    good = httpx.Response(200, json={"data": ["late"]})
    answers = iter([answer, answer, good])

    def respond(request: httpx.Request) -> httpx.Response:
        answer = next(answers)
        response: httpx.Response = answer(request) if callable(answer) else answer
        return response

    graph.get(URL).mock(side_effect=respond)
    assert await ask(client) == {"data": ["late"]}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(400, json=error(190)), TokenDead),
        (httpx.Response(400, json=error(100, error_subcode=33)), NotFound),
        (httpx.Response(500, json=error(1, "Please reduce the amount of data")), TooHeavy),
        (httpx.Response(400, html="<h1>Bad request</h1>"), BadAnswer),
        (httpx.Response(400, json=error(2500)), BadAnswer),
        (httpx.Response(200, json=error(190)), TokenDead),
        (httpx.Response(400, json=error(613)), RateLimited),
    ],
)
async def test_what_would_fail_again_is_asked_once(
    graph: respx.MockRouter, client: GraphClient, answer: httpx.Response, kind: type[GraphError]
) -> None:
    route = graph.get(URL).mock(return_value=answer)
    with pytest.raises(kind):
        await ask(client)
    assert route.call_count == 1


async def test_backoff_is_drawn_from_all_of_a_growing_interval(
    graph: respx.MockRouter, client: GraphClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(client_module, "random", SimpleNamespace(uniform=uniform))
    graph.get(URL).respond(500)
    with pytest.raises(GraphUnavailable):
        await ask(client)
    assert drawn[:4] == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 8.0)]


async def test_no_log_line_and_no_error_holds_a_token(
    graph: respx.MockRouter, client: GraphClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    link = f"{URL}?access_token={TOKEN}&after=x"
    graph.get(URL).mock(
        side_effect=[
            httpx.Response(200, json={"data": [], "paging": {"next": link}}, headers={"facebook-api-version": "v1.0"}),
            httpx.Response(400, json=error(190, f"Malformed access token {TOKEN}")),
        ]
    )
    with capture_logs() as lines:
        await ask(client)
        with pytest.raises(TokenDead) as caught:
            await ask(client)
    assert TOKEN not in str(caught.value)
    assert TOKEN not in caplog.text
    assert TOKEN not in str(lines)


@pytest.mark.parametrize("token", ["EAA\nx", "EAA\x00", "Ünicode"])
async def test_a_token_that_no_header_can_carry_is_a_dead_one(
    graph: respx.MockRouter, client: GraphClient, token: str
) -> None:
    route = graph.get(URL).respond(json={"data": []})
    with pytest.raises(TokenDead) as caught:
        await ask(client, token=token)
    assert token not in str(caught.value)
    assert not route.called


async def test_another_version_than_asked_for_is_told_once(graph: respx.MockRouter, client: GraphClient) -> None:
    versions = ["v26.0", "v25.0", "v25.0", "v24.0", "v25.0"]
    graph.get(URL).mock(
        side_effect=[httpx.Response(200, json={}, headers={"facebook-api-version": v}) for v in versions]
    )
    with capture_logs() as lines:
        for _ in versions:
            await ask(client)
    assert [(line["event"], line["served"]) for line in lines] == [
        ("graph_version_differs", "v25.0"),
        ("graph_version_differs", "v24.0"),
    ]


async def test_the_calls_of_one_page_are_spread_and_other_pages_do_not_wait(
    graph: respx.MockRouter, http: httpx.AsyncClient
) -> None:
    graph.get(url__regex=r".*/conversations").respond(json={"data": []})
    client = made(http, calls_per_second=2)
    spaces: dict[str, float] = {}
    for page_id in ("77", "78"):
        await ask(client, page_id)
        spaces[page_id] = client._lanes[page_id].limiter.time_period
        assert not client._lanes[page_id].limiter.has_capacity()
    assert spaces == {"77": MARGIN / 2, "78": MARGIN / 2}
    assert client.calls == {"77": 1, "78": 1}


async def test_near_the_limit_each_call_waits_longer_and_others_do_not(
    graph: respx.MockRouter, http: httpx.AsyncClient
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    client = made(http, sleep=sleep)
    usage = [{}, {"x-page-usage": '{"call_count":80}'}, {"x-page-usage": '{"call_count":95}'}, {}, {}]
    graph.get(URL).mock(side_effect=[httpx.Response(200, json={}, headers=headers) for headers in usage])
    graph.get(url__regex=r".*/78/conversations").respond(json={})
    for _ in usage:
        await ask(client)
    await ask(client, "78")
    assert len(waited) == 2
    assert 0 < waited[0] < waited[1] < 30


async def test_after_a_limit_no_call_is_made_until_it_is_over(graph: respx.MockRouter, http: httpx.AsyncClient) -> None:
    now = 1000.0
    client = made(http, clock=lambda: now)
    refusal = httpx.Response(400, json=error(80006), headers={"retry-after": "90"})
    route = graph.get(URL).mock(side_effect=[refusal, httpx.Response(200, json={"data": ["again"]})])
    other = graph.get(url__regex=r".*/78/conversations").respond(json={"data": []})
    for passed, left in ((0, 90), (0, 90), (60, 30)):
        now += passed
        with pytest.raises(RateLimited) as caught:
            await ask(client)
        assert (caught.value.code, caught.value.wait) == (80006, timedelta(seconds=left))
    assert route.call_count == 1
    await ask(client, "78")
    assert other.call_count == 1
    now += 30
    assert await ask(client) == {"data": ["again"]}


async def test_the_apps_limit_stops_every_page(graph: respx.MockRouter, client: GraphClient) -> None:
    graph.get(URL).respond(403, json=error(4))
    other = graph.get(url__regex=r".*/78/conversations").respond(json={"data": []})
    for page_id in ("77", "78"):
        with pytest.raises(RateLimited) as caught:
            await ask(client, page_id)
        assert caught.value.scope == "app"
    assert not other.called


@pytest.mark.parametrize(
    ("headers", "scope", "wait"),
    [
        ({"x-app-usage": '{"total_time":100}'}, "app", timedelta(minutes=5)),
        ({"x-page-usage": '{"call_count":101}'}, "page", timedelta(minutes=5)),
        (
            {
                "x-business-use-case-usage": json.dumps(
                    {"1": [{"type": "messenger", "call_count": 100, "estimated_time_to_regain_access": 12}]}
                )
            },
            "page",
            timedelta(minutes=12),
        ),
    ],
)
async def test_a_limit_that_is_used_up_stops_before_the_call_that_would_be_refused(
    graph: respx.MockRouter, client: GraphClient, headers: dict[str, str], scope: str, wait: timedelta
) -> None:
    route = graph.get(URL).respond(json={"data": ["the last"]}, headers=headers)
    assert await ask(client) == {"data": ["the last"]}
    with pytest.raises(RateLimited) as caught:
        await ask(client)
    assert route.call_count == 1
    assert caught.value.scope == scope
    assert caught.value.wait is not None
    assert wait - timedelta(seconds=30) < caught.value.wait <= wait


async def test_outcomes_are_told_to_who_counts(graph: respx.MockRouter, http: httpx.AsyncClient) -> None:
    told: list[str] = []
    graph.get(URL).mock(side_effect=[httpx.Response(500), httpx.ConnectError("no"), httpx.Response(200, json={})])
    await ask(made(http, on_call=told.append))
    assert told == ["GraphUnavailable", "unreachable", "ok"]


async def test_a_post_is_sent_as_one(graph: respx.MockRouter, client: GraphClient) -> None:
    route = graph.post("https://graph.facebook.com/v26.0/77/subscribed_apps").respond(json={"success": True})
    answer = await client.post(TOKEN, "77", "77/subscribed_apps", {"subscribed_fields": "messages"})
    assert answer.data == {"success": True}
    assert route.calls.last.request.url.params["subscribed_fields"] == "messages"


async def test_calls_for_one_page_leave_one_after_the_other(graph: respx.MockRouter, http: httpx.AsyncClient) -> None:
    """Four who ask at once are let out by the same lane."""
    leaving = 0
    most = 0

    async def sleep(_seconds: float) -> None:
        nonlocal leaving, most
        leaving += 1
        most = max(most, leaving)
        await asyncio.sleep(0)
        leaving -= 1

    client = made(http, sleep=sleep)
    graph.get(URL).respond(json={}, headers={"x-page-usage": '{"call_count":90}'})
    await ask(client)
    await asyncio.gather(*(ask(client) for _ in range(4)))
    assert most == 1
