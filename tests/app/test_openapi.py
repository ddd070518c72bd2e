"""`/openapi.json` says what is served, no more and no less, and the service does as it says."""

from __future__ import annotations

import asyncio
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Mount

from app.asgi import make_app
from app.endpoint import Endpoint
from app.openapi import document
from app.routes import all_endpoints
from tests.app.service import AUTHORIZATION, running, served, settings_for
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from schemathesis import Case
    from starlette.routing import BaseRoute

    from tests.app.graph import FakeGraph
    from tests.app.service import Service

EXAMPLES = 12
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
DOCUMENT: dict[str, Any] = document(all_endpoints())
# every request here has a key: who has none is refused, as other tests tell
KEYLESS = deepcopy(DOCUMENT)
for _operations in KEYLESS["paths"].values():
    for _operation in _operations.values():
        _operation["security"] = []
OPERATIONS = [(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations]


@pytest.fixture
async def address(service: Service) -> AsyncIterator[str]:
    """Where the service listens. It is about to end, so it answers at once what it would else wait for."""
    service.state["ending"].set()
    async with served(service.app, lifespan="off") as url:
        yield url


@pytest.fixture(scope="module")
async def service(server: str, templates: dict[str, str]) -> AsyncIterator[Service]:
    """One for all operations."""
    async with new_database(server, templates, "plain") as dsn, running(settings_for(dsn)) as made:
        yield made


def serve_paths(routes: list[BaseRoute], prefix: str = "") -> set[tuple[str, str]]:
    """What the application really serves."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if isinstance(route, Mount):
            found |= serve_paths(list(route.routes), prefix + route.path)
        else:
            assert isinstance(route, Endpoint)
            path = re.sub(r":\w+}", "}", prefix + route.path)
            found |= {(method, path) for method in (route.methods or set()) - {"HEAD"}}
    return found


def test_every_route_is_documented_and_nothing_else_is() -> None:
    assert sorted(OPERATIONS) == sorted(serve_paths(make_app(settings_for("postgresql://nowhere")).routes))


def test_every_reference_leads_somewhere_and_every_shape_is_used() -> None:
    used = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))
    assert used == DOCUMENT["components"]["schemas"].keys()
    assert not [name for name in used if name.startswith("_") or "__" in name]


def test_what_narrows_a_list_of_conversations_says_how() -> None:
    parameters = DOCUMENT["paths"]["/api/conversations"]["get"]["parameters"]
    assert {p["name"] for p in parameters if "description" not in p} == {"page_id", "limit"}
    assert {p["schema"]["maxItems"] for p in parameters if p["schema"].get("type") == "array"} == {20}


def test_every_field_that_an_answer_must_have_is_described() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert set(schema.get("required", ())) <= schema.get("properties", {}).keys(), name


def test_operations_have_names_of_their_own_and_say_what_they_do() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for operation in operations)


def test_every_operation_of_the_api_says_whose_key_it_takes_and_what_it_refuses() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            if path.startswith("/api/"):
                assert operation["security"] == [{"key": [operation["x-role"]]}]
                assert {"401", "403", "422", "429", "500", "503"} <= operation["responses"].keys()
            else:
                assert operation["security"] == []


async def test_the_document_and_the_page_are_served_to_all_and_fetch_nothing(service: Service) -> None:
    asked = service.http.build_request("GET", "/openapi.json")
    del asked.headers["authorization"]
    response = await service.http.send(asked)
    assert (response.status_code, response.json()) == (200, DOCUMENT)
    page = await service.http.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"<script|<link|<img|src=|url\(|@import", page.text)
    assert not re.findall(r"href=[\"']?(?:https?:)?//", page.text)
    assert all(path in page.text for path in DOCUMENT["paths"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
async def test_whatever_is_asked_the_answer_is_one_that_is_documented(
    address: str, graph: FakeGraph, method: str, path: str
) -> None:
    assert graph
    told = DOCUMENT["paths"][path][method.lower()]
    operation = schemathesis.openapi.from_dict(KEYLESS)[path][method]
    await asyncio.to_thread(fuzz, operation, GenerationMode.POSITIVE, address)
    takes_something = "requestBody" in told or any(parameter["in"] == "query" for parameter in told["parameters"])
    if takes_something and path.startswith("/api/"):
        await asyncio.to_thread(fuzz, operation, GenerationMode.NEGATIVE, address)


def fuzz(operation: Any, mode: GenerationMode, address: str) -> None:
    """Ask in many ways; the same ones every time."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        response = case.call(base_url=address, headers=AUTHORIZATION)
        # a body beyond the limit is not looked into
        checks = [check for check in CHECKS if response.status_code != 413 or check is not negative_data_rejection]
        case.validate_response(response, checks=checks)

    ask()
