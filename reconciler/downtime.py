"""Our own downtime, told by a stored heartbeat: when nobody received, webhooks may be lost; when nobody scheduled, many
Pages are overdue. Either way they are made due soon, and one after the other.

Facebook sends again what was not answered, for a while; whether it all comes back is not documented.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

import structlog

from reconciler.due import after_downtime
from sql.pace import beat, bring_forward, due_times, put_due_times

if TYPE_CHECKING:
    from sql.pool import Pool

log = structlog.get_logger(__name__)

EVERY_SECONDS = 5.0
DOWN_AFTER = timedelta(seconds=30)  # without a heartbeat of any process: less is a restart, or a moment of trouble
Name: TypeAlias = Literal["receiver", "schedule"]


class Heartbeat:
    """The heartbeat of all processes that do `name`. `interval` is the configured one between a Page's syncs."""

    def __init__(self, pool: Pool, name: Name, *, interval: timedelta) -> None:
        self._pool, self._name, self._interval = pool, name, interval

    async def run_once(self) -> dict[str, int]:
        """Beat; after a gap spread the Pages that are due. Returns how many were given another time."""
        async with self._pool.acquire() as connection, connection.transaction():
            now, gap = await beat(connection, self._name)
            if gap is None or gap < DOWN_AFTER:
                return {"moved": 0}
            was_due = await due_times(connection)
            lost_webhooks = self._name == "receiver"
            due = after_downtime(was_due, base=self._interval, now=now, lost_webhooks=lost_webhooks)
            await put_due_times(connection, due)
            if lost_webhooks:
                await bring_forward(connection, due, longest=self._interval)
        log.warning("was_down", what=self._name, seconds=round(gap.total_seconds()), pages=len(due))
        return {"moved": len(due)}
