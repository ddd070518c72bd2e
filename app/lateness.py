"""How late messages are: from Facebook's clock when they were sent to the commit here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app import metrics
from sql.rows import SENT_BY_WEBHOOK_CLOCK, Message

if TYPE_CHECKING:
    from sql.ingest import Ingest


def note_lateness(delivery: Ingest, now: datetime | None = None) -> None:
    """Count how late each message of a delivery was that was just committed, by its own time."""
    committed_at = now or datetime.now(UTC)
    for item in delivery.items:
        for row in item.rows:
            if isinstance(row, Message) and row.sent_at is not None and row.sent_at_rank == SENT_BY_WEBHOOK_CLOCK:
                metrics.LATENESS_SECONDS.observe(max((committed_at - row.sent_at).total_seconds(), 0.0))
