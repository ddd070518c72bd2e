"""The journal's upkeep: partitions for the coming days, and those past retention dropped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from sql.deliveries import keep_journal

if TYPE_CHECKING:
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 3600.0


class Housekeeping:
    """Keeps the journal in shape."""

    def __init__(self, pool: Pool, *, retention_days: int) -> None:
        self._pool, self._retention_days = pool, retention_days

    async def run_once(self, now: datetime | None = None) -> dict[str, int]:
        """Make partitions ahead and drop old ones; returns how many days were dropped."""
        today = (now or datetime.now(UTC)).date()
        async with self._pool.acquire() as connection:
            dropped = await keep_journal(connection, today=today, retention_days=self._retention_days)
        if dropped:
            log.info("journal_days_dropped", days=[day.isoformat() for day in dropped])
        return {"dropped": len(dropped)}
