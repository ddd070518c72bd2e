"""What rows must exist: the world's answer to a mirror, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simulator.attachments import Attachment
    from simulator.message import State
    from simulator.places import Places
    from simulator.thread import Thread


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


class Truth(NamedTuple):
    """What rows of a Page must exist."""

    conversations: list[ConversationTruth]
    messages: list[MessageTruth]


def true_messages(world: Places, page_id: str, at: int) -> Iterator[MessageTruth]:
    """Yield every message that must have a row, one conversation after the other, oldest first in each."""
    for thread in world.threads(world.page(page_id), at):
        yield from true_messages_of(page_id, thread, at)


def true_messages_of(page_id: str, thread: Thread, at: int) -> Iterator[MessageTruth]:
    """Yield those of one conversation, oldest first."""
    for n in range(thread.count(at)):
        state = thread.state(n, at)
        if state is not None:
            yield _message_truth(page_id, thread, state)


def true_conversations(world: Places, page_id: str, at: int) -> Iterator[ConversationTruth]:
    """Yield every conversation that has a message, newest first."""
    for thread in world.threads(world.page(page_id), at):
        yield true_conversation(page_id, thread, at)


def true_conversation(page_id: str, thread: Thread, at: int) -> ConversationTruth:
    """One conversation that has a message."""
    last = next(thread.newest_first(at), None)
    return ConversationTruth(
        page_id,
        thread.thread_id,
        thread.psid,
        thread.name,
        thread.updated_at(at) or 0,
        sum(1 for _ in thread.newest_first(at)),
        last.message.mid if last else None,
        last.text if last else None,
        thread.read_watermark(at),
        thread.delivered_watermark(at),
        thread.owner_app_id(at),
    )


def _message_truth(page_id: str, thread: Thread, state: State) -> MessageTruth:
    message, is_deleted = state.message, state.deleted_at is not None
    attachments: Iterable[Attachment] = () if is_deleted else message.attachments
    reactions = () if is_deleted else state.reactions
    return MessageTruth(
        page_id,
        thread.thread_id,
        thread.psid,
        message.mid,
        "outbound" if message.is_from_page else "inbound",
        message.at,
        None if is_deleted else state.text,
        tuple(
            AttachmentTruth(a.identity, a.webhook_type, a.graph_type)
            for a in attachments
            if message.is_live or a.graph_type is not None
        ),
        tuple(ReactionTruth(r.actor, r.name or "", r.emoji or "", r.at) for r in reactions),
        state.num_edit,
        is_deleted,
        state.deleted_at,
        None if is_deleted else message.reply_to,
        dict(message.extra or {}) if message.is_live and not is_deleted else {},
        in_graph=not is_deleted,
        in_webhooks=message.is_live or is_deleted,
    )
