"""Through PgBouncer in transaction mode: each transaction gets another session. Collected where it is installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sql.conversation_lists import Wanted, list_conversations
from sql.migrate import is_current, migrate, migrations
from sql.pool import connect, open_pool
from sql.rows import Rows
from sql.tags import create_tag, tag_conversations
from sql.upsert import ingest
from tests.pooler import FOUND, SESSIONS, pooler
from tests.sql.doors import PAGE, delivered, item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sql.pool import Pool

assert FOUND is not None


@pytest.fixture
def pooled(database: str) -> Iterator[str]:
    """The address of a migrated database through a pooler."""
    assert FOUND is not None
    with pooler(FOUND, database) as address:
        yield address


@pytest.fixture
async def clients(pooled: str) -> AsyncIterator[Pool]:
    """More clients than there are sessions."""
    async with open_pool(pooled, min_size=4 * SESSIONS, max_size=4 * SESSIONS) as pool:
        yield pool


async def test_transactions_share_sessions_and_leave_nothing_in_them(clients: Pool) -> None:
    assert len({await clients.fetchval("SELECT pg_backend_pid()") for _ in range(50)}) <= SESSIONS

    async def work(n: int) -> None:
        async with clients.acquire() as connection, connection.transaction():
            assert await connection.fetchval("SELECT $1::integer + count(*) FROM tags", n) == n
            assert await connection.fetchval("SELECT $1::text[] || $1", ["a"]) == ["a", "a"]

    await asyncio.gather(*(work(n) for n in range(200)))
    assert await clients.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0


async def test_the_session_is_as_ours_are_as_far_as_it_matters(clients: Pool) -> None:
    for _ in range(2 * SESSIONS):
        [shown] = await clients.fetch(
            "SELECT current_setting('timezone'), current_setting('synchronous_commit'), '{}'::jsonb"
        )
        assert tuple(shown) == ("UTC", "on", {})


async def test_a_database_whose_commits_do_not_wait_for_the_disk_is_refused(database: str) -> None:
    connection = await connect(database)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.close()
    assert FOUND is not None
    with pooler(FOUND, database) as address, pytest.raises(asyncpg.PostgresError, match="synchronous_commit is off"):
        await connect(address)


async def test_processes_that_start_together_migrate_once_through_it(empty_database: str) -> None:
    assert FOUND is not None
    with pooler(FOUND, empty_database) as address:
        connections = [await connect(address) for _ in range(4)]
        applied = await asyncio.gather(*(migrate(c) for c in connections))
        assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]
        assert await is_current(connections[0])
        for connection in connections:
            await connection.close()


async def test_groups_of_webhooks_tags_and_lists_go_through_it(clients: Pool) -> None:
    async def tell(n: int) -> None:
        rows = Rows()
        for k in range(20):
            rows.add(delivered(item("message", {"mid": f"m_{n}_{k}", "text": f"hello {n}"}, person=f"p{k}", seconds=k)))
        async with clients.acquire() as connection:
            await ingest(connection, [], rows)

    await asyncio.gather(*(tell(n) for n in range(30)))
    async with clients.acquire() as connection:
        await create_tag(connection, "vip", None)
        assert (await tag_conversations(connection, [(PAGE, f"p{k}") for k in range(20)], add=["vip"])).added == 20
        wanted = Wanted(PAGE, include_tags=("vip",), search="hello")
        listed = await list_conversations(connection, wanted, after=None, limit=50, count=True)
    assert (len(listed.rows), listed.total) == (20, 20)
