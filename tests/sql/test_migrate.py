from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from sql.errors import MigrationError
from sql.migrate import Migration, is_current, migrate, migrations
from sql.pool import connect
from tests.conftest import in_database

if TYPE_CHECKING:
    from sql.upsert import Connection


async def test_an_empty_database_gets_every_migration_and_then_none(empty_database: str) -> None:
    connection = await connect(empty_database)
    assert not await is_current(connection)
    assert await migrate(connection) == migrations()
    assert await is_current(connection)
    assert await migrate(connection) == []
    await connection.close()


async def test_an_edited_migration_is_refused_by_name(connection: Connection) -> None:
    first, *rest = migrations()
    with pytest.raises(MigrationError, match=r"migration 1 \(mirror of conversations\) was edited"):
        await migrate(connection, [first._replace(sql=first.sql + "\n-- one more word"), *rest])


async def test_a_failing_migration_leaves_nothing_behind_and_says_why(connection: Connection) -> None:
    broken = Migration(9001, "break things", "CREATE TABLE half (id int); SELECT 1 / 0")
    with pytest.raises(MigrationError, match=r"migration 9001 \(break things\) failed.*division by zero"):
        await migrate(connection, [*migrations(), broken])
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await is_current(connection)


async def test_a_database_of_a_later_version_is_refused(connection: Connection) -> None:
    later = Migration(9001, "of the future", "SELECT 1")
    await migrate(connection, [*migrations(), later])
    with pytest.raises(MigrationError, match="does not know"):
        await migrate(connection)
    assert not await is_current(connection)


async def test_a_migration_numbered_before_an_applied_one_is_refused(connection: Connection) -> None:
    later, before = Migration(9001, "later", "SELECT 1"), Migration(9000, "before", "SELECT 1")
    await migrate(connection, [*migrations(), later])
    with pytest.raises(MigrationError, match="number it after"):
        await migrate(connection, [*migrations(), before, later])


async def test_a_database_that_cannot_hold_every_script_is_refused_by_its_encoding(
    server: str, empty_database: str
) -> None:
    admin, name = await connect(empty_database), f"mirror_test_{uuid4().hex}"
    await admin.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        connection = await connect(in_database(server, name))
        with pytest.raises(MigrationError, match="encoding is SQL_ASCII"):
            await migrate(connection)
        assert await connection.fetchval("SELECT to_regclass('schema_migrations')") is None
        await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_processes_that_start_together_migrate_once(empty_database: str) -> None:
    connections = [await connect(empty_database) for _ in range(4)]
    applied = await asyncio.gather(*(migrate(c) for c in connections))
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]
    for connection in connections:
        await connection.close()


async def test_page_id_comes_first_in_every_key_of_a_table_that_grows(connection: Connection) -> None:
    rows = await connection.fetch(
        """
        SELECT i.indexrelid::regclass::text AS index, i.indrelid::regclass::text AS table, a.attname AS first
        FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indisunique AND i.indrelid::regclass::text IN (
            'conversations', 'conversation_threads', 'messages', 'message_reactions', 'conversation_events',
            'conversation_tags'
        )
        """
    )
    assert len({r["table"] for r in rows}) == 6
    assert {r["first"] for r in rows} == {"page_id"}
