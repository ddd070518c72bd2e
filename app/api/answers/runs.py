"""What is told of sync runs and backfills."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Literal
from uuid import UUID  # noqa: TC003

from pydantic import Field

from app.api.answers.common import Told

RunKind = Literal["incremental", "full", "backfill", "audit"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class AuditFindings(Told):
    """What an audit found; the coverage comes at its end."""

    conversations_verified: int
    conversations_repaired: int
    conversations_unverifiable: int
    messages_restored: int
    messages_changed: int
    messages_missing: int
    coverage: float | None = None
    coverage_days: int = 0
    oldest_audited_at: datetime | None = None


class Run(Told):
    """A sync run: one pass over one Page."""

    id: int
    page_id: str
    kind: RunKind
    state: RunState
    since: datetime | None
    until: datetime | None
    backfill_ids: list[UUID]
    requested_by: Literal["schedule", "api", "cli"]
    conversations: int
    messages: int
    inserted: int
    repaired: int
    api_calls: int
    call_budget: int | None
    failed_conversations: int = Field(description="that it could not read")
    failing_conversations: int = Field(description="of its Page, that could not be read when it ended")
    untried_conversations: int = Field(description="of these, those that it did not try: they keep failing, and wait")
    order_violated: bool
    audit: AuditFindings | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None


class Backfill(Told):
    """An operator's request to read a window of the past again."""

    id: UUID
    since: datetime
    until: datetime | None
    page_ids: list[str]
    requested_by: Literal["api", "cli"]
    requested_at: datetime
    state: Literal["running", "succeeded", "failed", "cancelled"]
    pages_ended: int
    pages_failed: int
    conversations: int
    messages: int
    inserted: int
    repaired: int


class Estimate(Told):
    """What a backfill still needs, by what is stored of its Pages."""

    calls: int | None = Field(description="of Graph, about; null while it can't be told")
    calls_at_least: int
    seconds: float | None = Field(description="about, from when it is its turn; null while it can't be told")
    unknown: list[str] = Field(description="what the numbers leave out or guess")


class BackfillWithRuns(Backfill):
    """A backfill with the run of each Page."""

    estimate: Estimate | None = Field(description="null once it has ended")
    runs: list[Run]
