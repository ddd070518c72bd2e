"""Keys of the API: `api_keys`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from sql.upsert import Connection

_SHOWN = "id, name, role, created_at, created_by, revoked_at"


async def add_key(
    connection: Connection, key_id: str, digest: bytes, *, name: str, role: str, created_by: str, now: datetime
) -> asyncpg.Record:
    """Store what proves a key; returns it as it is shown."""
    [row] = await connection.fetch(
        f"""
        INSERT INTO api_keys (id, name, role, digest, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING {_SHOWN}
        """,
        key_id,
        name,
        role,
        digest,
        now,
        created_by,
    )
    return row


async def list_keys(connection: Connection) -> list[asyncpg.Record]:
    """Every key that was ever made, newest first, without what proves it."""
    return await connection.fetch(f"SELECT {_SHOWN} FROM api_keys ORDER BY created_at DESC, id DESC")


async def revoke_key(connection: Connection, key_id: str, now: datetime) -> bool:
    """Make a key worthless; returns whether there is one. Doing it twice changes nothing."""
    done = await connection.execute(
        "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1", key_id, now
    )
    return done != "UPDATE 0"


async def live_keys(connection: Connection) -> list[asyncpg.Record]:
    """The keys that are good, with what proves them."""
    return await connection.fetch("SELECT id, role, digest FROM api_keys WHERE revoked_at IS NULL")
