"""Compare the mirror with the truth of the simulated Facebook, field by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from sql.json_values import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import asyncpg

    from simulator.truth import ConversationTruth, MessageTruth

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Difference(NamedTuple):
    """One thing that is missing or wrong. `kind` is `missing`, `wrong` or `unknown`."""

    page_id: str
    key: str
    kind: str
    what: str


def at(milliseconds: int) -> datetime:
    """An instant of the simulator's."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def compare_messages(
    page_id: str, truth: Iterable[MessageTruth], rows: Iterable[asyncpg.Record], delivered: Mapping[str, set[str]]
) -> Iterator[Difference]:
    """Yield what differs of one Page's messages. `delivered` says per mid which kinds of items reached the mirror.

    What Facebook does not show, and told of in no delivery that arrived, nobody can know: an unsend that was withheld,
    and all of a message that was unsent before anybody read it.
    """
    stored = {row["mid"]: row for row in rows}
    for message in truth:
        row = stored.pop(message.mid, None)
        told = delivered.get(message.mid, set())
        if message.is_deleted and "unsend" not in told:
            continue
        if row is None:
            if not message.is_deleted:  # else only that it was unsent is known: a placeholder
                yield Difference(page_id, message.mid, "missing", "the message")
            continue
        for what in _wrong(message, row, told):
            yield Difference(page_id, message.mid, "wrong", what)
    for mid in stored:
        yield Difference(page_id, mid, "unknown", "a message that Facebook does not have")


def _wrong(message: MessageTruth, row: asyncpg.Record, told: set[str]) -> Iterator[str]:
    came_live = bool(told & {"message", "echo", "postback"})
    expected = {
        "psid": message.psid,
        "direction": message.direction,
        "sent_at": at(message.sent_at_ms if came_live else message.graph_sent_at_ms),
        "is_deleted": message.is_deleted,
        "text": message.text,
    }
    for name, value in expected.items():
        if row[name] != value:
            yield f"{name} is {row[name]!r}, not {value!r}"
    attachments = [dumps(a) for a in row["attachments"] or []]
    known = message.attachments_at(webhook=came_live)
    if len(attachments) != len(known):
        yield f"{len(attachments)} attachments, not {len(known)}"
    elif not all(a.identity in text for a, text in zip(known, attachments, strict=True)):
        yield "other attachments"
    if came_live and row["reply_to"] != message.reply_to:
        yield f"reply_to is {row['reply_to']!r}, not {message.reply_to!r}"
    reactions = {actor: {name, emoji} for actor, name, emoji in row["reactions"] or []}
    if reactions.keys() != {r.actor for r in message.reactions}:
        yield f"reactions by {sorted(reactions)}, not by {sorted(r.actor for r in message.reactions)}"
    elif not all(reactions[r.actor] & {r.reaction, r.emoji} for r in message.reactions):
        yield "other reactions"


def compare_conversations(
    page_id: str,
    truth: Iterable[ConversationTruth],
    rows: Iterable[asyncpg.Record],
    watermarks: Mapping[tuple[str, str], datetime],
) -> Iterator[Difference]:
    """Yield what differs of one Page's conversations. `watermarks`: the newest delivered, {(psid, kind): time}."""
    stored = {row["psid"]: row for row in rows}
    for conversation in truth:
        key = conversation.psid
        row = stored.pop(key, None)
        if row is None:
            yield Difference(page_id, key, "missing", "the conversation")
            continue
        expected = {
            "name": conversation.name,
            "read_watermark": watermarks.get((key, "read")),
            "delivered_watermark": watermarks.get((key, "delivery")),
        }
        for name, value in expected.items():
            if row[name] != value:
                yield Difference(page_id, key, "wrong", f"{name} is {row[name]!r}, not {value!r}")
    for psid in stored:
        yield Difference(page_id, psid, "unknown", "a conversation that Facebook does not have")
