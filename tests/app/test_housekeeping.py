from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.housekeeping import Housekeeping
from sql.partitions import DAYS_AHEAD

if TYPE_CHECKING:
    from sql.pool import Pool

NOON = datetime(2031, 3, 14, 12, tzinfo=UTC)


async def days(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'webhook_deliveries'::regclass"))


async def test_the_journal_has_its_coming_days_and_loses_those_past_retention(pool: Pool) -> None:
    housekeeping = Housekeeping(pool, retention_days=3, changes_days=3)
    assert await housekeeping.run_once(NOON) == {"dropped": 0, "forgotten": 0, "pruned": 0}
    assert await days(pool) == DAYS_AHEAD + 2  # yesterday and today too
    assert await housekeeping.run_once(NOON) == {"dropped": 0, "forgotten": 0, "pruned": 0}
    assert await housekeeping.run_once(NOON + timedelta(days=4)) == {"dropped": 2, "forgotten": 2, "pruned": 0}
    assert await days(pool) == DAYS_AHEAD + 2 + 2


async def test_a_process_that_was_stopped_for_weeks_finds_its_way(pool: Pool) -> None:
    housekeeping = Housekeeping(pool, retention_days=3, changes_days=3)
    await housekeeping.run_once(NOON)
    assert await housekeeping.run_once(NOON + timedelta(days=60)) == {
        "dropped": DAYS_AHEAD + 2,
        "forgotten": DAYS_AHEAD + 2,
        "pruned": 0,
    }
    assert await days(pool) == DAYS_AHEAD + 2
