"""What a look at the database tells of its health."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sql.migrate import is_current

if TYPE_CHECKING:
    from datetime import datetime

    from sql.upsert import Connection


class DatabaseHealth(NamedTuple):
    """A database as found. `now` is its clock's, `size` for people, `dead_letters` deliveries that hold some."""

    version: str
    is_current: bool
    fsync: str
    now: datetime
    size: str
    dead_letters: int


async def look_at(connection: Connection) -> DatabaseHealth:
    """Look at the database."""
    current = await is_current(connection)
    row = await connection.fetchrow(
        """
        SELECT
            current_setting('server_version') AS version, current_setting('fsync') AS fsync,
            clock_timestamp() AS now, pg_size_pretty(pg_database_size(current_database())) AS size
        """
    )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    dead = await connection.fetchval(
        "SELECT count(*) FROM webhook_deliveries WHERE state IN ('partial', 'dead')" if current else "SELECT 0"
    )
    return DatabaseHealth(row["version"], current, row["fsync"], row["now"], row["size"], dead)


async def takes_writes(connection: Connection) -> bool:
    """Tell whether the server is no standby and no session of it is read-only by default."""
    return bool(
        await connection.fetchval(
            "SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off'"
        )
    )
