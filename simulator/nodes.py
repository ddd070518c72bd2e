"""Nodes and edges of the Graph API, rendered for the fields that a call asks for. A field without data is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from simulator.attachments import graph_node, graph_share
from simulator.clock import graph_time
from simulator.cursors import new_cursor, read_cursor
from simulator.dice import mix
from simulator.fields import Field, FieldSyntaxError, parse_fields
from simulator.graph_errors import GraphFailure, bad_parameter, no_such_field, too_heavy
from simulator.listing import list_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.behaviour import Behaviour
    from simulator.message import State
    from simulator.page import Page
    from simulator.thread import Thread
    from simulator.world import World

DEFAULT_LIMIT = 25
_DAY_MS = 86_400_000
_EMAIL_HOST = "facebook.com"
_PRIVACY = "Media not available due to new privacy rules in Europe. See in Messenger."
_PERSON_FIELDS = {"id", "name", "email"}
_INNER_FIELDS = {
    "participants": _PERSON_FIELDS,
    "senders": _PERSON_FIELDS,
    "former_participants": _PERSON_FIELDS,
    "from": _PERSON_FIELDS,
    "to": _PERSON_FIELDS,
    "tags": {"name"},
    "reactions": {"reaction", "users"},
    "reply_to": {"id"},
    "shares": {"id", "link", "name", "description", "picture", "template"},
    "attachments": {
        "id", "mime_type", "name", "size", "file_url", "image_data", "video_data", "generic_template",
    },
}  # fmt: skip
THREAD_FIELDS = {
    "id", "updated_time", "link", "message_count", "unread_count", "participants", "senders", "former_participants",
    "can_reply", "is_subscribed", "is_owner", "snippet", "name", "scoped_thread_key", "folder", "wallpaper",
    "linked_group", "messages",
}  # fmt: skip
MESSAGE_FIELDS = {
    "id", "created_time", "from", "to", "message", "attachments", "sticker", "tags", "shares", "reactions", "story",
    "is_unsupported",
}  # fmt: skip


class Window(NamedTuple):
    """Which part of an edge: `limit` rows after, or before, a cursor."""

    limit: int
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One call's view: whose, of which moment, and by which address it came. `at` is in epoch ms, `now` in seconds."""

    world: World
    page: Page
    behaviour: Behaviour
    base: str
    version: str
    token: str
    at: int
    now: int

    def cursor(self, place: str, *position: int) -> str:
        """Make a cursor into an edge."""
        return new_cursor(place, list(position), self.now)

    def position(self, cursor: str, place: str) -> list[int]:
        """Read a cursor into an edge; a `GraphFailure` when it is no good."""
        return read_cursor(cursor, place, self.now, max_age=self.behaviour.cursor_seconds)

    def paging(
        self, path: str, ends: tuple[str, str], window: Window, fields: str | None, **more: Any
    ) -> dict[str, Any]:
        """An edge's `paging`. Its links hold the token and the fields, as the real ones do."""
        query = {"access_token": self.token, "pretty": "0", "limit": str(window.limit), **more.pop("params", {})}
        if fields:
            query["fields"] = fields
        link = f"{self.base}/{self.version}/{path}?"
        paging: dict[str, Any] = {"cursors": {"before": ends[0], "after": ends[1]}}
        if more.get("has_next"):
            paging["next"] = link + urlencode({**query, "after": ends[1]})
        if more.get("has_previous"):
            paging["previous"] = link + urlencode({**query, "before": ends[0]})
        return paging


def read_fields(source: str | None) -> tuple[Field, ...]:
    """Read the parameter `fields`.

    Raises:
        GraphFailure: 2500, its syntax.

    """
    try:
        return parse_fields(source or "")
    except FieldSyntaxError as error:
        raise GraphFailure(2500, str(error)) from None


def read_window(params: dict[str, str], behaviour: Behaviour) -> Window:
    """Read `limit`, `after` and `before`, of a query or of a field's modifiers.

    Raises:
        GraphFailure: 100, `limit` is no positive number.

    """
    text = params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) == 0:
        raise bad_parameter(f"Param limit must be a positive integer, not {text[:20]}")
    return Window(min(int(text), behaviour.max_limit), params.get("after"), params.get("before"))


