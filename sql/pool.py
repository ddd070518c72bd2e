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

# whatever the server's defaults: a commit that was reported is on disk; lists are too short for compiling their plans
# to pay; texts with a common word are many, and to forget which they were means to look at all that lie beside them
_SETTINGS = {
    "application_name": "messenger-mirror",
    "timezone": "UTC",
    "synchronous_commit": "on",
    "jit": "off",
    "work_mem": "32MB",
}
_KEPT_BY_POOLERS = {"application_name", "timezone"}
# blocks, since a statement with a result would be prepared, and be left behind in a pooler's session
_IS_THE_SESSION = "DO $$ BEGIN IF pg_backend_pid() <> {} THEN RAISE 'another session'; END IF; END $$"
_COMMITS_WAIT = """
    DO $$ BEGIN
        IF current_setting('synchronous_commit') = 'off' THEN
            RAISE 'synchronous_commit is off, and no client behind a pooler can set it: ALTER DATABASE ... SET can';
        END IF;
    END $$
"""


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
    connection = await _Way(dsn).connect(dsn, **options)
    await _prepare(connection)
    return connection


class _Way:
    """How connections reach Postgres: straight, or through a pooler, which the first one finds out.

    A pooler in transaction mode (PgBouncer's) gives each transaction another session, so nothing can be left in one: no
    prepared statement, no setting. It refuses settings at the start that it does not keep track of itself, and names a
    process that is not the session's.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._is_pooled = False

    async def connect(self, *_: object, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection.

        Raises:
            asyncpg.PostgresError, OSError: it can't be; or, behind a pooler, commits would not wait for the disk.

        """
        given = options.pop("server_settings", {})
        if not self._is_pooled:
            straight = await self._straight({**_SETTINGS, **given}, options)
            if straight is not None:
                return straight
            self._is_pooled = True
        kept = {name: value for name, value in _SETTINGS.items() if name in _KEPT_BY_POOLERS}
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            self._dsn, server_settings=kept, statement_cache_size=0, **options
        )
        try:
            await connection.execute(_COMMITS_WAIT)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _straight(
        self, settings: dict[str, str], options: dict[str, Any]
    ) -> asyncpg.Connection[asyncpg.Record] | None:
        try:
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
                self._dsn, server_settings=settings, **options
            )
        except asyncpg.ProtocolViolationError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            return None
        try:
            await connection.execute(_IS_THE_SESSION.format(connection.get_server_pid()))
        except asyncpg.RaiseError:
            await connection.close()
            return None
        except BaseException:
            connection.terminate()
            raise
        return connection


async def _leave_as_it_is(_connection: object) -> None:
    # asyncpg would send RESET ALL and more at every release, and who waits for a commit would wait for that too. Here
    # nobody changes a session but inside a transaction, and one left open is rolled back all the same.
    pass


@asynccontextmanager
async def open_pool(dsn: str, *, min_size: int = 2, max_size: int = 10, **options: Any) -> AsyncIterator[Pool]:
    """Open a pool and close it at the end. Made with settings of ours, as far as what is in between lets us."""
    pool: Pool = await asyncpg.create_pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        connect=_Way(dsn).connect,
        init=_prepare,
        reset=_leave_as_it_is,
        **options,
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(CLOSE_WITHIN_SECONDS):
                await pool.close()
        except TimeoutError:  # a server that stands still does not even say good-bye
            pool.terminate()
