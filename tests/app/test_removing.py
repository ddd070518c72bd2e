"""Removed Pages whose data is erased: no row of theirs is left, nor a byte in the journal, and others keep theirs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from app.removing import PageEraser
from app.replay import replay
from sql.deliveries import JournalFilter
from sql.ingest import Ingestor
from sql.page_erasures import claim_page_erasure, erase_rows, request_page_erasure
from sql.pages import remove_page
from sql.spool import Spool, Spooled
from tests.app.graph import thread
from tests.app.service import PAGE_TOKEN, add_page, assert_problem, deliver, running, settings_for, text_delivery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sql.ingest import Ingest
    from sql.pool import Pool
    from sql.rows import Counts
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

PAGE, OTHER = "1001", "1002"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
# control tables: they tell of a Page that it was there, and of runs
KEPT = {"facebook_pages", "page_erasures", "page_subscriptions", "webhook_expectations", "sync_runs"}


async def tables_with(pool: Pool, page_id: str) -> set[str]:
    """The tables that hold rows of a Page."""
    async with pool.acquire() as connection:
        names = await connection.fetch(
            """
            SELECT c.table_name FROM information_schema.columns AS c JOIN information_schema.tables AS t
            ON t.table_schema = c.table_schema AND t.table_name = c.table_name
            WHERE c.column_name = 'page_id' AND t.table_type = 'BASE TABLE' AND c.table_schema = 'public'
            """
        )
        return {
            name
            for (name,) in names
            # that a Page was erased is told to readers of the feed
            if await connection.fetchval(
                f"SELECT count(*) FROM {name} AS t WHERE t.page_id = $1 AND NOT to_jsonb(t) @> $2",
                page_id,
                {"kind": "page"},
            )
        }


async def bodies(pool: Pool) -> list[str]:
    async with pool.acquire() as connection:
        rows = await connection.fetch("SELECT body FROM webhook_deliveries ORDER BY received_at, id")
    return [row["body"].decode() for row in rows]


async def fill(service: Service, graph: FakeGraph) -> None:
    """Two Pages with conversations by both doors, reactions, events and tags, and a delivery that tells of both."""
    for page_id in (PAGE, OTHER):
        missed = datetime.now(UTC) + timedelta(seconds=5)
        shown = ((f"m_n{page_id}", "just sent", missed), (f"m_g{page_id}", "from graph", NOON))
        await add_page(service, graph, page_id, thread(page_id, "g1", *shown))
        run = await service.http.post("/api/conversations/sync", json={"page_id": page_id, "wait_seconds": 60})
        assert run.json()["state"] == "succeeded", run.text
    both = [
        {
            "id": page_id,
            "time": 1772366400000,
            "messaging": [
                {**to(page_id), "message": {"mid": f"m_{page_id}", "text": f"secret of {page_id}"}},
                {**to(page_id), "reaction": {"action": "react", "emoji": "!", "mid": f"m_{page_id}"}},
                {**to(page_id), "optin": {"ref": f"secret of {page_id}"}},
                {**to(page_id), "nonsense": 7, "message": f"secret of {page_id}"},
            ],
        }
        for page_id in (PAGE, OTHER)
    ]
    assert (await deliver(service.http, json.dumps({"object": "page", "entry": both}).encode())).status_code == 200
    assert (await deliver(service.http, b'{"secret of 1001')).status_code == 200
    await service.http.post("/api/tags", json={"name": "vip"})
    conversations = [{"page_id": page_id, "psid": "p"} for page_id in (PAGE, OTHER)]
    tagged = await service.http.post("/api/conversations/tags", json={"conversations": conversations, "add": ["vip"]})
    assert tagged.json()["added"] == 2


def to(page_id: str) -> dict[str, Any]:
    return {"sender": {"id": "p"}, "recipient": {"id": page_id}, "timestamp": 1772366400000}


async def test_nothing_of_an_erased_page_is_left_and_all_of_another_is(syncing: Service, graph: FakeGraph) -> None:
    pool = syncing.state["pool"]
    await fill(syncing, graph)
    before = await tables_with(pool, OTHER) - KEPT  # which the service writes behind
    assert await tables_with(pool, PAGE) - KEPT == before
    assert before >= {"conversations", "messages", "message_reactions", "conversation_events", "conversation_names"}
    response = await syncing.http.delete(f"/api/pages/{PAGE}", params={"data": "erase"})
    assert response.status_code == 202
    await PageEraser(pool).run_once()
    assert await tables_with(pool, PAGE) <= KEPT
    assert await tables_with(pool, OTHER) - KEPT == before
    journal = await bodies(pool)
    assert "secret of 1001" not in "".join(journal)
    assert json.loads(journal[0])["entry"][0]["messaging"] == [{"erased": True}] * 4
    assert json.loads(journal[0])["entry"][1]["messaging"][0]["message"]["text"] == "secret of 1002"
    dead = (await syncing.http.get("/api/deliveries", params={"state": "dead"})).json()["data"]
    assert {letter["path"].partition(".")[0] for row in dead for letter in row["dead_letters"]} <= {"entry[1]"}
    replayed = await syncing.http.post("/api/deliveries/replay", json={"since": "2020-01-01"})
    assert replayed.status_code == 200
    assert await tables_with(pool, PAGE) <= KEPT


async def test_data_is_kept_unless_its_erasure_is_asked_for(service: Service, graph: FakeGraph) -> None:
    await add_page(service, graph, PAGE)
    await deliver(service.http, text_delivery(PAGE, "p", "m_1", "hello", NOON))
    await service.http.delete(f"/api/pages/{PAGE}")
    assert await PageEraser(service.state["pool"]).run_once() == {"pages": 0, "rows": 0, "deliveries": 0}
    assert (await service.http.get(f"/api/conversations/{PAGE}/p")).status_code == 200
    assert_problem(await service.http.delete(f"/api/pages/{PAGE}", params={"data": "burn"}), 422, "data")


async def test_a_page_is_added_again_only_once_its_data_is_gone(service: Service, graph: FakeGraph) -> None:
    pool = service.state["pool"]
    await add_page(service, graph, PAGE)
    async with pool.acquire() as connection:
        await service.http.delete(f"/api/pages/{PAGE}")
        await request_page_erasure(connection, PAGE, now=datetime.now(UTC))
        assert await claim_page_erasure(connection) is not None  # by another process
    assert await PageEraser(pool).run_once(PAGE) == {"pages": 0, "rows": 0, "deliveries": 0}
    again = {"access_token": f"{PAGE_TOKEN}-{PAGE}"}
    assert_problem(await service.http.post("/api/pages", json=again), 409, "page_id")
    async with pool.acquire() as connection:
        await connection.execute("UPDATE page_erasures SET claimed_until = now()")  # which has died
    assert (await PageEraser(pool).run_once(PAGE))["pages"] == 1
    assert (await service.http.post("/api/pages", json=again)).status_code == 200


async def test_what_comes_after_an_erasure_was_asked_for_stays_in_the_journal(
    service: Service, graph: FakeGraph
) -> None:
    pool = service.state["pool"]
    await add_page(service, graph, PAGE)
    await deliver(service.http, text_delivery(PAGE, "p", "m_1", "before", NOON))
    await service.http.delete(f"/api/pages/{PAGE}", params={"data": "erase"})
    await deliver(service.http, text_delivery(PAGE, "p", "m_2", "after", NOON))
    assert (await PageEraser(pool).run_once())["deliveries"] == 1
    assert ["after" in body for body in await bodies(pool)] == [False, True]


async def test_an_erased_page_that_is_added_again_is_loaded_from_the_beginning(
    syncing: Service, graph: FakeGraph
) -> None:
    await fill(syncing, graph)
    await syncing.http.delete(f"/api/pages/{PAGE}", params={"data": "erase"})
    await PageEraser(syncing.state["pool"]).run_once()
    added = await syncing.http.post("/api/pages", json={"access_token": f"{PAGE_TOKEN}-{PAGE}"})
    assert (added.json()["watermark"], added.json()["last_synced_at"]) == (None, None)
    await syncing.http.post("/api/conversations/sync", json={"page_id": PAGE, "wait_seconds": 60})
    found = (await syncing.http.get("/api/conversations", params={"page_id": PAGE})).json()["data"]
    assert [row["snippet"] for row in found] == ["just sent"]


async def test_a_replay_that_read_a_body_before_its_page_was_erased_brings_nothing_back(
    service: Service, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = service.state["pool"]
    await add_page(service, graph, PAGE)
    both = [
        {"id": page_id, "messaging": [{**to(page_id), "message": {"mid": f"m_{page_id}", "text": f"by {page_id}"}}]}
        for page_id in (PAGE, OTHER)
    ]
    await deliver(service.http, json.dumps({"object": "page", "entry": both}).encode())
    write, is_erased = Ingestor.write, False

    async def writes_late(ingestor: Ingestor, group: Sequence[Ingest]) -> Counts:
        nonlocal is_erased
        if not is_erased:
            is_erased = True
            await service.http.delete(f"/api/pages/{PAGE}", params={"data": "erase"})
            await PageEraser(pool).run_once()
        return await write(ingestor, group)

    monkeypatch.setattr(Ingestor, "write", writes_late)
    assert (await replay(pool, JournalFilter())).deliveries == 1
    assert await tables_with(pool, PAGE) <= KEPT
    assert ["by 1001" in body for body in await bodies(pool)] == [False]
    assert "messages" in await tables_with(pool, OTHER)


async def test_what_waited_in_the_spool_of_an_erased_page_is_gone_when_it_comes_out(
    database: str, graph: FakeGraph, tmp_path: Path
) -> None:
    asked_at = datetime.now(UTC)
    async with running(settings_for(database)) as service:
        await add_page(service, graph, PAGE)
        async with service.state["pool"].acquire() as connection:
            await remove_page(connection, PAGE)
            await request_page_erasure(connection, PAGE, now=asked_at)
        await PageEraser(service.state["pool"]).run_once()
    async with Spool(tmp_path, max_bytes=2**20) as spool:
        for n, (page_id, received_at) in enumerate(
            [(PAGE, asked_at), (OTHER, asked_at), (PAGE, asked_at + timedelta(seconds=1))]
        ):
            await spool.put(Spooled(UUID(int=n), received_at, text_delivery(page_id, "p", f"m_{n}", f"text {n}", NOON)))
    async with running(settings_for(database, spool_dir=tmp_path)) as service:
        async with service.state["pool"].acquire() as connection:
            texts = await connection.fetchval("SELECT array_agg(text ORDER BY mid) FROM messages")
        assert texts == ["text 1", "text 2"]
        assert [body for body in await bodies(service.state["pool"]) if "text 0" in body] == []


async def test_an_eraser_that_fails_lets_go_and_the_next_goes_on(
    service: Service, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = service.state["pool"]
    await add_page(service, graph, PAGE)
    for n in range(7):
        await deliver(service.http, text_delivery(PAGE, f"p{n}", f"m_{n}", "hello", NOON))
    await service.http.delete(f"/api/pages/{PAGE}", params={"data": "erase"})
    monkeypatch.setattr("sql.page_erasures.ROWS_AT_ONCE", 2)
    left = 3

    async def fails(connection: Any, page_id: str) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("cut")
        return await erase_rows(connection, page_id)

    with monkeypatch.context() as patch:
        patch.setattr("app.removing.erase_rows", fails)
        with pytest.raises(OSError, match="cut"):
            await PageEraser(pool).run_once()
    assert "messages" in await tables_with(pool, PAGE)
    assert (await PageEraser(pool).run_once())["pages"] == 1
    assert await tables_with(pool, PAGE) <= KEPT
