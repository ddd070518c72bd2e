"""A message as it came into the world, and what happened to it since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from simulator.attachments import Attachment

REACTIONS = {"smile": "😆", "angry": "😠", "sad": "😢", "wow": "😮", "love": "❤", "like": "👍", "dislike": "👎"}
MAX_EDITS = 5  # the client's limit (webhooks sheet, 5.3)


class Message(NamedTuple):
    """A message as it was sent. `at` is in epoch milliseconds; `is_live` when webhooks told of it.

    `extra` is what only webhooks carry: `quick_reply`, `referral`, `app_id`, `metadata`, `postback`; and
    `is_unsupported`, which Graph shows too.
    """

    n: int
    mid: str
    is_from_page: bool
    at: int
    text: str | None
    attachments: tuple[Attachment, ...] = ()
    reply_to: str | None = None
    extra: dict[str, Any] | None = None
    is_live: bool = False


class Reaction(NamedTuple):
    """What one actor did: `emoji` is None for a removal."""

    at: int
    actor: str
    name: str | None
    emoji: str | None


class Changes:
    """What happened to one message since: lists in order of time, so that any moment's state can be told."""

    __slots__ = ("deleted_at", "edits", "reactions")

    def __init__(self) -> None:
        self.edits: list[tuple[int, int, str]] = []  # at, num_edit, text
        self.reactions: list[Reaction] = []
        self.deleted_at: int | None = None


class State(NamedTuple):
    """A message as it is at a moment."""

    message: Message
    text: str | None
    num_edit: int
    reactions: tuple[Reaction, ...]  # one per actor, sorted by actor
    deleted_at: int | None
    is_changed_live: bool  # a webhook told of an edit, a reaction or the unsend


class Base(NamedTuple):
    """What had happened to a message of the history before the world began: no webhook told."""

    num_edit: int = 0
    reactions: tuple[Reaction, ...] = ()
    is_gone: bool = False


UNTOUCHED = Base()


def state_of(message: Message, base: Base, changes: Changes | None, at: int) -> State:
    """Return a message's state at a moment, in epoch milliseconds."""
    if changes is None:
        return State(message, message.text, base.num_edit, base.reactions, None, False)
    text, num_edit = message.text, base.num_edit
    for edited_at, number, new_text in changes.edits:
        if edited_at <= at:
            text, num_edit = new_text, number
    reactions = {reaction.actor: reaction for reaction in base.reactions}
    seen = False
    for reaction in changes.reactions:
        if reaction.at <= at:
            reactions[reaction.actor] = reaction
            seen = True
    deleted_at = changes.deleted_at if changes.deleted_at is not None and changes.deleted_at <= at else None
    current = tuple(reactions[actor] for actor in sorted(reactions) if reactions[actor].emoji is not None)
    is_changed = seen or deleted_at is not None or num_edit != base.num_edit
    return State(message, text, num_edit, current, deleted_at, is_changed)
