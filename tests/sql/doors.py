"""What both doors tell, as rows: webhook items through the reader, nodes of Graph as the walk turns them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from app.webhook.projection import Door
from app.webhook.reader import read_body
from reconciler.graph.payload import ConversationNode, MessageNode
from reconciler.graph.rows import conversation_row, message_row, person_of, thread_row
from sql.rows import Row, Rows
from sql.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sql.rows import Counts
    from sql.upsert import Connection

PAGE = "101"
PERSON = "7001"
THREAD = "t_31"
MID = "m_one"
START = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
APPLICATION = 4400
NOBODY: dict[str, Any] = {"from": None, "to": None}  # of a node that tells no parties


def at(seconds: float) -> datetime:
    """So many seconds after the tests' first moment."""
    return START + timedelta(seconds=seconds)


def ms(seconds: float) -> int:
    """The same as Facebook's webhooks write it."""
    return round(at(seconds).timestamp() * 1000)


def graph_time(seconds: float) -> str:
    """The same as Graph writes it: whole seconds, an offset without colon."""
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%S+0000")


# -- webhooks -----------------------------------------------------------------------------------------------------


def delivered(
    *items: dict[str, Any],
    page_id: str = PAGE,
    via: str = "messaging",
    number: int = 1,
    received: float = 60.0,
    entry_time: float | None = 30.0,
    kind: str = "page",
) -> list[Row]:
    """The rows of one delivery with these items; `number` is its identity."""
    entry: dict[str, Any] = {"id": page_id, via: list(items)}
    if entry_time is not None:
        entry["time"] = ms(entry_time)
    body = json.dumps({"object": kind, "entry": [entry]}).encode()
    received_at = at(received)
    reading = read_body(body, Door(received_at, received_at.date(), UUID(int=number)))
    assert not reading.dead_letters, reading.dead_letters
    return [row for item in reading.items for row in item.rows]


def item(
    key: str,
    value: dict[str, Any],
    *,
    seconds: float | None = 0.0,
    person: str = PERSON,
    page_id: str = PAGE,
    from_page: bool = False,
) -> dict[str, Any]:
    """One item of `messaging`; with no `seconds` it carries no time of its own."""
    sender, recipient = (page_id, person) if from_page else (person, page_id)
    made: dict[str, Any] = {"sender": {"id": sender}, "recipient": {"id": recipient}, key: value}
    if seconds is not None:
        made["timestamp"] = ms(seconds)
    return made


def said(text: str | None = "hello", *, mid: str = MID, seconds: float | None = 0.0, **more: Any) -> dict[str, Any]:
    """A person's message; `more` goes into it."""
    message = {"mid": mid, **({"text": text} if text is not None else {}), **more}
    return item("message", message, seconds=seconds)


def echoed(text: str = "hello", *, mid: str = MID, seconds: float | None = 0.0, **more: Any) -> dict[str, Any]:
    """A message of the Page's."""
    message = {"mid": mid, "text": text, "is_echo": True, "app_id": APPLICATION, **more}
    return item("message", message, seconds=seconds, from_page=True)


def unsent(*, mid: str = MID, seconds: float | None = 0.0) -> dict[str, Any]:
    """A person's taking back of a message."""
    return item("message", {"mid": mid, "is_deleted": True}, seconds=seconds)


def edited(text: str, *, number: int = 1, mid: str = MID, seconds: float | None = 0.0) -> dict[str, Any]:
    """A person's edit of a message."""
    return item("message_edit", {"mid": mid, "text": text, "num_edit": number}, seconds=seconds)


def reacted(emoji: str, *, mid: str = MID, seconds: float | None = 0.0, person: str = PERSON) -> dict[str, Any]:
    """A person's reaction."""
    value = {"mid": mid, "action": "react", "emoji": emoji, "reaction": "other"}
    return item("reaction", value, seconds=seconds, person=person)


def unreacted(*, mid: str = MID, seconds: float | None = 0.0) -> dict[str, Any]:
    """A person's taking back of a reaction."""
    return item("reaction", {"mid": mid, "action": "unreact"}, seconds=seconds)


# -- Graph --------------------------------------------------------------------------------------------------------


def node(text: str | None = "hello", *, mid: str = MID, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    """A message as Graph shows it, from the person unless `more` says otherwise."""
    message = {"id": mid, "created_time": graph_time(seconds), "from": {"id": PERSON}, "to": {"data": [{"id": PAGE}]}}
    return message | ({"message": text} if text is not None else {}) | more


def stub(*, mid: str = MID, seconds: float = 0.0) -> dict[str, Any]:
    """A message of which Graph shows nothing but that it is."""
    return {"id": mid, "created_time": graph_time(seconds)}


def thread(*, updated: float = 0.0, person: str | None = PERSON, name: str = "Ada", **more: Any) -> dict[str, Any]:
    """A conversation as Graph lists it; without `person` it does not show whose it is."""
    participants = {"participants": {"data": [{"id": PAGE, "name": "Shop"}, {"id": person, "name": name}]}}
    return {"updated_time": graph_time(updated)} | (participants if person is not None else {}) | more


def answered(
    *messages: dict[str, Any],
    listed: dict[str, Any] | None = None,
    page_id: str = PAGE,
    thread_id: str = THREAD,
    observed: float = 100.0,
    now: float = 200.0,
    reactions_asked: bool = False,
) -> list[Row]:
    """The rows of one answer: a thread with its messages, with `listed` as the list shows the thread itself."""
    conversation = ConversationNode.model_validate({"id": thread_id, **listed}) if listed is not None else None
    nodes = [MessageNode.model_validate(message) for message in messages]
    psid = person_of(page_id, conversation, nodes)
    rows: list[Row] = [thread_row(page_id, thread_id, psid)]
    if conversation is not None:
        rows.append(conversation_row(page_id, conversation, psid, at(observed)))
    rows += [
        message_row(page_id, thread_id, psid, n, observed_at=at(observed), now=at(now), asked_reactions=reactions_asked)
        for n in nodes
    ]
    return rows


# -- the database -------------------------------------------------------------------------------------------------


async def write(connection: Connection, *facts: Iterable[Row], now: datetime | None = None) -> Counts:
    """Write facts together, in one transaction."""
    rows = Rows()
    for fact in facts:
        rows.add(fact)
    async with connection.transaction():
        return await upsert(connection, rows, now=now)
