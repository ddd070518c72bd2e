"""The database as the settings name it: the owner's own, or the embedded one, brought to this version's schema."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import structlog

from sql import embedded
from sql.errors import MigrationError, describe, is_away
from sql.migrate import migrate
from sql.pool import MINIMUM_VERSION, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from app.settings import DatabaseSettings

log = structlog.get_logger(__name__)

CONNECT_WITHIN_SECONDS = 15.0
CLOSE_WITHIN_SECONDS = 2.0
LOOK_EVERY_SECONDS = 1.0  # whether the embedded server lives
LOOK_AT_LEAST_EVERY_SECONDS = 15.0  # when it could not be started


class DatabaseError(Exception):
    """The database can't be used; the text says why and what to do."""


class DatabaseAwayError(DatabaseError):
    """The database can't be reached now; it may be later."""


@contextmanager
def database(settings: DatabaseSettings) -> Iterator[str]:
    """Give the database's address; the embedded server runs at least as long as this is open.

    Raises:
        embedded.EmbeddedPostgresError: it can't run here; the text says what to do.

    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = embedded.start(settings.data_dir)
    try:
        yield server.dsn
    finally:
        server.stop()


@asynccontextmanager
async def held_database(settings: DatabaseSettings) -> AsyncIterator[str]:
    """Do what `database` does without keeping others of the event loop waiting; a server that dies is started again.

    Raises:
        embedded.EmbeddedPostgresError: as above.

    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    starting = asyncio.create_task(asyncio.to_thread(embedded.start, settings.data_dir))
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # the thread can't be stopped: what it starts is not left running
        with suppress(Exception):
            await asyncio.to_thread((await starting).stop)
        raise
    watching = asyncio.create_task(_watch(server), name="embedded-postgres")
    try:
        yield server.dsn
    finally:
        watching.cancel()
        await asyncio.to_thread(server.stop)


async def _watch(server: embedded.EmbeddedPostgres) -> None:
    """Start the server again whenever it has died."""
    pause = LOOK_EVERY_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            if await asyncio.to_thread(server.revive):
                log.warning("postgres_revived", reason="the embedded server had died")
            pause = LOOK_EVERY_SECONDS
        except embedded.EmbeddedPostgresError as error:
            pause = min(2 * pause, LOOK_AT_LEAST_EVERY_SECONDS)
            log.error("postgres_not_revived", reason=str(error), again_after_seconds=pause)


@asynccontextmanager
async def migrated_database(settings: DatabaseSettings) -> AsyncIterator[str]:
    """Give the address of the database, with this version's schema.

    Raises:
        DatabaseError: it can't be reached, or is too old.
        sql.errors.MigrationError: its schema can't be brought to what this version needs.
        embedded.EmbeddedPostgresError: as above.

    """
    async with held_database(settings) as dsn:
        await prepare(dsn)
        yield dsn


async def prepare(dsn: str) -> list[str]:
    """Apply what migrations are missing; returns their names.

    Raises:
        DatabaseAwayError: it can't be reached, or went away meanwhile.
        DatabaseError, sql.errors.MigrationError: as above.

    """
    try:
        connection = await connect(dsn, timeout=CONNECT_WITHIN_SECONDS)
    except (ValueError, KeyError, asyncpg.InterfaceError):  # KeyError: it names no user, and our account has no name
        # the reason would quote the address, and what is wrong most often is a password that is not encoded
        raise DatabaseError(
            "DATABASE_URL can't be read: it looks like postgresql://user:password@host:5432/database, "
            "with special characters of the password percent-encoded"
        ) from None
    except asyncpg.RaiseError as error:  # ours: a setting that only the database's owner can put right
        raise DatabaseError(f"the database that DATABASE_URL names can't be used: {error}") from None
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        kind = DatabaseError if _is_setting_wrong(error) else DatabaseAwayError
        raise kind(f"the database that DATABASE_URL names can't be reached: {type(error).__name__}: {error}") from None
    try:
        version = connection.get_server_version()
        if version.major < MINIMUM_VERSION:
            raise DatabaseError(
                f"Postgres {MINIMUM_VERSION} or later is needed, DATABASE_URL names one of version {version.major}"
            )
        applied = [migration.name for migration in await migrate(connection)]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MigrationError) as error:
        reason = error.__cause__ if isinstance(error, MigrationError) else error
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise DatabaseError(
                f"the user that DATABASE_URL names lacks a right: {error}. It has to own the database's tables, and to "
                "be allowed to create some in the schema public"
            ) from None
        if reason is None or not is_away(reason):
            raise
        raise DatabaseAwayError(f"the database went away: {describe(reason)}") from None
    finally:
        with suppress(OSError):
            await connection.close(timeout=CLOSE_WITHIN_SECONDS)
    if applied:
        log.info("schema_migrated", migrations=applied)
    return applied


def _is_setting_wrong(error: Exception) -> bool:
    """Tell whether a refused connection is refused for what DATABASE_URL says: user, password, database, a right."""
    state = getattr(error, "sqlstate", None) or ""
    return state[:2] == "28" or state in {"3D000", "42501"}
