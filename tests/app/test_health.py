from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from app import health
from tests.app.service import assert_problem, deliver, signed, text_delivery

if TYPE_CHECKING:
    import pytest

    from sql.upsert import Connection
    from tests.app.service import Service


async def sample(service: Service, name: str, **labels: str) -> float:
    response = await service.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(response.text)
        for s in family.samples
    }
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


async def test_who_watches_needs_no_key(service: Service) -> None:
    del service.http.headers["authorization"]
    for path, text in (("/healthz", "alive"), ("/readyz", "ready")):
        response = await service.http.get(path)
        assert (response.status_code, response.text) == (200, text)
    assert (await service.http.get("/metrics")).status_code == 200


async def test_a_schema_that_is_not_this_versions_is_not_ready(service: Service, connection: Connection) -> None:
    await connection.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    assert "messenger-mirror migrate" in assert_problem(await service.http.get("/readyz"), 503)
    await connection.execute("DROP TABLE schema_migrations")
    assert_problem(await service.http.get("/readyz"), 503)
    assert (await service.http.get("/healthz")).status_code == 200


async def test_a_database_that_does_not_answer_in_time_is_not_ready(
    service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_WITHIN_SECONDS", 0.05)
    async with connection.transaction():
        await connection.execute("LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")
        assert_problem(await service.http.get("/readyz"), 503)


async def test_a_server_that_does_not_even_take_back_a_query_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = asyncio.Event()

    async def stands_still(_connection: object) -> bool:
        while not thawed.is_set():
            try:
                await thawed.wait()
            except asyncio.CancelledError:
                continue  # as asyncpg does, that waits for the server's word
        return True

    monkeypatch.setattr(health, "READY_WITHIN_SECONDS", 0.05)
    monkeypatch.setattr(health, "is_current", stands_still)
    assert_problem(await service.http.get("/readyz"), 503)
    thawed.set()


async def test_deliveries_are_counted_by_outcome(service: Service) -> None:
    body = text_delivery("1001", "p", "m_1", "hello")
    before = {
        outcome: await sample(service, "mirror_deliveries_total", outcome=outcome)
        for outcome in ("acknowledged", "not_signed")
    }
    dead = await sample(service, "mirror_dead_letters_total")
    await deliver(service.http, body)
    await deliver(service.http, b"{not json")
    await service.http.post("/webhook", content=body, headers=signed(body, "another secret"))
    assert await sample(service, "mirror_deliveries_total", outcome="acknowledged") == before["acknowledged"] + 2
    assert await sample(service, "mirror_deliveries_total", outcome="not_signed") == before["not_signed"] + 1
    assert await sample(service, "mirror_dead_letters_total") == dead + 1
    assert await sample(service, "mirror_queue_bytes") == 0
