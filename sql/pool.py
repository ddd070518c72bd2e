"""Connections to Postgres, set up alike everywhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

MINIMUM_VERSION = 15
CLOSE_WITHIN_SECONDS = 10.0


def _decode_json(value: str) -> Any:
    return orjson.loads(value)


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # asyncpg gives json and jsonb as text unless told otherwise, per connection
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, schema="pg_catalog", encoder=lambda v: orjson.dumps(v).decode(), decoder=_decode_json
        )


async def connect(dsn: str, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection, with JSON decoded. The caller closes it."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, **options)
    await _prepare(connection)
    return connection


async def _leave_as_it_is(_connection: object) -> None:
    # asyncpg would send RESET ALL and more at every release, and who waits for a commit would wait for that too. Here
    # nobody changes a session but inside a transaction, and one left open is rolled back all the same.
    pass


@asynccontextmanager
async def open_pool(dsn: str, *, min_size: int = 2, max_size: int = 10, **options: Any) -> AsyncIterator[Pool]:
    """Open a pool and close it at the end.

    `synchronous_commit` is on for every connection, whatever the server's default: a commit that was reported is
    on disk.
    """
    pool: Pool = await asyncpg.create_pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        init=_prepare,
        reset=_leave_as_it_is,
        server_settings={"application_name": "messenger-mirror", "synchronous_commit": "on", "timezone": "UTC"},
        **options,
    )
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), CLOSE_WITHIN_SECONDS)
        except TimeoutError:  # a server that stands still does not even say good-bye
            pool.terminate()
