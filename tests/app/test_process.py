"""The service as its users run it: processes that are started, ended, killed, and that share one database."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from sql.pool import connect
from tests.app.graph import FakeGraph, thread
from tests.app.process import SERVE, process
from tests.app.service import PAGE_TOKEN, SECRETS, deliver, served, signed, text_delivery
from tests.gateway import gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sql.upsert import Connection

PAGE = "1001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEAD_TOKEN = "EAAdead-token-90b1"
LOAD_CLIENTS, LOAD_POSTS = 8, 150


@pytest.fixture
async def witness(database: str) -> AsyncIterator[Connection]:
    """A connection that is none of the service's."""
    connection = await connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def fake() -> FakeGraph:
    return FakeGraph()


@pytest.fixture
async def graph_url(fake: FakeGraph) -> AsyncIterator[str]:
    async with served(fake, lifespan="off") as address:
        yield address
        fake.gate.set()


async def add_page(http: httpx.AsyncClient, fake: FakeGraph, page_id: str) -> None:
    fake.add(f"{PAGE_TOKEN}-{page_id}", page_id, thread(page_id, "p1", (f"m_graph_{page_id}", "from graph", NOON)))
    response = await http.post("/api/pages", json={"access_token": f"{PAGE_TOKEN}-{page_id}"})
    assert response.status_code == 201, response.text


async def stored(witness: Connection) -> set[str]:
    return {row["mid"] for row in await witness.fetch("SELECT mid FROM messages")}


async def a_writer_waits(witness: Connection) -> None:
    """Look, again and again, until somebody waits for a lock in this database."""
    query = """
        SELECT EXISTS (
            SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
            WHERE d.datname = current_database() AND NOT l.granted
        )
    """
    async with asyncio.timeout(30):
        while not await witness.fetchval(query):
            pass


async def test_a_whole_scenario_leaves_no_secret_and_no_body_in_the_log(
    tmp_path: Path, database: str, fake: FakeGraph, graph_url: str
) -> None:
    body = text_delivery(PAGE, "p1", "m_1", "a private word")
    async with process(tmp_path, DATABASE_URL=database, GRAPH_API_URL=graph_url, LOG_LEVEL="debug") as service:
        async with service.client() as http:
            handshake = {"hub.mode": "subscribe", "hub.challenge": "42"}
            for token, status in (("wrong-word", 403), (SECRETS[3], 200)):
                response = await http.get("/webhook", params={**handshake, "hub.verify_token": token})
                assert response.status_code == status
            assert (await deliver(http, body)).status_code == 200
            assert (await deliver(http, b'{"object": "page", "entry": [{"a private word": 1}]}')).status_code == 200
            assert (await deliver(http, b"a private word")).status_code == 200
            assert (await http.post("/webhook", content=body, headers=signed(body, "stranger"))).status_code == 403
            assert (await http.post("/webhook", content=body)).status_code == 403
            assert (await http.get("/api/runs", headers={"authorization": "Bearer guessed-key"})).status_code == 401
            await add_page(http, fake, PAGE)
            assert (await http.post("/api/pages", json={"access_token": DEAD_TOKEN})).status_code == 422
            assert (await http.post("/api/pages", json={"access_token": f"{DEAD_TOKEN} "})).status_code == 422
            response = await http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
            assert response.json()["state"] == "succeeded"
            fake.pages.clear()
            response = await http.post("/api/conversations/sync-all", json={"wait_seconds": 60})
            assert [run["state"] for run in response.json()["data"]] == ["failed"]
            for path in ("/api/conversations", f"/api/conversations/{PAGE}/p1/messages", "/api/deliveries", "/metrics"):
                assert (await http.get(path, params={"cursor": "x"} if "api" in path else None)).status_code
            assert (await http.post("/api/deliveries/replay", json={"state": "dead"})).status_code == 200
        assert await service.stop() == 0
    told = service.output
    assert "run_ended" in told
    hidden = [*SECRETS, DEAD_TOKEN, "wrong-word", "guessed-key", "a private word", "from graph"]
    hidden += [
        signed(body)["x-hub-signature-256"],
        signed(body, "stranger")["x-hub-signature-256"].removeprefix("sha256="),
    ]
    assert [text for text in hidden if text in told] == []
    assert not re.search(r"(GET|POST) /", told), "requests are not logged: their addresses hold ids and tokens"


