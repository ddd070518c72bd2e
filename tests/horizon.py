"""Waiting for the horizon of the feed, which tests that share a server hold back for each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sql.pool import Pool
    from sql.upsert import Connection

_IS_TOLD = "SELECT $1::xid8 < pg_snapshot_xmin(pg_current_snapshot()) FROM pg_sleep(0.01)"
LONGEST_SECONDS = 150  # no test takes longer


async def all_is_told(database: Connection | Pool) -> None:
    """Wait until all that was committed before can be read in the feed, whoever else holds that up.

    Not for a test that itself has a transaction open.
    """
    newest = await database.fetchval("SELECT pg_current_xact_id()")
    async with asyncio.timeout(LONGEST_SECONDS):
        while not await database.fetchval(_IS_TOLD, newest):
            pass
