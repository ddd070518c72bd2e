"""Databases for the tests of merging: one per table layout for the whole session, emptied after every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from sql.migrate import migrate, migrations
from sql.pool import connect
from tests.conftest import LAYOUTS, in_database
from tests.sql.mirrored import empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Connections: TypeAlias = list[asyncpg.Connection[asyncpg.Record]]

CONNECTIONS = 5


@pytest.fixture(scope="session")
async def kept(server: str) -> AsyncIterator[dict[str, Connections]]:
    """Connections to a database of each layout."""
    admin = await asyncpg.connect(server)
    names = {layout: f"mirror_kept_{uuid4().hex}" for layout in LAYOUTS}
    opened: dict[str, Connections] = {}
    try:
        for layout, name in names.items():
            await admin.execute(f"CREATE DATABASE {name}")
            address = in_database(server, name)
            # what these tests write need not outlive them
            settings = {"synchronous_commit": "off"}
            opened[layout] = [await connect(address, server_settings=settings) for _ in range(CONNECTIONS)]
            await migrate(opened[layout][0], [LAYOUTS[layout](m) for m in migrations()])
        yield opened
    finally:
        for connections in opened.values():
            for connection in connections:
                await connection.close()
        for name in names.values():
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> str:
    """Plain tables, then hash-partitioned ones."""
    return str(request.param)


@pytest.fixture
async def writers(kept: dict[str, Connections], layout: str) -> AsyncIterator[Connections]:
    """Connections to an empty mirror."""
    connections = kept[layout]
    try:
        yield connections
    finally:
        await empty(connections[0])


@pytest.fixture
def mirror(writers: Connections) -> asyncpg.Connection[asyncpg.Record]:
    """A connection to an empty mirror."""
    return writers[0]
