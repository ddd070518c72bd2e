"""Connections to Postgres, set up alike everywhere."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

MINIMUM_VERSION = 15
CLOSE_WITHIN_SECONDS = 10.0
BACK_WITHIN_SECONDS = 5.0

# Without these, who waits for the answer of a host that is gone without a word (its power, a firewall in between) waits
# for ever, and what is sent to it is tried for a quarter of an hour.
ASK_AFTER_SECONDS = 10  # of silence, whether the other end lives
ASK_EVERY_SECONDS = 5
GONE_AFTER_SECONDS = 60
_TCP_OPTIONS = {
    "TCP_KEEPIDLE": ASK_AFTER_SECONDS,
    "TCP_KEEPINTVL": ASK_EVERY_SECONDS,
    "TCP_KEEPCNT": (GONE_AFTER_SECONDS - ASK_AFTER_SECONDS) // ASK_EVERY_SECONDS,
    "TCP_USER_TIMEOUT": GONE_AFTER_SECONDS * 1000,
}

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


if TYPE_CHECKING:
    _BaseConnection = asyncpg.Connection[asyncpg.Record]
    _BasePool = asyncpg.Pool[asyncpg.Record]
else:
    _BaseConnection, _BasePool = asyncpg.Connection, asyncpg.Pool


class _Connection(_BaseConnection):
    """One that ends when its other end is gone, though nothing comes to tell."""

    def __init__(self, protocol: Any, transport: asyncio.BaseTransport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        ours = transport.get_extra_info("socket")
        if ours.family == socket.AF_UNIX:
            return
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS.items():
            if hasattr(socket, name):  # not all systems have all
                ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
        options["connection_class"] = _Connection
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


class _Pool(_BasePool):
    """One whose connections come back in seconds, also when who had one was cancelled and the server stands still.

    asyncpg waits for the server's word about a query that was cancelled, without end: here its connection is dropped.
    """

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's
        """Take a connection back."""
        with suppress(TimeoutError):
            await super().release(connection, timeout=BACK_WITHIN_SECONDS if timeout is None else timeout)


async def _leave_as_it_is(_connection: object) -> None:
    # asyncpg would send RESET ALL and more at every release, and who waits for a commit would wait for that too. Here
    # nobody changes a session but inside a transaction, and one left open is rolled back all the same.
    pass


@asynccontextmanager
async def open_pool(dsn: str, *, min_size: int = 2, max_size: int = 10, **options: Any) -> AsyncIterator[Pool]:
    """Open a pool and close it at the end. Made with settings of ours, as far as what is in between lets us."""
    pool = await _Pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        connect=_Way(dsn).connect,
        connection_class=_Connection,
        record_class=asyncpg.Record,
        init=_prepare,
        reset=_leave_as_it_is,
        loop=None,
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