async def test_a_process_asked_to_end_answers_what_it_has_taken_and_ends(
    tmp_path: Path, database: str, witness: Connection, fake: FakeGraph, graph_url: str
) -> None:
    fake.gate.clear()
    async with process(tmp_path, DATABASE_URL=database, GRAPH_API_URL=graph_url) as service, service.client() as http:
        await add_page(http, fake, PAGE)
        body = {"page_id": PAGE, "wait_seconds": 300}
        waiting = asyncio.create_task(http.post("/api/conversations/sync", json=body))
        await fake.waiting.acquire()
        async with http.stream("GET", f"/api/conversations/sync-stream?page_id={PAGE}") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines)
            async with witness.transaction():
                await witness.execute("LOCK TABLE webhook_deliveries IN ACCESS EXCLUSIVE MODE")
                post = asyncio.create_task(deliver(http, text_delivery(PAGE, "p2", "m_late", "hello")))
                await a_writer_waits(witness)
                service.signal(signal.SIGTERM)
                await service.said("Shutting down")
            assert (await post).status_code == 200
            assert not [line async for line in lines if line.startswith("event: failed")]  # and it ends
        response = await waiting
        assert response.status_code == 202
        assert await service.ended() == 0
    assert "m_late" in await stored(witness)
    page = await witness.fetchrow("SELECT lease_holder, lease_until FROM facebook_pages")
    assert page is not None
    assert tuple(page) == (None, None)


async def test_started_by_uvicorn_alone_it_keeps_the_handshakes_token_out_of_the_log(
    tmp_path: Path, database: str
) -> None:
    arguments = ("-m", "uvicorn", "app.asgi:from_environment", "--factory", "--port", "0")
    async with process(tmp_path, *arguments, DATABASE_URL=database, RECONCILER_ENABLED="false") as service:
        async with service.client() as http:
            params = {"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": SECRETS[3]}
            assert (await http.get("/webhook", params=params)).text == "42"
            assert (await deliver(http, text_delivery(PAGE, "p1", "m_1", "hello"))).status_code == 200
        assert await service.stop() == -signal.SIGTERM  # uvicorn's own way
    assert not any(secret in service.output for secret in SECRETS)
    assert "/webhook" not in service.output


async def test_two_processes_on_one_database_both_serve_and_share_the_runs(
    tmp_path: Path, database: str, witness: Connection, fake: FakeGraph, graph_url: str
) -> None:
    settings = {"DATABASE_URL": database, "GRAPH_API_URL": graph_url, "SYNC_CONCURRENCY": "1"}
    fake.gate.clear()
    async with process(tmp_path, **settings) as one, process(tmp_path, **settings) as two:
        async with one.client() as first, two.client() as second:
            for page_id in ("1001", "1002", "1003"):
                await add_page(first, fake, page_id)
            response = await first.post("/api/conversations/sync-all")
            assert response.status_code == 202
            for _ in range(2):
                await fake.waiting.acquire()
            holders = {r["holder"] for r in await witness.fetch("SELECT holder FROM sync_runs WHERE state = 'running'")}
            assert len(holders) == 2
            fake.gate.set()
            response = await second.post("/api/conversations/sync-all", json={"wait_seconds": 60})
            assert response.status_code == 200
            assert {run["state"] for run in response.json()["data"]} == {"succeeded"}
            for http, mid in ((first, "m_one"), (second, "m_two")):
                assert (await deliver(http, text_delivery(PAGE, "p2", mid, "hello"))).status_code == 200
            for http in (first, second):
                rows = (await http.get(f"/api/conversations/{PAGE}/p2/messages")).json()["data"]
                assert {row["mid"] for row in rows} == {"m_one", "m_two"}
        assert (await one.stop(), await two.stop()) == (0, 0)
    assert {f"m_graph_{page_id}" for page_id in ("1001", "1002", "1003")} <= await stored(witness)


async def test_what_was_answered_200_is_there_after_kill_9_under_load(
    tmp_path: Path, database: str, witness: Connection
) -> None:
    acknowledged: set[str] = set()
    sent = 0

    async def load(http: httpx.AsyncClient, enough: asyncio.Event) -> None:
        nonlocal sent
        while not enough.is_set():
            sent += 1
            mid = f"m_{sent}"
            try:
                response = await deliver(http, text_delivery(PAGE, f"p{sent % 7}", mid, "hello"))
            except httpx.TransportError:
                return
            if response.status_code == 200:
                acknowledged.add(mid)
                if len(acknowledged) % LOAD_POSTS == 0:
                    enough.set()

    for kills in (1, 2):
        async with (
            process(tmp_path, DATABASE_URL=database, RECONCILER_ENABLED="false") as service,
            service.client() as http,
        ):
            enough = asyncio.Event()
            clients = [asyncio.create_task(load(http, enough)) for _ in range(LOAD_CLIENTS)]
            await enough.wait()
            await service.kill()
            await asyncio.gather(*clients)
        assert len(acknowledged) >= kills * LOAD_POSTS
    assert acknowledged <= await stored(witness)
    journaled = await witness.fetch("SELECT body FROM webhook_deliveries")
    assert acknowledged <= {m for row in journaled for m in re.findall(r"m_\d+", row["body"].decode())}


