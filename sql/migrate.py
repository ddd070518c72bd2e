"""Bring a database's schema to what this version needs: forward only, checksummed, under a lock, all or nothing."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from sql.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sql.upsert import Connection

_LOCK = 7_226_831_904_113  # any number, the same in every version


class Migration(NamedTuple):
    """One file of `sql/migrations`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Read the shipped migrations, oldest first."""
    files = (f for f in resources.files("sql").joinpath("migrations").iterdir() if f.name.endswith(".sql"))
    found = []
    for file in sorted(files, key=lambda f: f.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(version), name.replace("_", " "), file.read_text("utf-8")))
    return found


async def migrate(connection: Connection, wanted: Sequence[Migration] | None = None) -> list[Migration]:
    """Apply what is missing, in one transaction; returns what was applied.

    Several processes may start at once: an advisory lock lets one of them work and the others find nothing to do.

    Raises:
        MigrationError: an applied migration was edited, is unknown to this version, or one fails; or the database's
            encoding is not UTF8.

    """
    wanted = migrations() if wanted is None else wanted
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        encoding = await connection.fetchval("SELECT getdatabaseencoding()")
        if encoding != "UTF8":
            raise MigrationError(
                f"this database's encoding is {encoding}, which can't hold what people write: make one with "
                "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
        await connection.execute(
            """
            CREATE TABLE IF NOT EXISTS schema_migrations (
                version integer PRIMARY KEY,
                name text NOT NULL,
                checksum text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )
            """
        )
        applied = await _applied(connection)
        _check(applied, wanted)
        missing = [m for m in wanted if m.version not in applied]
        for migration in missing:
            await _apply(connection, migration)
    return missing


async def is_current(connection: Connection) -> bool:
    """Tell whether the schema is exactly what this version needs."""
    try:
        applied = await _applied(connection)
    except asyncpg.UndefinedTableError:
        return False
    return applied == {m.version: m.checksum for m in migrations()}


async def _applied(connection: Connection) -> dict[int, str]:
    rows = await connection.fetch("SELECT version, checksum FROM schema_migrations ORDER BY version")
    return {r["version"]: r["checksum"] for r in rows}


def _check(applied: dict[int, str], wanted: Sequence[Migration]) -> None:
    by_version = {m.version: m for m in wanted}
    for version, checksum in applied.items():
        if version not in by_version:
            raise MigrationError(
                f"this database has migration {version}, which this version of messenger-mirror does not know: "
                "start the version that made it, or a later one"
            )
        if by_version[version].checksum != checksum:
            raise MigrationError(
                f"migration {version} ({by_version[version].name}) was edited after it was applied to this database: "
                "put its file back as it was, and write the change as a new migration"
            )
    newest = max(applied, default=0)
    for migration in wanted:
        if migration.version < newest and migration.version not in applied:
            raise MigrationError(
                f"migration {migration.version} ({migration.name}) comes before {newest}, which is applied already: "
                "number it after the newest one"
            )


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql)
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"migration {migration.version} ({migration.name}) failed, nothing of it was applied: {error}"
        ) from error
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.checksum,
    )
