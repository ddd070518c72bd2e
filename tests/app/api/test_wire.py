"""What holds for all of `/api`: that it takes a key, problems, parameters that are odd."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import orjson
import pytest

from app.api import wire
from app.problems import ProblemError
from app.routes import all_endpoints
from tests.app.service import (
    API_KEY,
    AUTHORIZATION,
    OLD_API_KEY,
    any_path,
    assert_problem,
    running,
    served,
    settings_for,
)
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.app.service import Service

PATHS = [
    "/api/conversations",
    "/api/conversations/1/2",
    "/api/conversations/1/2/messages",
    "/api/conversations/sync-stream?page_id=1",
    "/api/backfills",
    f"/api/backfills/{uuid4()}",
    "/api/runs",
    "/api/runs/1",
    "/api/pages",
    "/api/pages/1",
    "/api/deliveries",
    "/api/loss",
    "/api/keys",
    "/api/facebook-requests",
    "/api/tags",
    "/api/tags/1",
    "/api/nothing",
]
POSTS = [
    "/api/conversations/sync",
    "/api/conversations/sync-all",
    "/api/backfills",
    "/api/pages",
    "/api/deliveries/replay",
    "/api/keys",
]
LISTS = [
    "/api/conversations",
    "/api/conversations/1/2/messages",
    "/api/backfills",
    "/api/runs",
    "/api/deliveries",
    "/api/facebook-requests",
]


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


NOW = datetime.now(UTC).isoformat()
FORGED = [
    "x",
    "!!!",
    "💥",
    "A" * 5000,
    packed(None),
    packed({}),
    packed([]),
    packed(7),
    packed([True]),
    packed([-1]),
    packed([2**63]),
    packed([1.5]),
    packed([None]),
    packed([[1]]),
    packed(["1"]),
    packed([NOW]),
    base64.urlsafe_b64encode(b"[" * 3000).decode(),
    packed([NOW, "x", []]),
    packed([NOW, None]),
    packed([NOW, 1]),
    packed([NOW, "a\x00b"]),
    packed([NOW, {"a": 1}]),
    packed(["yesterday", str(uuid4())]),
    packed(["0001-01-01T00:00:00+14:00", str(uuid4())]),
    packed(["9999-12-31T23:59:59-14:00", str(uuid4())]),
    packed([NOW, "1", "2\x00"]),
    packed([NOW, "1", "2", "3"]),
    packed([1, 2, 3]),
]


@pytest.fixture(scope="module")
async def service(server: str, templates: dict[str, str]) -> AsyncIterator[Service]:
    """One for all: what is asked here leaves nothing behind."""
    async with new_database(server, templates, "plain") as dsn, running(settings_for(dsn)) as made:
        yield made


async def test_without_the_key_every_endpoint_answers_401(service: Service) -> None:
    requests = [
        (endpoint.method, any_path(prefix, endpoint))
        for prefix, endpoint in all_endpoints()
        if endpoint.role is not None
    ]
    requests.append(("GET", "/api/nothing"))
    for key in ("", "wrong", API_KEY[:-1], API_KEY + "x", f"{API_KEY},{OLD_API_KEY}"):
        for method, path in requests:
            response = await service.http.request(method, path, headers={"authorization": f"Bearer {key}"})
            assert_problem(response, 401, "authorization")
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert API_KEY not in response.text
    for method, path in requests:
        request = service.http.build_request(method, path)
        del request.headers["authorization"]
        assert_problem(await service.http.send(request), 401, "authorization")


async def test_an_unknown_path_is_a_404_problem(service: Service) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in ("/nothing", "/api/nothing", "/api/conversations/1/2/3/4", "/"):
            assert_problem(await service.http.request(method, path), 404)


async def test_a_wrong_method_is_a_405_problem_that_names_all_the_right_ones(service: Service) -> None:
    for method, path, right in (
        ("PUT", "/api/conversations", "GET, HEAD"),
        ("OPTIONS", "/api/tags", "GET, HEAD, POST"),
        ("PUT", "/api/tags/vip", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/api/conversations/1/2/tags/vip", "DELETE, PUT"),
        ("PATCH", "/api/runs/1", "GET, HEAD"),
        ("GET", "/api/conversations/sync", "POST"),
        ("DELETE", "/webhook", "GET, HEAD, POST"),
        ("TRACE", "/healthz", "GET, HEAD"),
    ):
        response = await service.http.request(method, path)
        assert_problem(response, 405)
        assert response.headers["allow"] == right


async def test_head_answers_as_get_does_without_the_body(service: Service) -> None:
    async with served(service.app, lifespan="off") as address, httpx.AsyncClient(base_url=address) as http:
        for path, headers in (("/api/tags", AUTHORIZATION), ("/api/nothing", AUTHORIZATION), ("/api/tags", {})):
            got, head = [await http.request(method, path, headers=headers) for method in ("GET", "HEAD")]
            assert (head.status_code, head.content) == (got.status_code, b"")
            for name in ("content-type", "content-length", "etag"):
                assert head.headers.get(name) == got.headers.get(name)


async def test_a_body_beyond_the_limit_is_a_413_problem(service: Service) -> None:
    for path in POSTS:
        assert_problem(await service.http.post(path, content=b" " * (wire.MAX_BODY + 1)), 413)


async def test_a_body_that_is_no_json_object_of_the_shape_is_a_422_problem(service: Service) -> None:
    for path in POSTS:
        for body in (
            b"{",
            b"[]",
            b"null",
            b'"a"',
            b"\xff\xfe",
            b'{"a": 1e999}',
            b'{"x": "\\ud800"}',
            b"[" * 100_000,
            b'{"a":' * 5000,
        ):
            response = await service.http.post(path, content=body)
            assert_problem(response, 422, response.json().get("field"))


async def test_an_unknown_field_of_a_body_is_named(service: Service) -> None:
    for path, right in (
        ("/api/conversations/sync", {"page_id": "1"}),
        ("/api/conversations/sync-all", {}),
        ("/api/backfills", {"all": True, "since": "2026-01-01"}),
        ("/api/pages", {"access_token": "EAAx"}),
        ("/api/deliveries/replay", {"state": "dead"}),
        ("/api/keys", {"name": "a", "role": "read"}),
    ):
        response = await service.http.post(path, json={**right, "colour": "blue"})
        assert "colour: not known here; known: " in assert_problem(response, 422, "colour")


async def test_an_unknown_query_parameter_is_named_and_the_known_ones_are_listed(service: Service) -> None:
    for path in PATHS[:-1]:
        response = await service.http.get(path + ("&" if "?" in path else "?") + "colour=blue")
        assert "colour: not known here; known: " in assert_problem(response, 422, "colour")


async def test_a_parameter_given_twice_is_refused_where_one_value_is_taken(service: Service) -> None:
    for name, value in (("page_id", "1"), ("limit", "1"), ("search", "a"), ("updated_from", "2026-01-31")):
        assert_problem(await service.http.get(f"/api/conversations?{name}={value}&{name}={value}"), 422, name)


async def test_a_limit_out_of_its_range_is_a_422_problem(service: Service) -> None:
    for path in LISTS:
        for limit in ("0", "501", "-1", "x", "1.5", "", "9" * 30):
            assert_problem(await service.http.get(path, params={"limit": limit}), 422, "limit")


async def test_a_forged_or_foreign_cursor_is_a_422_problem_never_a_500(service: Service) -> None:
    for path in LISTS:
        for cursor in FORGED:
            assert_problem(await service.http.get(path, params={"cursor": cursor}), 422, "cursor")
        for place in ([1], [NOW, str(uuid4())], [NOW, "1", "2"], [NOW, "1"]):
            for question in ([], [wire.question_of("another")]):  # a cursor also says what it is for
                foreign = {"cursor": packed([*question, *place])}
                assert_problem(await service.http.get(path, params=foreign), 422, "cursor")


RANGES = [
    (endpoint.method, before + endpoint.template, begins, ends)
    for before, endpoint in all_endpoints()
    for shape in (endpoint.query, endpoint.body)
    for begins, ends in (("since", "until"), ("updated_from", "updated_to"))
    if shape is not None and {begins, ends} <= shape.model_fields.keys()
]


def test_every_range_of_time_is_tried() -> None:
    assert [f"{method} {path}" for method, path, *_ in RANGES] == [
        "GET /api/conversations",
        "POST /api/backfills",
        "GET /api/loss",
        "GET /api/deliveries",
        "POST /api/deliveries/replay",
    ]


@pytest.mark.parametrize(("method", "path", "begins", "ends"), RANGES)
async def test_a_range_that_ends_before_it_begins_is_a_422_problem_that_names_its_end(
    service: Service, method: str, path: str, begins: str, ends: str
) -> None:
    for first, last in (("2026-03-02", "2026-03-01"), ("2026-03-01T00:00:00Z", "2026-03-01T01:00:00+01:00")):
        given: dict[str, Any] = {begins: first, ends: last}
        if method == "GET":
            response = await service.http.get(path, params=given)
        else:
            response = await service.http.post(path, json=given | ({"all": True} if "backfills" in path else {}))
        assert f"{ends} must be later than {begins}" in assert_problem(response, 422, ends)


async def test_a_report_that_begins_in_the_future_is_a_422_problem_that_names_its_beginning(service: Service) -> None:
    response = await service.http.get("/api/loss", params={"since": "2999-01-01"})
    assert "future" in assert_problem(response, 422, "since")


ODD = ["%00", "a%00b", "%ff%fe", "%ED%A0%80", "%2F", "a%2Fb", "%F0%9F%92%A5", "'; --", "%25", "-1", "1e9", "%0a"]


async def test_an_odd_path_is_unknown_and_never_a_failure(service: Service) -> None:
    for path in (
        "/api/conversations/{}/2",
        "/api/conversations/1/{}",
        "/api/conversations/1/{}/messages",
        "/api/pages/{}",
        "/api/runs/{}",
        "/api/backfills/{}",
    ):
        for odd in [*ODD, "x" * 5000, "9" * 5000]:
            response = await service.http.get(path.format(odd))
            assert response.status_code in {404, 307}, response.text
            response = await service.http.delete(path.format(odd))
            assert response.status_code in {404, 405, 307}, response.text


async def test_an_odd_query_is_refused_and_never_a_failure(service: Service) -> None:
    for name in ("page_id", "cursor", "state", "limit"):
        for odd in [*ODD, "x" * 5000, ""]:
            response = await service.http.get(f"/api/runs?{name}={odd}")
            assert response.status_code in {200, 422}, response.text


async def test_what_nobody_foresaw_is_a_500_problem_that_tells_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("app.api.runs.list_runs", fail)
    detail = assert_problem(await service.http.get("/api/runs"), 500)
    assert "secret" not in detail


async def test_a_database_that_is_away_is_a_503_problem_with_retry_after(database: str, graph: object) -> None:
    assert graph
    async with running(settings_for(database)) as service:
        await service.state["pool"].close()
        response = await service.http.get("/api/runs")
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert_problem(await service.http.get("/readyz"), 503)


@pytest.mark.parametrize(
    "values", [("2026-01-02T03:04:05.678901+00:00", "1", "2"), ("2026-01-02T03:04:05+00:00", "ü/+", '"')]
)
def test_a_cursor_gives_back_what_was_packed(values: tuple[str, str, str]) -> None:
    at = datetime.fromisoformat(values[0])
    cursor = wire.to_cursor(at, *values[1:])
    assert wire.from_cursor(cursor, datetime, str, str) == (at, *values[1:])
    with pytest.raises(ProblemError):
        wire.from_cursor(cursor, datetime, str)
