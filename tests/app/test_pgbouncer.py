"""The whole application through PgBouncer in transaction mode. Collected where it is installed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from app.database import DatabaseAwayError, DatabaseError, prepare
from sql.pool import connect
from tests.app.graph import thread
from tests.app.service import add_page, deliver, running, settings_for, text_delivery
from tests.horizon import LONGEST_SECONDS, all_is_told
from tests.pooler import FOUND, pooler

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.graph import FakeGraph

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGES = ("1001", "1002", "1003", "1004")


async def test_it_migrates_receives_syncs_and_answers(empty_database: str, graph: FakeGraph) -> None:
    assert FOUND is not None
    with pooler(FOUND, empty_database) as address:
        async with running(settings_for(address, reconciler_enabled=True)) as service:
            for page_id in PAGES:
                threads = (
                    thread(page_id, f"g{n}", (f"m_{page_id}_{n}", "from graph", NOON - timedelta(minutes=n)))
                    for n in range(5)
                )
                await add_page(service, graph, page_id, *threads)
            bodies = (text_delivery(PAGES[n % 4], f"p{n}", f"m_{n}", "hello", NOON) for n in range(100))
            syncing = service.http.post("/api/conversations/sync-all", json={"wait_seconds": 100})
            runs, *answers = await asyncio.gather(syncing, *(deliver(service.http, body) for body in bodies))
            assert {answer.status_code for answer in answers} == {200}
            assert [run["state"] for run in runs.json()["data"]] == ["succeeded"] * 4
            listed = (await service.http.get("/api/conversations", params={"count": "exact"})).json()
            assert listed["total"] == 100 + 4 * 5
            assert (await service.http.get("/readyz")).status_code == 200
            journal = (await service.http.get("/api/deliveries", params={"limit": 500})).json()["data"]
            assert len(journal) == 100
            replayed = await service.http.post("/api/deliveries/replay", json={"since": "2026-01-01"})
            assert (replayed.json()["deliveries"], replayed.json()["inserted"]) == (100, 0)


async def test_a_database_whose_commits_do_not_wait_for_the_disk_stops_the_start(empty_database: str) -> None:
    connection = await connect(empty_database)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    assert FOUND is not None
    with pooler(FOUND, empty_database) as address, pytest.raises(DatabaseError, match="can't be used: sync") as refused:
        await prepare(address)
    assert not isinstance(refused.value, DatabaseAwayError)  # which is waited for


async def test_the_feed_tells_through_it_all_that_was_written_through_it(empty_database: str, tmp_path: Path) -> None:
    assert FOUND is not None
    with pooler(FOUND, empty_database) as address:
        # what is not committed within Facebook's time, on a busy machine, is drained in a moment
        async with running(settings_for(address, spool_dir=tmp_path / "spool")) as service:

            async def tell(after: str, **query: float) -> tuple[list[str], str]:
                asked = await service.http.get("/api/changes", params={"after": after, "limit": 7, **query})
                assert asked.status_code == 200, asked.text
                answer = asked.json()
                return [c["key"] for c in answer["data"] if c["kind"] == "message"], answer["next"]

            _, place = await tell("now")
            bodies = [text_delivery(PAGES[n % 4], f"p{n}", f"m_{n}", "hello", NOON) for n in range(40)]
            delivering = asyncio.gather(*(deliver(service.http, body) for body in bodies))
            told: set[str] = set()
            async with asyncio.timeout(LONGEST_SECONDS):
                while len(told) < 40:
                    keys, place = await tell(place, wait_seconds=60)
                    told.update(keys)
            assert {answer.status_code for answer in await delivering} == {200}
            assert told == {f"m_{n}" for n in range(40)}
            await all_is_told(service.state["pool"])
            assert (await tell(place))[0] == []
