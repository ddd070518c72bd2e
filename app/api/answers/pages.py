"""What is told of Pages, and of what webhooks missed of them."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Literal

from pydantic import Field

from app.api.answers.common import Told


class Coverage(Told):
    """How much of a Page is verified."""

    conversations: int
    verified: int
    unverifiable: int
    never_audited: int
    oldest_audited_at: datetime | None
    missing_in_graph: int
    coverage: float | None
    coverage_days: int


class LossToday(Told):
    """What webhooks missed of a Page since midnight, UTC."""

    sent: int
    missed: int
    repaired: int
    loss_percent: float | None


class Page(Told):
    """A Page that is mirrored."""

    page_id: str
    name: str | None
    state: Literal["active", "paused", "needs_reauth"]
    state_reason: str | None
    subscribed_at: datetime
    watermark: datetime | None
    last_synced_at: datetime | None
    next_sync_at: datetime
    sync_interval_seconds: float | None
    daily_call_budget: int | None
    calls_last_day: int
    usage_percent: float | None
    failing_conversations: int = Field(description="that could not be read when its last run ended")
    cooldown_until: datetime | None = Field(description="until when Graph is not called for it")
    cooldown_reason: str | None
    last_webhook_at: datetime | None
    subscription_is_wanted: bool = Field(description="false: its owner ended its webhooks")
    subscription_checked_at: datetime | None
    subscribed_fields: list[str] | None
    refused_fields: list[str] | None
    subscription_error: str | None
    created_at: datetime
    updated_at: datetime
    audit: Coverage
    loss_today: LossToday


class ImportedPage(Told):
    """What became of a Page that Graph listed for a person."""

    page_id: str
    name: str | None
    outcome: Literal["added", "updated", "skipped"]
    reason: str | None


class Lateness(Told):
    """How many seconds after it was sent a message was first seen."""

    p50: float
    p95: float
    max: float


class LossHour(Told):
    """What webhooks missed of one Page in one hour."""

    page_id: str
    hour: datetime
    sent: int
    sent_inbound: int
    sent_outbound: int
    by_webhook: int
    missed: int
    repaired: int
    late: int
    undecided: int
    loss_percent: float | None
    webhook_lateness: Lateness | None
    repair_lateness: Lateness | None


class Outage(Told):
    """A window in which a Page's messages were missed one after the other."""

    page_id: str
    began_at: datetime
    ended_at: datetime
    missed: int
    repaired: int
    repaired_at: datetime | None


class Loss(Told):
    """The loss report of a window."""

    since: datetime
    until: datetime
    missed_after_seconds: int
    data: list[LossHour]
    outages: list[Outage]