def check_weight(behaviour: Behaviour, limit: int, fields: tuple[Field, ...]) -> None:
    """Refuse a query that asks for too many rows, those of nested edges counted.

    Raises:
        GraphFailure: 1, "reduce the amount of data".

    """
    if behaviour.max_rows is None:
        return
    rows = limit
    for field in fields:
        if field.name == "messages":
            rows += limit * read_window(field.modifiers, behaviour).limit
    if rows > behaviour.max_rows:
        raise too_heavy()


# -- conversations ------------------------------------------------------------------------------------------------


def conversations_edge(reading: Reading, params: dict[str, str]) -> dict[str, Any]:
    """`GET /{page}/conversations`."""
    behaviour = reading.behaviour
    source = params.get("fields")
    fields, window = read_fields(source), read_window(params, behaviour)
    check_weight(behaviour, window.limit, fields)
    rows = list_threads(reading, params, window)
    data = [thread_node(reading, thread, fields) for thread in rows.threads]
    if rows.ends is None:
        return {"data": data}
    kept = {name: params[name] for name in ("platform", "folder", "user_id", "since", "until") if name in params}
    path = f"{reading.page.id}/conversations"
    paging = reading.paging(
        path, rows.ends, window, source, params=kept, has_next=rows.has_next, has_previous=rows.has_previous
    )
    return {"data": data, "paging": paging}


def thread_node(reading: Reading, thread: Thread, fields: tuple[Field, ...]) -> dict[str, Any]:
    """`GET /{thread}`, and each row of the list."""
    if not fields:
        return {"id": thread.thread_id, "updated_time": graph_time(thread.updated_at(reading.at) or 0)}
    node: dict[str, Any] = {}
    for field in fields:
        if field.name not in THREAD_FIELDS:
            raise no_such_field(field.name, "UnifiedThread")
        if field.name == "messages":
            window = read_window(field.modifiers, reading.behaviour)
            value: Any = messages_edge(reading, thread, window, field.inner or (), field.inner_source)
            value = value if value["data"] else None
        else:
            value = _inner(field, _THREAD[field.name](reading, thread)) if field.name in _THREAD else None
        if value is not None:
            node[field.name] = value
    node.setdefault("id", thread.thread_id)
    return node


def _participants(reading: Reading, thread: Thread) -> dict[str, Any]:
    both = [_person(thread), _page_as_person(reading.page)]
    # the order is not guaranteed (1.2)
    return {"data": both if mix(reading.world.seed, thread.page, thread.number) % 3 else both[::-1]}


def _snippet(reading: Reading, thread: Thread) -> str | None:
    last = next(thread.newest_first(reading.at), None)
    return last.text if last else None


def _unread(reading: Reading, thread: Thread) -> int:
    """How many of the newest 20 messages came after the Page's last one."""
    count = 0
    for state, _ in zip(thread.newest_first(reading.at), range(20), strict=False):
        if state.message.is_from_page:
            break
        count += 1
    return count


def _can_reply(reading: Reading, thread: Thread) -> bool:
    """Whether the person wrote within 24 hours; looked for in the newest 20 messages."""
    newest = zip(thread.newest_first(reading.at), range(20), strict=False)
    return any(not s.message.is_from_page and s.message.at > reading.now * 1000 - _DAY_MS for s, _ in newest)


def _message_count(reading: Reading, thread: Thread) -> int:
    if reading.behaviour.counts_are_estimates:
        return thread.count(reading.at)
    return sum(1 for _ in thread.newest_first(reading.at))


_THREAD: dict[str, Callable[[Reading, Thread], Any]] = {
    "id": lambda _, thread: thread.thread_id,
    "updated_time": lambda reading, thread: graph_time(thread.updated_at(reading.at) or 0),
    "link": lambda reading, thread: f"/{reading.page.id}/inbox/{thread.thread_id[2:]}/",
    "message_count": _message_count,
    "unread_count": _unread,
    "participants": _participants,
    "senders": _participants,
    "can_reply": _can_reply,
    "is_subscribed": lambda *_: True,
    "snippet": _snippet,
    "scoped_thread_key": lambda _, thread: thread.thread_id,
    "folder": lambda *_: "inbox",
}


# -- messages -----------------------------------------------------------------------------------------------------


