"""The database as the settings name it: the owner's own, or the embedded one, brought to this version's schema."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg
import structlog

from sql import embedded
from sql.migrate import migrate
from sql.pool import MINIMUM_VERSION, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from app.settings import DatabaseSettings

log = structlog.get_logger(__name__)

CONNECT_WITHIN_SECONDS = 15.0


class DatabaseError(Exception):
    """The database can't be used; the text says why and what to do."""


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
async def migrated_database(settings: DatabaseSettings) -> AsyncIterator[str]:
    """Give the address of the database, with this version's schema.

    Raises:
        DatabaseError: it can't be reached, or is too old.
        sql.errors.MigrationError: its schema can't be brought to what this version needs.
        embedded.EmbeddedPostgresError: as above.

    """
    held = database(settings)
    entering = asyncio.create_task(asyncio.to_thread(held.__enter__))
    try:
        dsn = await asyncio.shield(entering)
    except asyncio.CancelledError:
        # the thread can't be stopped: what it starts is not left running
        with suppress(Exception):
            await entering
            await asyncio.to_thread(held.__exit__, None, None, None)
        raise
    try:
        await prepare(dsn)
        yield dsn
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)


async def prepare(dsn: str) -> list[str]:
    """Apply what migrations are missing; returns their names.

    Raises:
        DatabaseError, sql.errors.MigrationError: as above.

    """
    try:
        connection = await connect(dsn, timeout=CONNECT_WITHIN_SECONDS)
    except (ValueError, asyncpg.InterfaceError):
        # the reason would quote the address, and what is wrong most often is a password that is not encoded
        raise DatabaseError(
            "DATABASE_URL can't be read: it looks like postgresql://user:password@host:5432/database, "
            "with special characters of the password percent-encoded"
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise DatabaseError(
            f"the database that DATABASE_URL names can't be reached: {type(error).__name__}: {error}"
        ) from None
    try:
        version = connection.get_server_version()
        if version.major < MINIMUM_VERSION:
            raise DatabaseError(
                f"Postgres {MINIMUM_VERSION} or later is needed, DATABASE_URL names one of version {version.major}"
            )
        applied = [migration.name for migration in await migrate(connection)]
    finally:
        await connection.close()
    if applied:
        log.info("schema_migrated", migrations=applied)
    return applied
