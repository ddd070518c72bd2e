"""The row types that both doors produce, and that the bulk upsert writes.

Named tuples, in the order of the database's row types. Fields that are JSON registers hold JSON text or
None; `sql/migrations/0001_*` says what each register is. Times are aware datetimes; all ids are text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime
    from uuid import UUID

SENT_BY_WEBHOOK_CLOCK = 0
SENT_BY_GRAPH_CLOCK = 1
SENT_ESTIMATED = 2
SENT_UNKNOWN = 9


class Delivery(NamedTuple):
    """One journaled POST of Facebook. `id` and `received_at` are given at the door and kept for ever."""

    day: date
    id: UUID
    received_at: datetime
    body: bytes
    state: str
    items: int
    dead_letters: str | None


class Thread(NamedTuple):
    """A thread that Graph listed. `psid` is None when no answer named the person; the thread id then stands in."""

    page_id: str
    thread_id: str
    psid: str | None


class Conversation(NamedTuple):
    """A conversation to create or lock, and what is known of it.

    `graph` is the register `{field: [updated_time_ms, observed_ms, value]}`.
    """

    page_id: str
    psid: str
    platform: str
    graph: str | None = None
    delivered_watermark: datetime | None = None
    read_watermark: datetime | None = None


class Message(NamedTuple):
    """What one item, or one row of Graph, tells of a message. With no `sent_at` it is a placeholder.

    `psid` is the thread's id where Graph did not show the person, and None in an unsend, edit or reaction of nobody's.
    """

    page_id: str
    mid: str
    psid: str | None
    thread_id: str | None = None
    direction: str | None = None
    sent_at: datetime | None = None
    sent_at_rank: int = SENT_UNKNOWN
    deleted_at: datetime | None = None
    deleted_at_is_estimated: bool = False
    original: str | None = None
    edits: str | None = None
    graph: str | None = None
    links: str | None = None
    webhook_seen_at: datetime | None = None
    sync_seen_at: datetime | None = None
    delivery_day: date | None = None
    delivery_id: UUID | None = None


class Reaction(NamedTuple):
    """A reaction put on a message or taken off it, as a webhook told it."""

    page_id: str
    mid: str
    actor: str
    reaction: str | None
    emoji: str | None
    is_removed: bool
    reacted_at: datetime
    reacted_at_is_estimated: bool
    delivery_day: date
    delivery_id: UUID


class Event(NamedTuple):
    """Any other item, kept whole. `psid` is None where Facebook named no person."""

    page_id: str
    event_key: str
    psid: str | None
    kind: str
    via: str
    mid: str | None
    occurred_at: datetime
    occurred_at_is_estimated: bool
    payload: str
    received_at: datetime
    delivery_day: date
    delivery_id: UUID


Row: TypeAlias = Thread | Conversation | Message | Reaction | Event


class Rows:
    """A batch of rows of all kinds, in any order, with any repetitions."""

    __slots__ = ("conversations", "events", "messages", "reactions", "threads")

    def __init__(self) -> None:
        self.threads: list[Thread] = []
        self.conversations: list[Conversation] = []
        self.messages: list[Message] = []
        self.reactions: list[Reaction] = []
        self.events: list[Event] = []

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not any(getattr(self, kind) for kind in self.__slots__)

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows of any kinds."""
        for row in rows:
            getattr(self, _KINDS[type(row)]).append(row)


_KINDS = {
    Thread: "threads",
    Conversation: "conversations",
    Message: "messages",
    Reaction: "reactions",
    Event: "events",
}


class Counts(NamedTuple):
    """What an upsert did to messages and events: rows new, rows that now read differently, rows left as they were."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: object) -> Counts:
        """Add field by field."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: object) -> Counts:
        """Subtract field by field."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))
