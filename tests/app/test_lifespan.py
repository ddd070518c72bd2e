from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from app import arrival, asgi
from app.database import DatabaseError
from app.ending import FAILURE_FILE
from app.housekeeping import Housekeeping
from app.webhook.group_commit import GroupCommit
from sql.errors import MigrationError
from sql.ingest import Ingestor
from sql.pool import connect
from tests.app.graph import thread
from tests.app.service import add_page, deliver, running, settings_for, text_delivery
from tests.conftest import in_database
from tests.gateway import gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from reconciler.schedule import Job
    from sql.ingest import Ingest
    from sql.rows import Counts
    from sql.upsert import Connection
    from tests.app.graph import FakeGraph

PAGE = "1001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def witness(database: str) -> AsyncIterator[Connection]:
    """A connection that is none of the application's."""
    connection = await connect(database)
    yield connection
    await connection.close()


async def connections(witness: Connection) -> int:
    """How many connections to this database there are beside this one."""
    return int(
        await witness.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
            """
        )
    )


async def test_all_connections_are_closed_at_the_end(database: str, witness: Connection) -> None:
    async with running(settings_for(database, reconciler_enabled=True)):
        assert await connections(witness) >= 2
    assert await connections(witness) == 0


async def test_a_webhook_in_flight_at_the_end_is_answered_and_durable(
    database: str, witness: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go = asyncio.Semaphore(0), asyncio.Event()
    write, commit = Ingestor.write, GroupCommit.commit

    async def slow(self: Ingestor, group: Sequence[Ingest]) -> Counts:
        await go.wait()
        return await write(self, group)

    async def seen(self: GroupCommit, delivery: Ingest, *, began: float | None = None) -> None:
        arrived.release()
        await commit(self, delivery, began=began)

    monkeypatch.setattr(Ingestor, "write", slow)
    monkeypatch.setattr(GroupCommit, "commit", seen)
    async with running(settings_for(database)) as service:
        bodies = [text_delivery(PAGE, "p", f"m_{n}", "hello") for n in range(5)]
        posts = [asyncio.create_task(deliver(service.http, body)) for body in bodies]
        for _ in posts:
            await arrived.acquire()
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert [(await post).status_code for post in posts] == [200] * 5
    assert await witness.fetchval("SELECT count(*) FROM webhook_deliveries") == 5
    assert await witness.fetchval("SELECT count(*) FROM messages") == 5


async def test_a_run_in_flight_at_the_end_lets_its_page_go_and_the_next_process_resumes_it(
    database: str, witness: Connection, graph: FakeGraph
) -> None:
    settings = settings_for(database, reconciler_enabled=True)
    graph.gate.clear()
    async with running(settings) as service:
        await add_page(service, graph, PAGE, thread(PAGE, "p1", ("m_1", "hello", NOON)))
        run = (await service.http.post("/api/conversations/sync", json={"page_id": PAGE})).json()
        await graph.waiting.acquire()
    page = await witness.fetchrow("SELECT lease_holder, lease_until FROM facebook_pages")
    assert page is not None
    assert tuple(page) == (None, None)
    assert await witness.fetchval("SELECT state FROM sync_runs") in {"running", "queued"}
    graph.gate.set()
    async with running(settings) as service:
        response = await service.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
        assert response.json()["state"] == "succeeded"
        resumed = (await service.http.get(f"/api/runs/{run['id']}")).json()
        assert (resumed["state"], resumed["inserted"]) == ("succeeded", 1)


@pytest.mark.parametrize("enabled", [True, False])
async def test_only_a_process_with_its_reconciler_works_on_runs(
    database: str, monkeypatch: pytest.MonkeyPatch, *, enabled: bool
) -> None:
    jobs: list[str] = []

    @asynccontextmanager
    async def seen(given: Sequence[Job]) -> AsyncIterator[None]:
        jobs.extend(job.name for job in given)
        yield

    monkeypatch.setattr(asgi, "scheduled", seen)
    async with running(settings_for(database, reconciler_enabled=enabled)) as service:
        assert (service.state["worker"] is not None) is enabled
    assert ("sync" in jobs) is enabled
    assert "journal" in jobs


async def test_a_start_that_fails_half_way_closes_what_it_had_opened(
    database: str, witness: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_self: Housekeeping) -> None:
        raise RuntimeError("no room for partitions")

    monkeypatch.setattr(Housekeeping, "run_once", fail)
    with pytest.raises(RuntimeError, match="no room"):
        async with running(settings_for(database)):
            raise AssertionError("it must not start")
    assert await connections(witness) == 0


async def test_a_start_without_its_database_receives_and_does_the_rest_when_it_comes(
    empty_database: str, tmp_path: Path
) -> None:
    async with gateway(empty_database, is_open=False) as way:
        settings = settings_for(way.dsn, spool_dir=tmp_path / "spool", reconciler_enabled=True)
        async with running(settings) as service:
            assert (await deliver(service.http, text_delivery(PAGE, "p", "m_1", "hello"))).status_code == 200
            await way.open()
            async with asyncio.timeout(60):
                await service.state["arrived"].wait()
            assert (await deliver(service.http, text_delivery(PAGE, "p", "m_2", "hello"))).status_code == 200
            rows = (await service.http.get(f"/api/conversations/{PAGE}/p/messages")).json()["data"]
            assert {row["mid"] for row in rows} == {"m_1", "m_2"}


async def test_a_start_beside_a_database_that_stands_still_receives_and_ends(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "START_WITHIN_SECONDS", 0.5)
    async with gateway(database) as way:
        way.freeze()
        async with running(settings_for(way.dsn, spool_dir=tmp_path / "spool")) as service:
            assert (await deliver(service.http, text_delivery(PAGE, "p", "m_1", "hello"))).status_code == 200
        way.thaw()
        monkeypatch.undo()
        async with running(settings_for(way.dsn, spool_dir=tmp_path / "spool")) as service:
            rows = (await service.http.get(f"/api/conversations/{PAGE}/p/messages")).json()["data"]
            assert [row["mid"] for row in rows] == ["m_1"]
            assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("address", [None, "not an address"])
async def test_a_database_that_is_not_what_the_settings_say_stops_the_start(server: str, address: str | None) -> None:
    dsn = address or in_database(server, "no-such-database")
    with pytest.raises(DatabaseError, match="DATABASE_URL"):
        async with running(settings_for(dsn)):
            raise AssertionError("it must not start")


async def test_a_start_that_fails_leaves_its_reason_to_the_process_that_started_it(
    database: str, witness: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "failure"))
    await witness.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(MigrationError):
        async with running(settings_for(database)):
            pytest.fail("it started")
    assert (tmp_path / "failure").read_text().startswith("migration 1")


async def test_the_first_start_makes_the_schema_and_the_journals_days(empty_database: str) -> None:
    async with running(settings_for(empty_database)) as service:
        assert (await service.http.get("/readyz")).status_code == 200
        assert (await deliver(service.http, text_delivery(PAGE, "p", "m_1", "hello"))).status_code == 200


async def test_two_processes_that_start_at_once_on_an_empty_database_both_serve(empty_database: str) -> None:
    settings = settings_for(empty_database)

    async def start(n: int) -> int:
        async with running(settings) as service:
            return (await deliver(service.http, text_delivery(PAGE, "p", f"m_{n}", "hello"))).status_code

    assert await asyncio.gather(*(start(n) for n in range(3))) == [200, 200, 200]
