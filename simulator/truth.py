"""What rows must exist: the world's answer to a mirror, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class AttachmentTruth:
    """`identity` stands in every form of the attachment and in no other's; a type is None where a door shows none."""

    identity: str
    webhook_type: str
    graph_type: str | None


@dataclass(frozen=True, slots=True)
class ReactionTruth:
    """One actor's present reaction. Graph tells the name only."""

    actor: str
    reaction: str
    emoji: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class MessageTruth:
    """A message that must have a row.

    `in_graph`: Graph shows it now. `in_webhooks`: an item carried it (whether that was delivered is the sender's to
    know). A message of the past is in Graph only, so a mirror knows its time in whole seconds: `graph_sent_at_ms`.
    An unsent message has neither text nor attachments, and is not in Graph; only a webhook can tell that it was.
    `reply_to`, `extra` (app_id, metadata, quick_reply, referral, postback) and `deleted_at_ms` are told by webhooks
    only, and so are attachments whose `graph_type` is None: `attachments_at` says what a door shows.
    """

    page_id: str
    thread_id: str
    psid: str
    mid: str
    direction: Literal["inbound", "outbound"]
    sent_at_ms: int
    text: str | None
    attachments: tuple[AttachmentTruth, ...]
    reactions: tuple[ReactionTruth, ...]
    num_edit: int
    is_deleted: bool
    deleted_at_ms: int | None
    reply_to: str | None
    extra: dict[str, Any]
    in_graph: bool
    in_webhooks: bool

    def attachments_at(self, *, webhook: bool) -> tuple[AttachmentTruth, ...]:
        """The attachments that a mirror can know: all if a webhook brought the message, else what Graph shows."""
        return self.attachments if webhook else tuple(a for a in self.attachments if a.graph_type is not None)

    @property
    def graph_sent_at_ms(self) -> int:
        """The time as Graph shows it: whole seconds."""
        return self.sent_at_ms // 1000 * 1000


@dataclass(frozen=True, slots=True)
class ConversationTruth:
    """A conversation that must have a row. The last message is the newest by (time, mid) that was not unsent.

    Watermarks and owner are told by webhooks only; `owner_app_id` is None until a handover.
    """

    page_id: str
    thread_id: str
    psid: str
    name: str
    updated_time_ms: int
    messages: int
    last_mid: str | None
    last_text: str | None
    read_watermark_ms: int | None
    delivered_watermark_ms: int | None
    owner_app_id: str | None
