from __future__ import annotations

import pytest

from app.database import DatabaseError, migrated_database, prepare
from app.settings import DatabaseSettings
from sql.errors import MigrationError
from sql.migrate import is_current, migrations
from sql.pool import connect

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
