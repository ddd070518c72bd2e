"""Conversations as Graph shows them. A field without data is left out."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from simulator.clock import graph_time
from simulator.dice import mix
from simulator.graph_errors import no_such_field
from simulator.listing import list_threads
from simulator.message_nodes import check_message_fields, messages_edge, page_as_person, person
from simulator.reading import check_weight, inner_fields, read_fields, read_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.behaviour import Behaviour
    from simulator.fields import Field
    from simulator.reading import Reading
    from simulator.thread import Thread

_DAY_MS = 86_400_000
THREAD_FIELDS = {
    "id", "updated_time", "link", "message_count", "unread_count", "participants", "senders", "former_participants",
    "can_reply", "is_subscribed", "is_owner", "snippet", "name", "scoped_thread_key", "folder", "wallpaper",
    "linked_group", "messages",
}  # fmt: skip


def conversations_edge(reading: Reading, params: dict[str, str]) -> dict[str, Any]:
    """`GET /{page}/conversations`."""
    behaviour = reading.behaviour
    source = params.get("fields")
    fields, window = read_fields(source), read_window(params, behaviour)
    check_thread_fields(behaviour, fields)
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


def check_thread_fields(behaviour: Behaviour, fields: tuple[Field, ...]) -> None:
    """Refuse a field that conversations, or their nested messages, do not have.

    Raises:
        GraphFailure: 100, naming it.

    """
    for field in fields:
        if field.name not in THREAD_FIELDS:
            raise no_such_field(field.name, "UnifiedThread")
        if field.name == "messages":
            check_message_fields(behaviour, field.inner or ())
        else:
            inner_fields(field, None)


def thread_node(reading: Reading, thread: Thread, fields: tuple[Field, ...]) -> dict[str, Any]:
    """`GET /{thread}`, and each row of the list."""
    if not fields:
        return {"id": thread.thread_id, "updated_time": graph_time(thread.updated_at(reading.at) or 0)}
    node: dict[str, Any] = {}
    for field in fields:
        if field.name == "messages":
            window = read_window(field.modifiers, reading.behaviour)
            value: Any = messages_edge(reading, thread, window, field.inner or (), field.inner_source)
            value = value if value["data"] else None
        else:
            value = inner_fields(field, _THREAD[field.name](reading, thread)) if field.name in _THREAD else None
        if value is not None:
            node[field.name] = value
    node.setdefault("id", thread.thread_id)
    return node


def _participants(reading: Reading, thread: Thread) -> dict[str, Any]:
    both = [person(thread), page_as_person(reading.page)]
    # the order is not guaranteed (1.2)
    return {"data": both if mix(reading.world.seed, thread.page, thread.number) % 3 else both[::-1]}


def _snippet(reading: Reading, thread: Thread) -> str | None:
    last = next(thread.newest_first(reading.at), None)
    return last.text if last else None


def _unread(reading: Reading, thread: Thread) -> int:
    """How many of the newest 20 messages came after the Page's last one."""
    count = 0
    for state in islice(thread.newest_first(reading.at), 20):
        if state.message.is_from_page:
            break
        count += 1
    return count


def _can_reply(reading: Reading, thread: Thread) -> bool:
    """Whether the person wrote within 24 hours; looked for in the newest 20 messages."""
    newest = islice(thread.newest_first(reading.at), 20)
    return any(not s.message.is_from_page and s.message.at > reading.now * 1000 - _DAY_MS for s in newest)


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
