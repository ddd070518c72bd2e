from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

from prometheus_client.parser import text_string_to_metric_families

from app import health, numbers
from app.erasing import begin_erasure
from app.numbers import KEPT_SECONDS, MOST_PAGES, DatabaseNumbers
from app.reconciling import reconciler
from reconciler.schedule import Schedule
from sql.facebook_requests import finish_request, put_request
from sql.page_erasures import request_page_erasure
from tests.app.graph import thread
from tests.app.service import add_page, assert_problem, deliver, running, settings_for, signed, text_delivery
from tests.gateway import gateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from sql.pool import Pool
    from sql.upsert import Connection
    from tests.app.graph import FakeGraph
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
    response = await service.http.get("/healthz")
    assert (response.status_code, response.text) == (200, "alive")
    response = await service.http.get("/readyz")
    empty = {"deliveries": 0, "bytes": 0, "oldest_seconds": None}
    told = {"state": "ready", "detail": None, "spool": empty, "reconciler": {"heartbeat_seconds": None}}
    assert (response.status_code, response.json()) == (200, told)
    assert (await service.http.get("/metrics")).status_code == 200


async def test_a_schema_that_is_not_this_versions_is_not_ready(service: Service, connection: Connection) -> None:
    await connection.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    assert "messenger-mirror migrate" in assert_problem(await service.http.get("/readyz"), 503)
    await connection.execute("DROP TABLE schema_migrations")
    assert_problem(await service.http.get("/readyz"), 503)
    assert (await service.http.get("/healthz")).status_code == 200


async def test_a_reconciler_that_stands_still_is_told_by_whoever_is_to_run_it(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "run_once", AsyncMock())  # it never beats again
    async with running(settings_for(database, reconciler_enabled=True)) as service:
        told = (await service.http.get("/readyz")).json()
        assert (told["state"], told["reconciler"]["heartbeat_seconds"] < 30) == ("ready", True)
        await connection.execute("UPDATE heartbeats SET at = at - interval '31 s' WHERE name = 'schedule'")
        response = await service.http.get("/readyz")
        told = response.json()
        assert (response.status_code, told["state"]) == (200, "degraded")  # deliveries are as durable as ever
        assert "the reconciler stands still" in told["detail"]
        assert told["reconciler"]["heartbeat_seconds"] > 30
    async with running(settings_for(database)) as service:
        told = (await service.http.get("/readyz")).json()
        assert (told["state"], told["reconciler"]["heartbeat_seconds"] > 30) == ("ready", True)


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


async def test_a_database_that_is_away_is_told_and_is_no_reason_to_send_deliveries_elsewhere(
    database: str, tmp_path: Path
) -> None:
    async with gateway(database) as way, running(settings_for(way.dsn, spool_dir=tmp_path / "spool")) as service:
        assert (await service.http.get("/readyz")).json()["state"] == "ready"
        await way.close()
        body = text_delivery("1001", "p", "m_1", "hello")
        assert (await deliver(service.http, body)).status_code == 200
        response = await service.http.get("/readyz")
        assert response.status_code == 200
        told = response.json()
        assert told["state"] == "degraded"
        assert "the database does not answer" in told["detail"]
        assert (told["spool"]["deliveries"], told["spool"]["bytes"]) == (1, len(body))
        assert told["spool"]["oldest_seconds"] >= 0
        assert await sample(service, "mirror_spool_deliveries") == 1
        await way.open()


async def test_neither_a_database_nor_a_spool_is_not_ready(database: str, tmp_path: Path) -> None:
    settings = {"spool_dir": tmp_path / "spool", "spool_max_bytes": 0}
    async with gateway(database) as way, running(settings_for(way.dsn, **settings)) as service:
        await way.close()
        assert "SPOOL_MAX_BYTES" in assert_problem(await service.http.get("/readyz"), 503)
        await way.open()


