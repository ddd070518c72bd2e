"""Roles at the API's door, and the keys that it makes and revokes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.routing import Mount

from app.asgi import make_app
from app.endpoint import Endpoint
from app.keys import Role
from tests.app.process import process
from tests.app.service import API_KEY, OLD_API_KEY, any_path, assert_problem, running, settings_for
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from tests.app.service import Service

OPEN = {
    ("GET", "/webhook"),
    ("POST", "/webhook"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("POST", "/facebook/data-deletion"),
    ("GET", "/facebook/data-deletion/{code}"),
    ("POST", "/facebook/deauthorize"),
}


@pytest.fixture(scope="module")
async def service(server: str, templates: dict[str, str]) -> AsyncIterator[Service]:
    """One for all: keys don't get in each other's way."""
    async with new_database(server, templates, "plain") as dsn, running(settings_for(dsn)) as made:
        yield made


async def make(service: Service, role: str = "read", name: str = "somebody") -> dict[str, Any]:
    response = await service.http.post("/api/keys", json={"name": name, "role": role})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def ask(service: Service, key: str, method: str, path: str, **options: Any) -> httpx.Response:
    return await service.http.request(method, path, headers={"authorization": f"Bearer {key}"}, **options)


def endpoints() -> list[tuple[str, Endpoint]]:
    """All that the application serves, with the prefix that it is mounted under."""
    found: list[tuple[str, Endpoint]] = []
    for route in make_app(settings_for("postgresql://nowhere")).routes:
        for inner in route.routes if isinstance(route, Mount) else [route]:
            assert isinstance(inner, Endpoint), inner
            found.append((route.path if isinstance(route, Mount) else "", inner))
    return found


def test_no_route_lacks_a_role_but_those_that_are_open_to_all() -> None:
    without = {(endpoint.method, prefix + endpoint.path) for prefix, endpoint in endpoints() if endpoint.role is None}
    assert without == OPEN
    assert all(endpoint.role is not None for prefix, endpoint in endpoints() if prefix == "/api")


def test_what_only_reads_takes_the_least_role_and_what_changes_takes_more() -> None:
    for prefix, endpoint in endpoints():
        if prefix == "/api" and endpoint.method != "GET":
            assert endpoint.role in {Role.OPERATE, Role.ADMIN}, endpoint.path


async def test_every_endpoint_refuses_a_key_of_a_lesser_role_and_names_the_role_it_takes(service: Service) -> None:
    keys = {role: (await make(service, role.word))["key"] for role in Role}
    for prefix, endpoint in endpoints():
        if endpoint.role is None:
            continue
        path = any_path(prefix, endpoint)
        for role, key in keys.items():
            if role >= endpoint.role:
                continue
            response = await ask(service, key, endpoint.method, path, json={})
            detail = assert_problem(response, 403, "authorization")
            assert response.json()["needed_role"] == endpoint.role.word
            assert endpoint.role.word in detail
            assert role.word in detail


async def test_a_role_may_do_what_those_before_it_may(service: Service) -> None:
    for role in Role:
        key = (await make(service, role.word))["key"]
        assert (await ask(service, key, "GET", "/api/runs")).status_code == 200
        replay = await ask(service, key, "POST", "/api/deliveries/replay", json={"state": "dead"})
        assert replay.status_code == (200 if role >= Role.OPERATE else 403)
        assert (await ask(service, key, "GET", "/api/keys")).status_code == (200 if role == Role.ADMIN else 403)


async def test_every_key_of_the_setting_is_an_admin_and_the_scheme_may_be_of_any_case(service: Service) -> None:
    for header in (f"Bearer {API_KEY}", f"bearer {OLD_API_KEY}", f"BEARER  {API_KEY} "):
        response = await service.http.get("/api/keys", headers={"authorization": header})
        assert response.status_code == 200
    for scheme in ("Basic", "Token", ""):
        assert_problem(
            await service.http.get("/api/runs", headers={"authorization": f"{scheme} {API_KEY}"}), 401, "authorization"
        )


async def test_a_key_is_shown_once_and_listed_without_itself(service: Service) -> None:
    made = await make(service, "operate", "the night shift")
    assert (await ask(service, made["key"], "GET", "/api/runs")).status_code == 200
    response = await service.http.get("/api/keys")
    assert made["key"] not in response.text
    listed = next(key for key in response.json()["data"] if key["id"] == made["id"])
    assert listed == {key: value for key, value in made.items() if key != "key"}
    assert (listed["name"], listed["role"], listed["created_by"]) == ("the night shift", "operate", "ops-1")


async def test_who_made_a_key_is_told(service: Service) -> None:
    admin = await make(service, "admin")
    made = (await ask(service, admin["key"], "POST", "/api/keys", json={"name": "x", "role": "read"})).json()
    assert made["created_by"] == admin["id"]


async def test_a_new_key_is_not_to_be_kept_by_caches(service: Service) -> None:
    response = await service.http.post("/api/keys", json={"name": "x", "role": "read"})
    assert response.headers["cache-control"] == "no-store"


async def test_a_revoked_key_is_refused_at_once_and_stays_listed(service: Service) -> None:
    made = await make(service)
    assert (await ask(service, made["key"], "GET", "/api/runs")).status_code == 200
    assert (await service.http.delete(f"/api/keys/{made['id']}")).status_code == 204
    response = await ask(service, made["key"], "GET", "/api/runs")
    assert_problem(response, 401, "authorization")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert (await service.http.delete(f"/api/keys/{made['id']}")).status_code == 204
    listed = next(key for key in (await service.http.get("/api/keys")).json()["data"] if key["id"] == made["id"])
    assert listed["revoked_at"] is not None
    assert_problem(await service.http.delete("/api/keys/000000000000"), 404, "key_id")


async def test_a_key_of_no_known_role_or_without_a_name_is_refused(service: Service) -> None:
    for field, body in (
        ("role", {"name": "x", "role": "root"}),
        ("role", {"name": "x"}),
        ("name", {"name": "", "role": "read"}),
        ("name", {"name": "a\nb", "role": "read"}),
        ("name", {"role": "read"}),
    ):
        assert_problem(await service.http.post("/api/keys", json=body), 422, field)


async def test_a_key_that_asks_too_often_is_told_when_to_come_back_and_others_are_not_held_up(
    database: str, graph: object
) -> None:
    assert graph
    async with running(settings_for(database, api_requests_per_second=0.2)) as service:
        key = (await make(service))["key"]
        for _ in range(2):
            assert (await ask(service, key, "GET", "/api/runs")).status_code == 200
        response = await ask(service, key, "GET", "/api/runs")
        assert_problem(response, 429, "authorization")
        assert 1 <= int(response.headers["retry-after"]) <= 5
        assert (await service.http.get("/api/runs")).status_code == 200
        assert (await service.http.get("/healthz")).status_code == 200


async def test_keys_are_made_listed_and_revoked_from_the_command_line(service: Service, tmp_path: Path) -> None:
    database = service.settings.database_url
    assert database is not None
    command, where = ("-m", "app.cli.main", "keys"), {"DATABASE_URL": database.get_secret_value(), "COLUMNS": "200"}
    async with process(tmp_path, *command, "add", "the shop", "--role", "operate", **where) as made:
        assert await made.ended() == 0, made.output
    key = made.output.strip()
    assert (await ask(service, key, "GET", "/api/runs")).status_code == 200
    async with process(tmp_path, *command, "list", **where) as listed:
        assert await listed.ended() == 0
    assert "the shop" in listed.output
    assert key not in listed.output
    key_id = key.split("_")[1]
    for code, named in ((0, key_id), (1, "nobody")):
        async with process(tmp_path, *command, "revoke", named, **where) as revoked:
            assert await revoked.ended() == code, revoked.output
    service.state["keys"].forget()
    assert_problem(await ask(service, key, "GET", "/api/runs"), 401, "authorization")
