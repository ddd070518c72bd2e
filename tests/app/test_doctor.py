from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
import respx

from app.doctor import Verdict, examine_database, examine_page, examine_spool, probe
from app.webhook.signature import matching_secret
from reconciler.watchdog import WANTED_FIELDS
from simulator import real_now
from sql.capabilities import list_capabilities
from sql.spool import Spool, Spooled
from tests.app.service import APP_SECRET, VERIFY_TOKEN, running, served, settings_for
from tests.reconciler.stage import SECRET, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.doctor import Finding
    from sql.pool import Pool

URL = "https://mirror.example"


@pytest.fixture
async def stage(pool: Pool) -> AsyncIterator[Stage]:
    made = Stage(pool, conversations=30, now=real_now)
    await made.add_pages()
    yield made
    await made.http.aclose()


async def examined(stage: Stage, database: str, *, asks: bool = False, app_id: str | None = None) -> list[Finding]:
    settings = settings_for(database, facebook_app_id=app_id, facebook_app_secret=SECRET)
    return await examine_page(stage.pool, stage.client(), stage.tokens, settings, stage.page.id, asks=asks)


def wrong(findings: list[Finding]) -> dict[str, str]:
    return {f.name: f.text for f in findings if f.verdict is Verdict.WRONG}


async def test_a_page_in_order_has_nothing_wrong(stage: Stage, database: str) -> None:
    found = await examined(stage, database, app_id=stage.graph.app_id)
    assert wrong(found) == {}
    assert {"state", "token", "clock", "validity", "scopes", "expires", "data access", "webhooks"} == {
        f.name for f in found
    }


async def test_without_an_app_id_scopes_are_not_looked_at_and_that_is_said(stage: Stage, database: str) -> None:
    found = await examined(stage, database)
    assert wrong(found) == {}
    assert "FACEBOOK_APP_ID" in next(f.text for f in found if f.name == "scopes")


async def test_a_dead_token_missing_fields_and_an_unknown_page_are_told_with_the_remedy(
    stage: Stage, database: str
) -> None:
    stage.page.subscribed_fields = set(WANTED_FIELDS) - {"standby"}
    assert "pages check" in wrong(await examined(stage, database))["webhooks"]
    stage.page.kill_token()
    assert "190" in wrong(await examined(stage, database))["Graph"]
    await stage.do("UPDATE facebook_pages SET state = 'removed', token_encrypted = NULL")
    assert "pages add" in wrong(await examined(stage, database))["state"]


async def test_a_clock_that_is_off_is_told(stage: Stage, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.MOST_SKEW_SECONDS", -1.0)
    assert "NTP" in wrong(await examined(stage, database))["clock"]


async def test_asking_stores_what_the_pages_graph_can_do(stage: Stage, database: str) -> None:
    found = await examined(stage, database, asks=True)
    async with stage.pool.acquire() as connection:
        stored = await list_capabilities(connection, stage.page.id)
    assert {row["name"] for row in stored} == {f.name for f in found if f.verdict is Verdict.NOTE} - {"scopes"}


async def test_a_database_in_order_has_nothing_wrong_and_another_schema_is_told(pool: Pool) -> None:
    found = await examine_database(pool)
    assert set(wrong(found)) <= {"fsync"}  # the test server spares itself the waiting for its disk
    async with pool.acquire() as connection:
        await connection.execute(
            """
            DELETE FROM schema_migrations WHERE version = 1
            """
        )
    assert "migrate" in wrong(await examine_database(pool))["schema"]


async def test_dead_letters_are_told_with_the_remedy(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute(
            """
            CREATE TABLE webhook_deliveries_all PARTITION OF webhook_deliveries DEFAULT;
            INSERT INTO webhook_deliveries (day, id, received_at, body, state, items, dead_letters)
            VALUES (current_date, gen_random_uuid(), now(), '', 'dead', 1, '[]')
            """
        )
    assert "replay --dead" in wrong(await examine_database(pool))["dead letters"]


async def test_a_service_at_its_public_address_passes_the_probe_and_stores_no_row_of_it(
    database: str, pool: Pool
) -> None:
    settings = settings_for(database)
    async with running(settings) as service, served(service.app, lifespan="off") as url:
        assert wrong(await probe(settings, url)) == {}
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT array_agg(state) FROM webhook_deliveries") == ["test"]
        assert await connection.fetchval("SELECT count(*) FROM conversation_events") == 0


@respx.mock
async def test_a_stranger_at_the_public_address_is_told(database: str) -> None:
    respx.get(f"{URL}/webhook").respond(403)
    posts = respx.post(f"{URL}/webhook").mock(side_effect=lambda _request: httpx.Response(200))
    found = wrong(await probe(settings_for(database), URL))
    assert set(found) == {"handshake", "unsigned delivery"}
    signed, _ = (call.request for call in posts.calls)
    assert matching_secret(signed.content, signed.headers["x-hub-signature-256"].encode(), [APP_SECRET.encode()]) == 0
    assert VERIFY_TOKEN not in " ".join(found.values())


@respx.mock
async def test_an_address_that_cannot_be_reached_is_told(database: str) -> None:
    respx.get(f"{URL}/webhook").mock(side_effect=httpx.ConnectError("no"))
    assert "can't be reached: ConnectError" in wrong(await probe(settings_for(database), URL))["public address"]


async def test_a_spool_is_looked_into_and_one_that_waits_too_long_is_told(tmp_path: Path) -> None:
    settings = settings_for("postgresql://nowhere", spool_dir=tmp_path / "spool")
    now = datetime.now(UTC)
    assert wrong(examine_spool(settings, now)) == {}
    async with Spool(tmp_path / "spool", max_bytes=2**20) as spool:
        await spool.put(Spooled(uuid4(), now - timedelta(seconds=5), b"{}"))
        assert wrong(examine_spool(settings, now)) == {}
        assert {f.name for f in examine_spool(settings, now)} == {"spool", "spooled"}
        told = wrong(examine_spool(settings, now + timedelta(hours=1)))
        assert "1 waiting, 2 bytes, the oldest 3605 s old" in told["spooled"]
    (tmp_path / "spool" / "0123.spool").write_bytes(b"not a database, " * 100)
    assert "0123.spool" in wrong(examine_spool(settings, now))["spool files"]
    assert "can't be written" in wrong(examine_spool(settings_for("postgresql://nowhere"), now))["spool"]


async def test_a_public_address_that_is_none_is_told(database: str) -> None:
    for url, reason in (("http://mirror:port", "InvalidURL"), ("mirror.example", "UnsupportedProtocol")):
        found = wrong(await probe(settings_for(database), url))
        assert found["public address"] == f"{url}/webhook can't be reached: {reason}"
