"""Make a delivery durable: in Postgres, or in the spool while Postgres can't take it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from app import metrics
from app.webhook.group_commit import NotDurableError
from sql.spool import Spooled, SpoolError

if TYPE_CHECKING:
    from app.webhook.delivery_reader import DeliveryReader
    from app.webhook.group_commit import GroupCommit
    from app.webhook.projection import Door
    from sql.ingest import Ingest
    from sql.spool import Spool

log = structlog.get_logger(__name__)


class Durable:
    """Two places for a delivery: while one takes it, it is acknowledged.

    Once Postgres is known to be away, deliveries go straight to the spool, until whoever drains that has committed
    something and says `came_back`.
    """

    def __init__(
        self, group_commit: GroupCommit, spool: Spool, reader: DeliveryReader, *, is_away: bool = False
    ) -> None:
        self._spool, self._reader = spool, reader
        self.group_commit = group_commit
        self._is_away = is_away

    @property
    def is_away(self) -> bool:
        """Whether Postgres is known to take nothing."""
        return self._is_away

    def went_away(self, reason: str) -> None:
        """Send what comes to the spool from now on."""
        if not self._is_away:
            log.warning("postgres_away", reason=reason, what_follows="deliveries are kept in the spool")
        self._is_away = True

    def came_back(self) -> None:
        """Send what comes to Postgres from now on."""
        if self._is_away:
            log.info("postgres_back", spooled=self._spool.depth)
        self._is_away = False

    async def keep(self, door: Door, body: bytes, *, began: float | None = None) -> Ingest | None:
        """Return once the delivery is durable: itself where Postgres has it, None where the spool has.

        `began` is `time.monotonic()` of the request's first byte.

        Raises:
            NotDurableError: neither takes it; Facebook has to send it again.

        """
        failure: NotDurableError | None = None
        if not self._is_away:
            try:
                return await self._commit(door, body, began)
            except NotDurableError as error:
                failure = error
                if error.is_away:
                    self.went_away(str(error))
        try:
            await self._spool.put(Spooled(door.id, door.received_at, body))
        except SpoolError as error:
            if failure is not None:
                raise NotDurableError(f"{failure}; {error}") from error
            # the spool was the first choice, but Postgres may just have come back
            stored = await self._commit(door, body, began)
            self.came_back()
            return stored
        metrics.SPOOLED.inc()
        measure(self._spool)
        return None

    async def _commit(self, door: Door, body: bytes, began: float | None) -> Ingest:
        delivery = await self._reader.read(door, body)
        await self.group_commit.commit(delivery, began=began)
        return delivery


def measure(spool: Spool, now: datetime | None = None) -> None:
    """Put what the spool holds into the metrics."""
    oldest = spool.oldest
    age = ((now or datetime.now(UTC)) - oldest).total_seconds() if oldest is not None else 0.0
    metrics.SPOOL_DELIVERIES.set(spool.depth)
    metrics.SPOOL_BYTES.set(spool.bytes)
    metrics.SPOOL_AGE_SECONDS.set(max(age, 0.0))
