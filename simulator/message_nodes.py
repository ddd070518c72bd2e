"""Messages as Graph shows them. A field without data is left out."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from simulator.attachments import graph_node, graph_share
from simulator.clock import graph_time
from simulator.dice import mix
from simulator.fields import Field
from simulator.graph_errors import GraphFailure, no_such_field
from simulator.reading import Window, inner_fields, read_fields, read_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.behaviour import Behaviour
    from simulator.message import State
    from simulator.page import Page
    from simulator.reading import Reading
    from simulator.thread import Thread

_PRIVACY = "Media not available due to new privacy rules in Europe. See in Messenger."
MESSAGE_FIELDS = {
    "id", "created_time", "from", "to", "message", "attachments", "sticker", "tags", "shares", "reactions", "story",
    "is_unsupported",
}  # fmt: skip


def messages_edge(
    reading: Reading, thread: Thread, window: Window, fields: tuple[Field, ...], source: str | None
) -> dict[str, Any]:
    """`GET /{thread}/messages`, and the same nested: newest first, with a paging of its own."""
    place = f"messages/{thread.thread_id}"
    if window.before is not None:
        newer = reading.position(window.before, place)[0]
        states = list(islice(thread.oldest_first(reading.at, above=newer), window.limit + 1))
        has_previous, has_next = len(states) > window.limit, True
        states = states[: window.limit][::-1]
    else:
        below = reading.position(window.after, place)[0] if window.after is not None else None
        states = list(islice(thread.newest_first(reading.at, below=below), window.limit + 1))
        has_previous, has_next = below is not None, len(states) > window.limit
        states = states[: window.limit]
    data = [message_node(reading, thread, state, fields, is_row=True) for state in states]
    if not data:
        return {"data": data}
    ends = (reading.cursor(place, states[0].message.n), reading.cursor(place, states[-1].message.n))
    path = f"{thread.thread_id}/messages"
    return {
        "data": data,
        "paging": reading.paging(path, ends, window, source, has_next=has_next, has_previous=has_previous),
    }


def check_message_fields(behaviour: Behaviour, fields: tuple[Field, ...]) -> None:
    """Refuse a field that messages do not have.

    Raises:
        GraphFailure: 100, naming it.

    """
    for field in fields:
        if field.name not in MESSAGE_FIELDS and not (field.name == "reply_to" and behaviour.has_reply_to):
            raise no_such_field(field.name, "Message")
        inner_fields(field, None)


def message_node(
    reading: Reading, thread: Thread, state: State, fields: tuple[Field, ...], *, is_row: bool = False
) -> dict[str, Any]:
    """`GET /{message}`, and each row of an edge."""
    message = state.message
    stub = {"id": message.mid, "created_time": graph_time(message.at)}
    if not fields:
        return stub
    if reading.behaviour.twenty_newest and _is_beyond_twenty(reading, thread, message.n):
        if is_row:
            return stub
        raise GraphFailure(100, "The message has been deleted", subcode=33, kind="GraphMethodException")
    node: dict[str, Any] = {}
    for field in fields:
        getter = _MESSAGE.get(field.name)
        value = inner_fields(field, getter(reading, thread, state)) if getter else None
        if field.name == "attachments" and value is not None:
            value = _some_attachments(reading, message.mid, field, value)
        if value is not None:
            node[field.name] = value
    node.setdefault("id", message.mid)
    return node


def _is_beyond_twenty(reading: Reading, thread: Thread, n: int) -> bool:
    newest = [state.message.n for state in islice(thread.newest_first(reading.at), 20)]
    return len(newest) == 20 and n < newest[-1]


def _from(reading: Reading, thread: Thread, state: State) -> dict[str, Any]:
    return page_as_person(reading.page) if state.message.is_from_page else person(thread)


def _to(reading: Reading, thread: Thread, state: State) -> dict[str, Any]:
    return {"data": [person(thread) if state.message.is_from_page else page_as_person(reading.page)]}


def _attachments(reading: Reading, _: Thread, state: State) -> dict[str, Any] | None:
    nodes = []
    for attachment in state.message.attachments:
        node = graph_node(attachment, reading.world.cdn, reading.now)
        if node is not None and mix(attachment.asset, 7) % 1000 < reading.behaviour.hides_media * 1000:
            node = {"id": node["id"], "name": _PRIVACY}
        if node is not None:
            nodes.append(node)
    return {"data": nodes} if nodes else None


def _some_attachments(reading: Reading, mid: str, field: Field, edge: dict[str, Any]) -> dict[str, Any]:
    """Attachments are an edge of their own, with a paging of its own.

    Its `next` is there though nothing follows, as in what real Graph answered (pyfacebook's message_info.json).
    """
    window, place = read_window(field.modifiers, reading.behaviour), f"attachments/{mid}"
    start = reading.position(window.after, place)[0] if window.after is not None else 0
    end = start + window.limit
    rows = edge["data"][start:end]
    if not rows:
        return {"data": []}
    ends = (reading.cursor(place, start), reading.cursor(place, end))
    more = reading.paging(f"{mid}/attachments", ends, window, field.inner_source, has_next=True, has_previous=start > 0)
    return {"data": rows, "paging": more}


def _sticker(reading: Reading, _: Thread, state: State) -> str | None:
    stickers = [a for a in state.message.attachments if a.kind == "sticker"]
    return reading.world.cdn.sign(stickers[0], "graph", reading.now) if stickers else None


def _shares(_: Reading, __: Thread, state: State) -> dict[str, Any] | None:
    shares = [share for a in state.message.attachments if (share := graph_share(a)) is not None]
    return {"data": shares} if shares else None


def _tags(_: Reading, __: Thread, state: State) -> dict[str, Any]:
    source = ("source:chat", "source:web", "source:mobile")[state.message.n % 3]
    names = ("inbox", "sent", source) if state.message.is_from_page else ("inbox", "read", source)
    return {"data": [{"name": name} for name in names]}


def _reactions(_: Reading, thread: Thread, state: State) -> dict[str, Any] | None:
    by_name: dict[str, list[dict[str, str]]] = {}
    for reaction in state.reactions:
        by_name.setdefault(reaction.name or "other", []).append({"id": reaction.actor, "username": thread.name})
    return {"data": [{"reaction": name, "users": users} for name, users in by_name.items()]} if by_name else None


_MESSAGE: dict[str, Callable[[Reading, Thread, State], Any]] = {
    "id": lambda _, __, state: state.message.mid,
    "created_time": lambda _, __, state: graph_time(state.message.at),
    "from": _from,
    "to": _to,
    "message": lambda _, __, state: state.text or "",  # "" when there are only attachments (2.2)
    "attachments": _attachments,
    "sticker": _sticker,
    "shares": _shares,
    "tags": _tags,
    "reactions": _reactions,
    "is_unsupported": lambda _, __, state: (state.message.extra or {}).get("is_unsupported"),
    "reply_to": lambda _, __, state: {"id": state.message.reply_to} if state.message.reply_to else None,
}


def edge_of_message(
    reading: Reading, thread: Thread, state: State, name: str, params: dict[str, str]
) -> dict[str, Any]:
    """`GET /{message}/attachments` and the like: an edge of a message by itself."""
    source = params.get("fields")
    field = Field(
        name, {k: v for k, v in params.items() if k in {"limit", "after"}}, read_fields(source) or None, source
    )
    node = message_node(reading, thread, state, (field,))
    edge: dict[str, Any] = node.get(name, {"data": []})
    return edge


def person(thread: Thread) -> dict[str, str]:
    """A conversation's person, as a participant or sender."""
    return {"name": thread.name, "email": f"{thread.psid}@facebook.com", "id": thread.psid}


def page_as_person(page: Page) -> dict[str, str]:
    """The Page, likewise."""
    return {"name": page.name, "email": f"{page.id}@facebook.com", "id": page.id}
