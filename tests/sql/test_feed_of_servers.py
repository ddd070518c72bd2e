"""Which feed a server has after a restart, a crash, and a standby's taking over: real servers of the test's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from sql import embedded
from sql.changes import BEGINNING, Change, feed, note_changes, read_changes
from sql.embedded_binaries import runnable
from sql.embedded_postmaster import Postmaster
from sql.embedded_server import Server
from sql.migrate import migrate
from sql.pool import connect
from tests.horizon import LONGEST_SECONDS, all_is_told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from sql.upsert import Connection

DATABASE = "messenger_mirror"


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that any account can pass; what still runs in it is stopped at the end."""
    made = Path(tempfile.mkdtemp(prefix="mirror-feed-"))
    made.chmod(0o777)
    try:
        yield made
    finally:
        for data in made.glob("*/postgres/data"):
            Postmaster(data).stop()
        shutil.rmtree(made)


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[tuple[Connection, str]]:
    server = embedded.start(home, database=DATABASE)
    try:
        connection = await connect(server.dsn)
        try:
            yield connection, server.dsn
        finally:
            connection.terminate()  # the server may be dead
    finally:
        server.stop()


async def note(connection: Connection, mid: str) -> None:
    await note_changes(connection, [Change("message", "101", mid, None)])
    await all_is_told(connection)


async def told(connection: Connection) -> tuple[UUID, list[str]]:
    read = await read_changes(connection, BEGINNING, limit=10)
    return read.feed.epoch, [told.change.key for told in read.changes]


def copy_files(home: Path, to: Path) -> None:
    to.mkdir(mode=0o777)
    subprocess.run(["cp", "-a", home / "postgres", to / "postgres"], check=True)


async def test_a_restart_and_a_crash_keep_the_feed(folder: Path) -> None:
    async with running(folder / "one") as (connection, _):
        await migrate(connection)
        await note(connection, "m_1")
        before = await told(connection)
    assert before[1] == ["m_1"]
    async with running(folder / "one") as (connection, _):
        assert await told(connection) == before
        pid = Postmaster(folder / "one" / "postgres" / "data").pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    async with running(folder / "one") as (connection, _):
        assert await told(connection) == before


async def test_a_standby_that_took_over_begins_a_feed_of_its_own(folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    async with running(first) as (connection, dsn):
        await migrate(connection)
        await note(connection, "m_1")
    copy_files(first, second)
    async with running(first) as (primary, dsn), standby(second, of=dsn) as copy:
        await note(primary, "m_2")
        while await copy.fetchval("SELECT count(*) FROM changes") < 2:
            pass  # each look is a round trip
        epoch, keys = await told(primary)
        assert keys == ["m_1", "m_2"]
        assert await copy.fetchval("SELECT pg_promote(true, $1)", LONGEST_SECONDS)
        assert await copy.fetchval("SELECT count(*) FROM changes") == 2
        assert (await feed(copy)).epoch != epoch
        await note(copy, "m_3")
        anew = await told(copy)
        assert anew[1] == ["m_3"]
        assert (await told(primary)) == (epoch, keys)
    async with running(second) as (connection, _):
        assert await told(connection) == anew


@asynccontextmanager
async def standby(home: Path, *, of: str) -> AsyncIterator[Connection]:
    """A server on a copy of another one's files, which follows that one."""
    asked = {key: values[0] for key, values in parse_qs(urlsplit(of).query).items()}
    server = Server(home)
    (server.data / "standby.signal").touch()
    with (server.data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = 'host={asked['host']} port={asked['port']} user=postgres'\n")
    programs, _ = runnable(server.account, server.home)
    pid, _ = server._launch(programs)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            while (connection := await connected(server)) is None:
                assert server.postmaster.is_(pid), server._logged_since(0)
        try:
            yield connection
        finally:
            connection.terminate()
    finally:
        server.postmaster.stop()


async def connected(server: Server) -> Connection | None:
    """A connection, None while the server does not take one yet."""
    try:
        return await connect(server._dsn(DATABASE))
    except (asyncpg.CannotConnectNowError, OSError):
        return None