async def test_several_workers_share_a_port_and_count_together(tmp_path: Path, database: str) -> None:
    settings = {"DATABASE_URL": database, "RECONCILER_ENABLED": "false"}
    async with process(tmp_path, *SERVE, "--workers", "2", **settings) as service:
        async with service.client() as http:
            for n in range(20):
                assert (await deliver(http, text_delivery(PAGE, "p", f"m_{n}", "hello"))).status_code == 200
        async with service.client() as http:
            counted = re.search(
                r'mirror_deliveries_total{outcome="acknowledged"} (\S+)', (await http.get("/metrics")).text
            )
        assert counted is not None
        assert float(counted[1]) == 20
        assert await service.stop() == 0


async def test_its_own_postgres_ends_with_it() -> None:
    folder = Path(tempfile.mkdtemp(prefix="mirror-test-"))
    folder.chmod(0o711)  # the account that runs Postgres may not be ours
    try:
        async with process(folder, DATA_DIR=str(folder / "data"), RECONCILER_ENABLED="false") as service:
            async with service.client() as http:
                assert (await deliver(http, text_delivery(PAGE, "p", "m_1", "hello"))).status_code == 200
                assert list((folder / "data").rglob("postmaster.pid"))
            assert await service.stop() == 0
        assert not list((folder / "data").rglob("postmaster.pid"))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"OPS_API_KEY": None, "TOKEN_ENCRYPTION_KEY": "short-key-0a"}, "OPS_API_KEY is not set: "),
        ({"DATABASE_URL": "postgresql://user:pass-word-83fa/x@127.0.0.1:1/mirror"}, "DATABASE_URL can't be read"),
    ],
)
async def test_a_start_that_is_not_possible_ends_with_1_and_says_why_in_a_line(
    tmp_path: Path, changes: dict[str, str | None], reason: str
) -> None:
    async with process(tmp_path, **changes) as service:
        assert await service.ended() == 1
    assert service.output.startswith("messenger-mirror: ")
    assert reason in service.output
    assert "Traceback" not in service.output
    assert not any(text in service.output for text in (*SECRETS, "pass-word-83fa", "short-key-0a"))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_in_use_ends_it_with_1_and_is_named(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        async with process(tmp_path, *SERVE, "--workers", workers, HOST="127.0.0.1", PORT=port) as service:
            assert await service.ended() == 1
    reason = "Address already in use"
    assert service.output == f"messenger-mirror: HOST 127.0.0.1, PORT {port} can't be listened on: {reason}"
    assert list(tmp_path.iterdir()) == []


async def test_a_host_that_is_not_ours_ends_it_with_1_and_is_named(tmp_path: Path) -> None:
    async with process(tmp_path, HOST="192.0.2.1", PORT="8000") as service:
        assert await service.ended() == 1
    assert service.output.startswith("messenger-mirror: HOST 192.0.2.1, PORT 8000 can't be listened on: ")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_started_before_its_postgres_it_receives_and_stores_all_of_it_when_that_comes(
    tmp_path: Path, empty_database: str, workers: str
) -> None:
    async with gateway(empty_database, is_open=False) as way:
        settings = {"DATABASE_URL": way.dsn, "RECONCILER_ENABLED": "false"}
        async with process(tmp_path, *SERVE, "--workers", workers, **settings) as service:
            async with service.client() as http:
                for n in range(20):
                    assert (await deliver(http, text_delivery(PAGE, "p", f"m_{n}", "hello"))).status_code == 200
                assert (await http.get("/readyz")).status_code == 503
                await way.open()
                for _ in range(int(workers)):
                    await service.said("database_arrived")
                async with asyncio.timeout(60):
                    while (await http.get("/readyz")).json()["spool"]["deliveries"]:
                        pass
            assert await service.stop() == 0
    witness = await connect(empty_database)
    assert {f"m_{n}" for n in range(20)} == await stored(witness)
    assert await witness.fetchval("SELECT count(*) FROM webhook_deliveries") == 20
    await witness.close()
    assert list((tmp_path / "data" / "spool").iterdir()) == []


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_postgres_that_comes_later_with_another_versions_schema_ends_it_with_1_and_says_why(
    tmp_path: Path, database: str, witness: Connection, workers: str
) -> None:
    await witness.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    async with gateway(database, is_open=False) as way:
        settings = {"DATABASE_URL": way.dsn, "RECONCILER_ENABLED": "false"}
        async with process(tmp_path, *SERVE, "--workers", workers, **settings) as service:
            async with service.client() as http:
                assert (await deliver(http, text_delivery(PAGE, "p", "m_1", "hello"))).status_code == 200
            await way.open()
            assert await service.ended() == 1
    assert service.output.splitlines()[-1].startswith("messenger-mirror: migration 1")
    assert list((tmp_path / "data" / "spool").glob("*.spool"))
