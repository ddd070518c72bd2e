"""Read a delivery into rows, and count what it holds: at the door, and again when it comes out of the spool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from app import metrics
from app.webhook.reader import read_body
from sql.ingest import Ingest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import Counter

    from app.webhook.projection import Door

log = structlog.get_logger(__name__)

LARGE_BODY = 128 * 1024
_KNOWN_UNKNOWNS = 100  # keys that get a metric of their own: a stranger must not be able to make many


class DeliveryReader:
    """Turns bodies into what is written."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()

    async def read(self, door: Door, body: bytes) -> Ingest:
        """Read a body; other requests don't wait for a large one."""
        if len(body) < LARGE_BODY:
            return self.read_at_once(door, body)
        return await asyncio.to_thread(self.read_at_once, door, body)

    def read_at_once(self, door: Door, body: bytes) -> Ingest:
        """Read a body. Never raises: what can't be read becomes a dead letter."""
        reading = read_body(body, door)
        for kind in reading.kinds:
            _count_item(kind)
        if reading.unknown:
            self._report_unknown(reading.unknown)
        if reading.dead_letters:
            metrics.DEAD_LETTERS.inc(len(reading.dead_letters))
            log.warning("dead_letters", delivery=str(door.id), letters=[r for _, r in reading.dead_letters[:5]])
        return Ingest(door.day, door.id, door.received_at, body, reading.items, reading.dead_letters, reading.tests)

    def _report_unknown(self, keys: Sequence[str]) -> None:
        """Count keys that this version does not know, and say so at first sight of each."""
        for key in keys:
            name = key[:60]
            if name not in self._unknown:
                if len(self._unknown) >= _KNOWN_UNKNOWNS:
                    name = "other"
                else:
                    self._unknown.add(name)
                    log.warning("unknown_item", key=name, advice="kept raw as an event; a later version can replay it")
            metrics.UNKNOWN_ITEMS.labels(name).inc()


_ITEM_COUNTERS: dict[str, Counter] = {}


def _count_item(kind: str) -> None:
    counter = _ITEM_COUNTERS.get(kind)
    if counter is None:
        counter = _ITEM_COUNTERS[kind] = metrics.ITEMS.labels(kind)
    counter.inc()
