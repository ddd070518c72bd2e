"""Upkeep: partitions of journal and feed for the coming days, those past retention dropped, and old runs deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from sql.changes import keep_changes
from sql.deliveries import keep_journal
from sql.sync_runs import prune_runs

if TYPE_CHECKING:
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 3600.0


class Housekeeping:
    """Keeps the journal, the feed of changes and the record of sync runs in shape."""

    def __init__(self, pool: Pool, *, retention_days: int, changes_days: int) -> None:
        self._pool, self._retention_days, self._changes_days = pool, retention_days, changes_days

    async def run_once(self, now: datetime | None = None) -> dict[str, int]:
        """Make partitions ahead, drop old ones, delete old runs; returns how many days and runs are gone."""
        now = now or datetime.now(UTC)
        async with self._pool.acquire() as connection:
            dropped = await keep_journal(connection, today=now.date(), retention_days=self._retention_days)
            forgotten = await keep_changes(connection, today=now.date(), retention_days=self._changes_days)
            pruned = await prune_runs(connection, keep_days=self._retention_days, now=now)
        if dropped:
            log.info("journal_days_dropped", days=[day.isoformat() for day in dropped])
        return {"dropped": len(dropped), "forgotten": len(forgotten), "pruned": pruned}
