"""When each Page's newest webhook came: gathered in memory, written now and then. Losing a moment of it is harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.subscriptions import note_webhooks

if TYPE_CHECKING:
    from datetime import datetime

    from sql.ingest import Ingest
    from sql.pool import Pool

EVERY_SECONDS = 5.0
_MOST_PAGES = 10_000  # between two writings; who can sign is Facebook, but a memory that can't grow is better


class LastSeen:
    """Notes deliveries that were committed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seen: dict[str, datetime] = {}

    def note(self, delivery: Ingest) -> None:
        """Remember whose items a delivery held."""
        for item in delivery.items:
            if item.rows and len(self._seen) < _MOST_PAGES:
                page_id = item.rows[0].page_id
                self._seen[page_id] = max(self._seen.get(page_id, delivery.received_at), delivery.received_at)

    async def run_once(self) -> dict[str, int]:
        """Write what was noted; returns of how many Pages."""
        seen, self._seen = self._seen, {}
        if seen:
            async with self._pool.acquire() as connection:
                await note_webhooks(connection, seen)
        return {"pages": len(seen)}
