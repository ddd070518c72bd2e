"""A day begins for which nobody made partitions, of the journal and the feed, while a long transaction goes on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.webhook import group_commit
from sql.changes import Change, note_changes
from sql.partitions import partitions
from tests.app.service import deliver, running, settings_for, text_delivery
from tests.horizon import LONGEST_SECONDS

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import pytest

    from sql.pool import Pool
    from tests.app.graph import FakeGraph
    from tests.app.service import Service

TABLES = ("webhook_deliveries", "changes")


async def begin_a_day_that_nobody_prepared(pool: Pool) -> date:
    """Drop what was made ahead; returns the last day that there is."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    async with pool.acquire() as connection:
        for table in TABLES:
            for day, name in (await partitions(connection, table)).items():
                if day > yesterday:
                    await connection.execute(f"DROP TABLE {name}")
            assert max(await partitions(connection, table)) == yesterday
    return yesterday


async def say(service: Service, mid: str) -> int:
    return (await deliver(service.http, text_delivery("1001", "p1", mid, "hello"))).status_code


async def test_a_webhook_is_stored_in_a_new_day_whatever_long_transaction_reads_and_writes_there(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "COMMIT_WITHIN_SECONDS", 60.0)  # there is no spool here: who waits is refused
    pool = service.state["pool"]
    last = await begin_a_day_that_nobody_prepared(pool)
    async with pool.acquire() as long, long.transaction():
        await long.execute("SELECT pg_current_xact_id()")
        for table in TABLES:
            await long.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")  # as who reads, writes and deletes
        assert await say(service, "m_1") == 200
        assert await pool.fetchval("SELECT count(*) FROM messages") == 1
        for table in TABLES:
            assert max(await partitions(long, table)) > last


async def test_while_who_made_the_day_goes_on_a_webhook_is_spooled_and_answered_and_stored_after_that(
    database: str, graph: FakeGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graph
    async with running(settings_for(database, spool_dir=str(tmp_path / "spool"))) as service:
        pool = service.state["pool"]
        await begin_a_day_that_nobody_prepared(pool)
        async with pool.acquire() as maker, maker.transaction():
            await note_changes(maker, [Change("message", "1001", "m_0", None)])
            with monkeypatch.context() as hurried:
                hurried.setattr(group_commit, "COMMIT_WITHIN_SECONDS", 0.2)
                assert await say(service, "m_1") == 200
            assert service.state["spool"].depth == 1
            assert await pool.fetchval("SELECT count(*) FROM messages") == 0
        async with asyncio.timeout(LONGEST_SECONDS):
            while not await pool.fetchval("SELECT count(*) FROM messages"):
                pass  # each look is a round trip
        assert await pool.fetchval("SELECT count(*) FROM changes WHERE key IN ('m_0', 'm_1')") == 2
