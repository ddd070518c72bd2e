"""A real Postgres for every test: one server, one migrated template per table layout, a copy per test.

The server is the embedded one, or the one that TEST_DATABASE_URL names (its user must be allowed to create databases).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from sql import embedded
from sql.migrate import Migration, migrate, migrations
from sql.pool import Pool, connect, open_pool
from tests.pooler import FOUND
from tests.scratch import use_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# a busy machine's pauses are no failures
settings.register_profile("mirror", deadline=None)
settings.load_profile("mirror")
use_memory()

PARTITIONS = 3
# what needs a PgBouncer is no part of the suite where there is none
collect_ignore = [] if FOUND is not None else ["sql/test_pgbouncer.py", "app/test_pgbouncer.py"]


def pytest_report_header() -> str:
    """Say whether the tests through a pooler are there."""
    return f"pgbouncer: {FOUND or 'not installed: ' + ' and '.join(collect_ignore) + ' are left out'}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a second run, on another Postgres, leave out what says the same on every one."""
    parser.addoption("--only-on-server", action="store_true", help="only tests that ask the server of all tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what uses the server, directly or not, where that is asked for."""
    if not config.getoption("--only-on-server"):
        return
    kept: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        kept["server" in getattr(item, "fixturenames", ())].append(item)
    config.hook.pytest_deselected(items=kept[False])
    items[:] = kept[True]


def in_database(dsn: str, name: str) -> str:
    """Return the same server's address with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def hash_partitioned(migration: Migration) -> Migration:
    """Turn every table that grows with a Page's traffic into one partitioned by hash of page_id."""
    names = re.findall(r"CREATE TABLE (\w+) \((?:(?!\n\);).)*\n\); -- grows with", migration.sql, re.DOTALL)
    sql = migration.sql.replace("\n); -- grows with", "\n) PARTITION BY HASH (page_id); -- grows with")
    parts = [
        f"CREATE TABLE {name}_{n} PARTITION OF {name} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {n});"
        for name in names
        for n in range(PARTITIONS)
    ]
    # the functions that take a row of a table come after it, so the partitions may come last
    return migration._replace(sql="\n".join((sql, *parts)))


LAYOUTS = {"plain": lambda m: m, "hash-partitioned": hash_partitioned}


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server on which databases may be made."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # not pytest's own folder: as root, the account that runs Postgres may not enter that
    folder = Path(tempfile.mkdtemp(prefix="mirror-test-"))
    folder.chmod(0o711)
    running = embedded.start(folder, database="mirror_test")
    try:
        yield running.dsn
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def templates(server: str) -> AsyncIterator[dict[str, str]]:
    """A migrated, empty database of each layout that was asked for: {layout: name}, filled as needed."""
    made: dict[str, str] = {}
    admin = await asyncpg.connect(server)
    if "TEST_DATABASE_URL" not in os.environ:
        # this server and its disk go away together: what a test makes need not survive the machine
        await admin.execute("ALTER SYSTEM SET fsync = off")
        await admin.execute("SELECT pg_reload_conf()")
    yield made
    for name in made.values():
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def tables() -> str:
    """The layout of the growing tables; a module overrides it with params to run on both."""
    return "plain"


@asynccontextmanager
async def new_database(server: str, templates: dict[str, str], tables: str) -> AsyncIterator[str]:
    """Make a migrated, empty database, and drop it at the end."""
    admin = await asyncpg.connect(server)
    if tables not in templates:
        template = f"mirror_template_{uuid4().hex}"
        await admin.execute(f"CREATE DATABASE {template}")
        connection = await connect(in_database(server, template))
        await migrate(connection, [LAYOUTS[tables](m) for m in migrations()])
        await connection.close()
        templates[tables] = template
    name = f"mirror_test_{uuid4().hex}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {templates[tables]}")
    try:
        yield in_database(server, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def database(server: str, templates: dict[str, str], tables: str) -> AsyncIterator[str]:
    """The address of a migrated, empty database of the test's own."""
    async with new_database(server, templates, tables) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(server: str) -> AsyncIterator[str]:
    """The address of a database without any table."""
    admin = await asyncpg.connect(server)
    name = f"mirror_empty_{uuid4().hex}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield in_database(server, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    """Connections to the test's database."""
    async with open_pool(database, min_size=1, max_size=10) as made:
        yield made


@pytest.fixture
async def connection(pool: Pool) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
    """One connection to the test's database."""
    async with pool.acquire() as acquired:
        yield acquired
