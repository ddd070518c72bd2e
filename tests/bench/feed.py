"""Ingest without the feed of changes: in the same database, who looks along UNFED_PATH tells it nothing.

A function in a schema of its own, and none replaced: every connection would plan anew at each switch.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sql.upsert import Connection

UNFED_PATH = "unfed, public"


async def mute_feed(connection: Connection) -> None:
    """Make what those call who look along UNFED_PATH."""
    await connection.execute(
        """
        CREATE SCHEMA IF NOT EXISTS unfed;
        CREATE OR REPLACE FUNCTION unfed.note_changes(changed change_row[]) RETURNS void LANGUAGE plpgsql
        AS 'BEGIN END'
        """
    )


@asynccontextmanager
async def nothing_told(connection: Connection) -> AsyncIterator[None]:
    """Make sure that the feed is told nothing meanwhile.

    Raises:
        RuntimeError: it was, so there is nothing to compare with.

    """
    before = await connection.fetchval("SELECT count(*) FROM changes")
    yield
    after = await connection.fetchval("SELECT count(*) FROM changes")
    if after != before:
        raise RuntimeError(f"{after - before} changes were told of")
