"""What a path of the Graph API leads to: a Page, a conversation, a message, a person, or an edge of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.graph_errors import GraphFailure, bad_parameter, no_such_field, not_found
from simulator.message_nodes import check_message_fields, edge_of_message, message_node, messages_edge
from simulator.reading import check_weight, read_fields, read_window
from simulator.thread_nodes import check_thread_fields, conversations_edge, thread_node

if TYPE_CHECKING:
    from simulator.page import Page
    from simulator.reading import Reading

_MESSAGE_EDGES = {"attachments", "shares", "reactions"}
_MAX_IDS = 50
CATEGORY = "Shop"  # of every Page


def user_node(path: str, params: dict[str, str]) -> dict[str, Any]:
    """What the user's token can read besides Pages: the user."""
    if path != "me":
        raise not_found(path or "/")
    user = {"id": "10215241773831025", "name": "Ada Admin"}
    return _chosen(user, params.get("fields"), "User")


def _chosen(node: dict[str, Any], source: str | None, node_type: str) -> dict[str, Any]:
    """Give the fields of a node that were asked for, and its id; its name where none were.

    Raises:
        GraphFailure: 100, a field that such a node does not have.

    """
    names = [field.name for field in read_fields(source)] or ["name"]
    for name in names:
        if name not in node:
            raise no_such_field(name, node_type)
    return {name: node[name] for name in dict.fromkeys([*names, "id"])}


def many(reading: Reading, ids: list[str], params: dict[str, str]) -> dict[str, Any]:
    """`GET /?ids=a,b`: one bad id fails all (Graph sheet, 4.2)."""
    if len(ids) > _MAX_IDS:
        raise bad_parameter(f"Too many IDs. Maximum: {_MAX_IDS}. Provided: {len(ids)}.")
    check_weight(reading.behaviour, len(ids), read_fields(params.get("fields")))
    return {object_id: read(reading, [object_id], params) for object_id in ids}


def read(reading: Reading, parts: list[str], params: dict[str, str]) -> dict[str, Any]:
    """Read what a path leads to; a `GraphFailure` when it leads nowhere."""
    match parts:
        case [page_id] if page_id == reading.page.id:
            return _page_node(reading.page, params)
        case [page_id, "conversations"] if page_id == reading.page.id:
            return conversations_edge(reading, params)
        case [object_id, *edge] if len(edge) <= 1:
            return _object(reading, object_id, edge[0] if edge else None, params)
        case _:
            raise GraphFailure(2500, f"Unknown path components: /{'/'.join(parts)}")


def _object(reading: Reading, object_id: str, edge: str | None, params: dict[str, str]) -> dict[str, Any]:
    source = params.get("fields")
    fields = read_fields(source)
    thread = reading.world.find_thread(object_id)
    if thread is not None and thread.page == reading.page.number and thread.updated_at(reading.at) is not None:
        if edge is None:
            check_thread_fields(reading.behaviour, fields)
            check_weight(reading.behaviour, 1, fields)
            return thread_node(reading, thread, fields)
        if edge == "messages":
            window = read_window(params, reading.behaviour)
            check_message_fields(reading.behaviour, fields)
            check_weight(reading.behaviour, window.limit, fields)
            return messages_edge(reading, thread, window, fields, source)
    found = reading.world.find_message(object_id)
    if found is not None and found[0].page == reading.page.number:
        state = found[0].state(found[1], reading.at)
        if state is not None and state.deleted_at is None:
            if edge is None:
                check_message_fields(reading.behaviour, fields)
                return message_node(reading, found[0], state, fields)
            if edge in _MESSAGE_EDGES:
                return edge_of_message(reading, found[0], state, edge, params)
    person = reading.world.find_person(object_id)
    is_known = person is not None and person.updated_at(reading.at) is not None  # who never wrote is not (6)
    if person is not None and is_known and person.page == reading.page.number and edge is None:
        return _profile(reading, person.name, object_id, params)
    raise not_found(object_id)


def _page_node(page: Page, params: dict[str, str]) -> dict[str, Any]:
    node = {"id": page.id, "name": page.name, "category": CATEGORY, "access_token": page.access_token}
    return _chosen(node, params.get("fields"), "Page")


def _profile(reading: Reading, name: str, psid: str, params: dict[str, str]) -> dict[str, Any]:
    """`GET /{psid}` (Graph sheet, 6): some people's profiles are not to be had."""
    if int(psid) % 11 == 0:
        raise GraphFailure(100, "(#100) No profile available for this user.", subcode=2018218)
    first, _, last = name.rpartition(" ")
    picture = f"https://platform-lookaside.fbsbx.com/platform/profilepic/?psid={psid}&ext={reading.now + 400_000}"
    node = {"id": psid, "name": name, "first_name": first, "last_name": last, "profile_pic": picture}
    fields = read_fields(params.get("fields"))
    for field in fields:
        if field.name not in node:
            raise no_such_field(field.name, "User")
    wanted = {field.name for field in fields} | {"id"}
    return {key: value for key, value in node.items() if not fields or key in wanted}
