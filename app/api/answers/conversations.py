"""What is told of conversations, their messages and their tags."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Any, Literal

from pydantic import Field

from app.api.answers.common import Paged, Told

Platform = Literal["messenger", "instagram", "permissions"]
Direction = Literal["inbound", "outbound"]
AuditState = Literal["verified", "repaired", "unverifiable"]


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