async def test_before_the_database_was_ever_there_it_is_not_ready_though_it_takes_deliveries(
    database: str, tmp_path: Path
) -> None:
    async with (
        gateway(database, is_open=False) as way,
        running(settings_for(way.dsn, spool_dir=tmp_path / "spool")) as service,
    ):
        assert (await deliver(service.http, text_delivery("1001", "p", "m_1", "hello"))).status_code == 200
        response = await service.http.get("/readyz")
        assert "not there yet" in assert_problem(response, 503)
        assert response.json()["spool"]["deliveries"] == 1
        assert (await service.http.get("/healthz")).status_code == 200
        response = await service.http.get("/api/conversations")
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        await way.open()
        async with asyncio.timeout(60):
            await service.state["arrived"].wait()
        assert (await service.http.get("/readyz")).status_code == 200
        rows = (await service.http.get("/api/conversations")).json()["data"]
        assert [row["psid"] for row in rows] == ["p"]


async def test_deliveries_groups_and_items_are_measured(service: Service) -> None:
    names = [f"mirror_{name}_count" for name in ("ack_seconds", "group_size", "commit_seconds")]
    before = [await sample(service, name) for name in names]
    ack = await sample(service, "mirror_ack_seconds_sum")
    messages = await sample(service, "mirror_items_total", kind="message")
    await deliver(service.http, text_delivery("1001", "p", "m_1", "hello"))
    assert [await sample(service, name) for name in names] == [count + 1 for count in before]
    assert 0 < await sample(service, "mirror_ack_seconds_sum") - ack < 60
    assert await sample(service, "mirror_items_total", kind="message") == messages + 1


async def test_an_item_that_postgres_refuses_counts_as_a_dead_letter(service: Service, connection: Connection) -> None:
    await connection.execute("ALTER TABLE messages ADD CHECK (mid <> 'm_bad')")
    dead = await sample(service, "mirror_dead_letters_total")
    await deliver(service.http, text_delivery("1001", "p", "m_bad", "hello"))
    assert await sample(service, "mirror_dead_letters_total") == dead + 1


async def test_what_is_being_erased_and_whom_facebook_does_not_name_is_told(
    service: Service, connection: Connection
) -> None:
    await begin_erasure(service.state["pool"], "1001", "7001", before=None, requested_by="cli", now=datetime.now(UTC))
    await request_page_erasure(connection, "1002", now=datetime.now(UTC))
    asked: dict[str, Any] = {"kind": "data_deletion", "user_id": "9", "page_id": None, "now": datetime.now(UTC)}
    code = await put_request(connection, "0" * 20, b"0" * 32, **asked)
    await finish_request(connection, code, state="unmatched", outcome="who?", now=datetime.now(UTC))
    assert await sample(service, "mirror_erasures_open") == 1
    assert await sample(service, "mirror_page_erasures_open") == 1
    assert await sample(service, "mirror_deletion_requests_unmatched") == 1


async def test_how_late_messages_come_is_counted_by_their_own_time(service: Service) -> None:
    before = {name: await sample(service, f"mirror_lateness_seconds_{name}") for name in ("count", "sum")}
    late = await sample(service, "mirror_lateness_seconds_bucket", le="3600.0")
    await deliver(service.http, text_delivery("1001", "p", "m_1", "hello"))
    await deliver(service.http, text_delivery("1001", "p", "m_2", "hello", datetime.now(UTC) - timedelta(hours=2)))
    await deliver(service.http, text_delivery("1001", "p", "m_3", "hello", datetime.now(UTC) + timedelta(hours=2)))
    assert await sample(service, "mirror_lateness_seconds_count") == before["count"] + 3
    assert 7200 <= await sample(service, "mirror_lateness_seconds_sum") - before["sum"] < 7260
    assert await sample(service, "mirror_lateness_seconds_bucket", le="3600.0") == late + 2


