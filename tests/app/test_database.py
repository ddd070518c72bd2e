from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import asyncpg
import pytest

from app.cli import main
from app.database import DatabaseError, migrated_database, prepare
from app.settings import DatabaseSettings
from sql import embedded
from sql.errors import MigrationError
from sql.migrate import is_current, migrations
from sql.pool import connect

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "pass-word-83fa"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:{}@127.0.0.1:1/mirror",
        "postgresql://user:{}/x@127.0.0.1/mirror",
        "postgresql://user:{}?x@127.0.0.1/mirror",
        "postgresql://user:{}#x@127.0.0.1/mirror",
        "postgresql://user:x@{}@127.0.0.1/mirror",
        "postgresql://user:x/{}@127.0.0.1/mirror",
        "mysql://user:{}@127.0.0.1/mirror",
        "user:{}@127.0.0.1/mirror",
        "{}",
        "postgresql://user:{}@127.0.0.1:port/mirror",
        "postgresql://user:{}@127.0.0.1:1/mirror?sslmode=sometimes",
    ],
)
async def test_an_address_that_leads_nowhere_is_told_without_the_address(address: str) -> None:
    with pytest.raises(DatabaseError, match="DATABASE_URL") as refused:
        await prepare(address.format(PASSWORD))
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


async def test_an_empty_database_is_brought_to_this_versions_schema_once(empty_database: str) -> None:
    settings = DatabaseSettings(_env_file=None, database_url=empty_database)
    async with migrated_database(settings) as dsn:
        connection = await connect(dsn)
        assert await is_current(connection)
        await connection.close()
    assert await prepare(empty_database) == []


async def test_a_schema_of_another_version_stops_the_start(database: str) -> None:
    connection = await connect(database)
    newest = migrations()[-1].version
    await connection.execute("UPDATE schema_migrations SET version = $1 WHERE version = $2", newest + 1, newest)
    await connection.close()
    settings = DatabaseSettings(_env_file=None, database_url=database)
    with pytest.raises(MigrationError):
        async with migrated_database(settings):
            raise AssertionError("it must not start")


async def test_a_postgres_that_is_too_old_is_refused_by_its_version(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await connect(database)
    old = connection.get_server_version()._replace(major=14)
    monkeypatch.setattr(asyncpg.Connection, "get_server_version", lambda _self: old)
    with pytest.raises(DatabaseError, match="Postgres 15 or later is needed, DATABASE_URL names one of version 14"):
        await prepare(database)
    await connection.close()


async def test_a_user_without_rights_is_told_which(database: str) -> None:
    powerless = f"{database}{'&' if '?' in database else '?'}role=pg_monitor"
    with pytest.raises(DatabaseError, match="lacks a right: permission denied for"):
        await prepare(powerless)


@pytest.mark.parametrize("error", [asyncpg.AdminShutdownError("bye"), asyncpg.InterfaceError("closed"), TimeoutError()])
def test_a_database_that_goes_away_under_a_command_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(main, "cli", fails)
    with pytest.raises(SystemExit, match=f"messenger-mirror: the database went away: {type(error).__name__}"):
        main.main()
    error = asyncpg.UndefinedColumnError("a bug")
    with pytest.raises(asyncpg.UndefinedColumnError):
        main.main()


class FakeServer:
    """An embedded server that takes its time to start."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.is_asked, self.may_start = threading.Event(), threading.Event()
        self.may_start.set()
        self.stops = 0

    def start(self, _folder: Path) -> FakeServer:
        self.is_asked.set()
        assert self.may_start.wait(60)
        return self

    def stop(self) -> None:
        self.stops += 1


async def test_the_embedded_server_is_stopped_when_the_schema_stops_the_start(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer(database)
    monkeypatch.setattr(embedded, "start", server.start)
    connection = await connect(database)
    await connection.execute("UPDATE schema_migrations SET checksum = 'edited'")
    await connection.close()
    with pytest.raises(MigrationError, match="was edited"):
        async with migrated_database(DatabaseSettings(_env_file=None)):
            raise AssertionError("it must not start")
    assert server.stops == 1


async def test_a_start_that_is_cancelled_leaves_no_embedded_server_running(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer(database)
    server.may_start.clear()
    monkeypatch.setattr(embedded, "start", server.start)

    async def use() -> None:
        async with migrated_database(DatabaseSettings(_env_file=None)):
            raise AssertionError("it must not start")

    using = asyncio.create_task(use())
    await asyncio.to_thread(server.is_asked.wait, 60)
    using.cancel()
    server.may_start.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert server.stops == 1
