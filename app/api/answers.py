"""What the API answers, as models: for `/openapi.json`, and for tests to hold the answers against.

Rows go out as they are read, without a detour through these: field names are the columns' names.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations, here and below
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID  # noqa: TC003

from pydantic import BaseModel, ConfigDict, Field

Platform = Literal["messenger", "instagram", "permissions"]
Direction = Literal["inbound", "outbound"]
RunKind = Literal["incremental", "full", "backfill", "audit"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
AuditState = Literal["verified", "repaired", "unverifiable"]
T = TypeVar("T")


class Told(BaseModel):
    """What the service tells. A field that has no default is always there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(Told, Generic[T]):
    """All of a list."""

    data: list[T]


class Paged(Told, Generic[T]):
    """A page of a list."""

    data: list[T]
    next: str | None = Field(description="pass it as `cursor` to go on; null: this is the end")


class SpoolState(Told):
    """What waits in the spool for Postgres."""

    deliveries: int
    bytes: int
    oldest_seconds: float | None


class Problem(Told):
    """What is refused, and why (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="what is wrong in the request, where one thing is")
    needed_role: Literal["read", "operate", "admin"] | None = Field(None, description="with 403: the role it takes")
    spool: SpoolState | None = Field(None, description="of `/readyz`")


class Readiness(Told):
    """Whether a process can do its work."""

    state: Literal["ready", "degraded"]
    detail: str | None
    spool: SpoolState


class Conversation(Told):
    """A conversation of a person with a Page."""

    page_id: str
    psid: str = Field(description="the person's id for this Page; the thread's id while Graph has not shown the person")
    platform: Platform
    name: str | None
    updated_time: datetime | None
    unread_count: int | None
    message_count: int | None
    can_reply: bool | None
    delivered_watermark: datetime | None
    read_watermark: datetime | None
    last_message_mid: str | None
    last_message_at: datetime | None
    last_message_direction: Direction | None
    snippet: str | None
    is_unread: bool
    created_at: datetime
    updated_at: datetime
    tags: list[str]


class Conversations(Paged[Conversation]):
    """A page of conversations."""

    total: int = Field(0, description="how many there are in all; only with `count=exact`")


class AuditedConversation(Conversation):
    """A conversation, and how it stood when it was last audited."""

    audit_state: AuditState | None
    audited_at: datetime | None
    missing_in_graph: int


class Reaction(Told):
    """A reaction to a message."""

    actor: str
    reaction: str | None
    emoji: str | None
    reacted_at: datetime | None


class Edit(Told):
    """One version of a message that was edited."""

    num_edit: int
    text: str | None
    edited_at: datetime


class Message(Told):
    """A message."""

    page_id: str
    mid: str
    psid: str
    thread_id: str | None
    direction: Direction | None
    origin: Literal["our_app", "other_app", "page_inbox", "unknown"] | None = Field(
        description="who sent it for the Page; null for what the person sent"
    )
    app_id: str | None
    sent_at: datetime
    text: str | None
    attachments: list[dict[str, Any]] | None
    reply_to: str | None
    is_edited: bool
    original_text: str | None
    edits: list[Edit]
    reactions: list[Reaction]
    is_delivered: bool | None
    is_read: bool | None
    is_deleted: bool
    deleted_at: datetime | None
    missing_in_graph_since: datetime | None
    first_seen_via: Literal["webhook", "sync"] | None
    first_seen_at: datetime | None
    webhook_seen_at: datetime | None
    sync_seen_at: datetime | None
    lateness_seconds: float | None
    updated_at: datetime


class Tag(Told):
    """A tag, and how many conversations carry it."""

    id: int
    name: str
    colour: str | None
    created_at: datetime
    conversations: int


class ConversationId(Told):
    """Which conversation."""

    page_id: str
    psid: str


class Tagged(Told):
    """How many tags were put on and taken off; `unknown` are conversations that there are none of."""

    added: int
    removed: int
    unknown: list[ConversationId]


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
    failed_conversations: int
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


class BackfillWithRuns(Backfill):
    """A backfill with the run of each Page."""

    runs: list[Run]


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


class DeadLetter(Told):
    """Where in a body something could not be read, and why."""

    path: str
    reason: str


class Delivery(Told):
    """A journaled delivery, without its body."""

    id: UUID
    received_at: datetime
    state: Literal["stored", "partial", "dead", "test"]
    items: int
    dead_letters: list[DeadLetter] | None
    replayed_at: datetime | None
    bytes: int


class DeliveryWithBody(Delivery):
    """A journaled delivery with its raw body."""

    encoding: Literal["utf-8", "base64"] = Field(description="how the bytes are written in `body`")
    body: str


class Replayed(Told):
    """What a replay did."""

    deliveries: int
    still_dead: int
    inserted: int
    updated: int


class DeletionAnswer(Told):
    """What Facebook is told of a request that a person's data go."""

    url: str = Field(description="a page that tells the person how far it is")
    confirmation_code: str


class FacebookRequest(Told):
    """What Facebook asked for by a callback."""

    code: str
    kind: Literal["data_deletion", "deauthorize"]
    user_id: str | None = Field(description="the person's id for this app; null once it is not needed any more")
    page_id: str | None
    received_at: datetime
    state: Literal["received", "done", "unmatched"]
    outcome: str | None
    finished_at: datetime | None
    persons: int = Field(description="how many conversations were erased")


class Key(Told):
    """A key of the API, without what proves it."""

    id: str
    name: str
    role: Literal["read", "operate", "admin"]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class NewKey(Key):
    """A key that was just made."""

    key: str = Field(description="what to send as `Authorization: Bearer`; shown this once, and stored nowhere")