async def test_what_syncs_repair_and_how_the_pages_do_is_told(syncing: Service, graph: FakeGraph) -> None:
    repaired = await sample(syncing, "mirror_repaired_total")
    calls = await sample(syncing, "mirror_graph_calls_total", outcome="ok")
    ended = await sample(syncing, "mirror_sync_runs_total", kind="incremental", state="succeeded")
    await add_page(
        syncing, graph, "1001", thread("1001", "p", ("m_1", "hello", datetime.now(UTC) + timedelta(seconds=5)))
    )
    await add_page(syncing, graph, "1002")
    body = {"page_id": "1001", "wait_seconds": 60}
    assert (await syncing.http.post("/api/conversations/sync", json=body)).json()["repaired"] == 1
    assert await sample(syncing, "mirror_repaired_total") == repaired  # whether it was missed is not decided yet
    async with syncing.state["pool"].acquire() as connection:
        await connection.execute("UPDATE brought_messages SET decided_at = now()")
    state = syncing.state
    async with reconciler(syncing.settings, state["pool"], state["graph"], state["tokens"]) as (_, _, jobs):
        await next(job for job in jobs if job.name == "repairs").run_once()
    assert await sample(syncing, "mirror_repaired_total") == repaired + 1
    assert await sample(syncing, "mirror_graph_calls_total", outcome="ok") > calls
    async with asyncio.timeout(60):  # the run is counted just after it has ended
        while await sample(syncing, "mirror_sync_runs_total", kind="incremental", state="succeeded") == ended:
            await syncing.state["pool"].fetchval("SELECT 1")  # whoever counts has its turn
    # after this it is not due for an hour: no run that ends writes over what stands there
    assert (await syncing.http.post("/api/conversations/sync", json={**body, "page_id": "1002"})).status_code == 200
    async with syncing.state["pool"].acquire() as connection:
        await connection.execute(
            """
            UPDATE facebook_pages SET last_synced_at = now() - interval '1 hour', daily_call_budget = 100,
                calls_last_day = 25, failing_conversations = 7
            WHERE page_id = '1002'
            """
        )
    syncing.state["numbers"].forget()
    assert await sample(syncing, "mirror_database_answers") == 1
    assert await sample(syncing, "mirror_pages", state="active") == 2
    assert await sample(syncing, "mirror_page_budget_used_ratio", page_id="1002") == 0.25
    assert await sample(syncing, "mirror_pages_budget_used_ratio_max") == 0.25
    assert await sample(syncing, "mirror_page_failing_conversations", page_id="1002") == 7
    assert await sample(syncing, "mirror_pages_failing_conversations_max") == 7
    assert 3600 <= await sample(syncing, "mirror_page_lag_seconds", page_id="1002") < 3700
    assert await sample(syncing, "mirror_page_lag_seconds", page_id="1001") < 600
    assert await sample(syncing, "mirror_pages_lag_seconds_max") >= 3600
    assert await sample(syncing, "mirror_runs", kind="audit", state="running") == 0


async def test_runs_that_wait_are_told_by_kind(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, "1001")
    await service.http.post("/api/conversations/sync", json={"page_id": "1001", "mode": "full"})
    assert await sample(service, "mirror_runs", kind="full", state="queued") == 1
    assert await sample(service, "mirror_runs", kind="full", state="running") == 0


async def test_only_the_worst_pages_get_a_label_however_many_there_are(service: Service) -> None:
    async with service.state["pool"].acquire() as connection:
        await connection.execute(
            """
            INSERT INTO facebook_pages (page_id, token_encrypted, subscribed_at, next_sync_at, last_synced_at)
            SELECT 'p' || n, 'x', now(), now(), now() - n * interval '1 minute' FROM generate_series(1, 100) AS n
            """
        )
    text = (await service.http.get("/metrics")).text
    labelled = [line for line in text.splitlines() if line.startswith("mirror_page_lag_seconds{")]
    assert len(labelled) == MOST_PAGES
    assert labelled[0].startswith('mirror_page_lag_seconds{page_id="p100"}')


async def test_numbers_of_a_database_that_stands_still_are_left_out_and_nobody_waits(
    service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "WITHIN_SECONDS", 0.05)
    async with connection.transaction():
        await connection.execute("LOCK TABLE facebook_pages IN ACCESS EXCLUSIVE MODE")
        assert await sample(service, "mirror_database_answers") == 0
        assert "mirror_page_lag_seconds" not in (await service.http.get("/metrics")).text


async def test_whoever_asks_often_gets_what_was_read_a_moment_ago(pool: Pool) -> None:
    now = 1000.0
    read = DatabaseNumbers(pool, clock=lambda: now)
    first = await read.text()
    await pool.execute(
        """
        INSERT INTO facebook_pages (page_id, token_encrypted, subscribed_at, next_sync_at)
        VALUES ('1', 'x', now(), now())
        """
    )
    assert await read.text() is first
    now += KEPT_SECONDS
    assert b'mirror_pages{state="active"} 1.0' in await read.text()