def messages_edge(
    reading: Reading, thread: Thread, window: Window, fields: tuple[Field, ...], source: str | None
) -> dict[str, Any]:
    """`GET /{thread}/messages`, and the same nested: newest first, with a paging of its own."""
    place = f"messages/{thread.thread_id}"
    if window.before is not None:
        newer = reading.position(window.before, place)[0]
        states = [
            s for s, _ in zip(thread.oldest_first(reading.at, above=newer), range(window.limit + 1), strict=False)
        ]
        has_previous, has_next = len(states) > window.limit, True
        states = states[: window.limit][::-1]
    else:
        below = reading.position(window.after, place)[0] if window.after is not None else None
        states = [
            s for s, _ in zip(thread.newest_first(reading.at, below=below), range(window.limit + 1), strict=False)
        ]
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


def message_node(
    reading: Reading, thread: Thread, state: State, fields: tuple[Field, ...], *, is_row: bool = False
) -> dict[str, Any]:
    """`GET /{message}`, and each row of an edge."""
    message = state.message
    stub = {"id": message.mid, "created_time": graph_time(message.at)}
    for field in fields:
        known = field.name in MESSAGE_FIELDS or (field.name == "reply_to" and reading.behaviour.has_reply_to)
        if not known:
            raise no_such_field(field.name, "Message")
    if not fields:
        return stub
    if reading.behaviour.twenty_newest and _is_beyond_twenty(reading, thread, message.n):
        if is_row:
            return stub
        raise GraphFailure(100, "The message has been deleted", subcode=33, kind="GraphMethodException")
    node: dict[str, Any] = {}
    for field in fields:
        getter = _MESSAGE.get(field.name)
        value = _inner(field, getter(reading, thread, state)) if getter else None
        if value is not None:
            node[field.name] = value
    node.setdefault("id", message.mid)
    return node


def _is_beyond_twenty(reading: Reading, thread: Thread, n: int) -> bool:
    newest = [s.message.n for s, _ in zip(thread.newest_first(reading.at), range(20), strict=False)]
    return len(newest) == 20 and n < newest[-1]


def _from(reading: Reading, thread: Thread, state: State) -> dict[str, Any]:
    return _page_as_person(reading.page) if state.message.is_from_page else _person(thread)


def _to(reading: Reading, thread: Thread, state: State) -> dict[str, Any]:
    return {"data": [_person(thread) if state.message.is_from_page else _page_as_person(reading.page)]}


def _attachments(reading: Reading, _: Thread, state: State) -> dict[str, Any] | None:
    nodes = []
    for attachment in state.message.attachments:
        node = graph_node(attachment, reading.world.cdn, reading.now)
        if node is not None and mix(attachment.asset, 7) % 1000 < reading.behaviour.hides_media * 1000:
            node = {"id": node["id"], "name": _PRIVACY}
        if node is not None:
            nodes.append(node)
    return {"data": nodes} if nodes else None


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
    "reply_to": lambda _, __, state: {"id": state.message.reply_to} if state.message.reply_to else None,
}


def edge_of_message(
    reading: Reading, thread: Thread, state: State, name: str, params: dict[str, str]
) -> dict[str, Any]:
    """`GET /{message}/attachments` and the like: an edge of a message by itself."""
    fields = read_fields(params.get("fields"))
    field = Field(name, {k: v for k, v in params.items() if k in {"limit", "after"}}, fields or None)
    getter = _MESSAGE[name]
    edge = _inner(field, getter(reading, thread, state))
    return edge if edge is not None else {"data": []}


# -- what all share -----------------------------------------------------------------------------------------------


def _person(thread: Thread) -> dict[str, str]:
    return {"name": thread.name, "email": f"{thread.psid}@{_EMAIL_HOST}", "id": thread.psid}


def _page_as_person(page: Page) -> dict[str, str]:
    return {"name": page.name, "email": f"{page.id}@{_EMAIL_HOST}", "id": page.id}


def _inner(field: Field, value: Any) -> Any:
    """Keep of a value the inner fields that were asked for."""
    names = [inner.name for inner in field.inner] if field.inner is not None else None
    if field.name == "shares" and names is None:
        names = ["id"]  # the others must be asked for (2.2)
    if names is not None:
        allowed = _INNER_FIELDS.get(field.name)
        for name in names:
            if allowed is None or name not in allowed:
                raise no_such_field(name, field.name.title().replace("_", ""))
    if names is None or value is None:
        return value
    if isinstance(value, dict) and "data" in value:
        return {**value, "data": [_only(row, names) for row in value["data"]]}
    return _only(value, names)


def _only(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row} | ({"id": row["id"]} if row.get("id") else {})
