"""Graph's nodes as the rows that both doors write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sql.attachments import Links, attachment
from sql.json_values import dumps
from sql.mids import canonical_mid
from sql.rows import SENT_BY_GRAPH_CLOCK, SENT_UNKNOWN, Conversation, Message, Thread

if TYPE_CHECKING:
    from reconciler.graph.payload import ConversationNode, MessageNode, Person

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def person_of(page_id: str, node: ConversationNode | None, messages: list[MessageNode]) -> str | None:
    """Whose thread it is: who is not the Page among the participants, else in any message's `from` and `to`.

    Of several the greatest id, as Graph gives no order.
    """
    participants = node.participants.persons() if node and node.participants else []
    parties: list[Person] = []
    for message in messages:
        parties += [message.sender] if message.sender else []
        parties += message.to.persons() if message.to else []
    for named in (participants, parties):
        persons = {person.id for person in named if person.id and person.id != page_id}
        if persons:
            return max(persons)
    return None


def thread_row(page_id: str, thread_id: str, psid: str | None) -> Thread:
    """The row that tells whose the thread is."""
    return Thread(page_id, thread_id, psid)


def conversation_row(page_id: str, node: ConversationNode, psid: str | None, observed_at: datetime) -> Conversation:
    """What Graph says of the conversation itself: newest `updated_time` first, then the newest reading."""
    order = [_ms(node.updated_time), _ms(observed_at)]
    names = [p.name for p in node.participants.persons() if p.id == psid] if node.participants and psid else []
    fields = {
        "updated_time": _ms(node.updated_time),
        "name": next((name for name in names if name), None),
        "message_count": node.message_count,
        "unread_count": node.unread_count,
        "can_reply": node.can_reply,
    }
    graph = {key: [*order, value] for key, value in fields.items() if value is not None}
    return Conversation(page_id, psid or node.id, "messenger", graph=dumps(graph))


def message_row(
    page_id: str,
    thread_id: str,
    psid: str | None,
    node: MessageNode,
    *,
    observed_at: datetime,
    now: datetime,
    asked_reactions: bool,
) -> Message:
    """One message as Graph shows it. A stub brings its time and nothing that could overwrite anything."""
    at = _ms(observed_at)
    links: Links = {}
    graph: dict[str, list[Any]] = {}
    if node.message:
        graph["text"] = [at, node.message]
    attachments = attachments_of(node, links)
    if attachments:
        graph["attachments"] = [at, attachments]
    replied = node.reply_to.get("mid") or node.reply_to.get("id") if isinstance(node.reply_to, dict) else None
    if isinstance(replied, str) and replied:
        graph["reply_to"] = [at, canonical_mid(replied)]
    if asked_reactions and node.sender is not None:
        graph["reactions"] = [at, _reactions(node.reactions)]
    direction = None
    if node.sender is not None and node.sender.id:
        direction = "outbound" if node.sender.id == page_id else "inbound"
    return Message(
        page_id,
        canonical_mid(node.id),
        psid or thread_id,
        thread_id=thread_id,
        direction=direction,
        sent_at=node.created_time,
        sent_at_rank=SENT_BY_GRAPH_CLOCK if node.created_time else SENT_UNKNOWN,
        graph=dumps(graph) if graph else None,
        links=dumps(links) if links else None,
        sync_seen_at=now if node.created_time else None,
    )


def attachments_of(node: MessageNode, links: Links) -> list[dict[str, Any]]:
    """Graph's attachments, its `sticker` and its `shares`, in the stored shape."""
    shaped = [_attachment(a, links) for a in _data(node.attachments)]
    if node.sticker and not any(a["type"] == "sticker" for a in shaped):
        shaped.append(attachment("sticker", node.sticker, links))
    for share in _data(node.shares):
        extra = {key: share.get(key) for key in ("description", "picture") if share.get(key)}
        graph_id = share.get("id")
        shared = attachment(
            "fallback",
            share.get("link"),
            links,
            title=share.get("name"),
            graph_id=str(graph_id) if graph_id is not None else None,
            extra=extra,
        )
        if shared.keys() != {"type"}:  # every value may be null
            shaped.append(shared)
    return shaped


def _data(edge: object) -> list[dict[str, Any]]:
    data = edge.get("data") if isinstance(edge, dict) else None
    return [value for value in data if isinstance(value, dict)] if isinstance(data, list) else []


def _attachment(value: dict[str, Any], links: Links) -> dict[str, Any]:
    """Shape one attachment: its kind is told by which of the data fields it has, else by its MIME type."""
    image, video, template = (value.get(key) for key in ("image_data", "video_data", "generic_template"))
    mime_type = value.get("mime_type") if isinstance(value.get("mime_type"), str) else None
    link = value.get("file_url")
    extra: dict[str, Any] = {}
    title = None
    if isinstance(image, dict):
        type_ = "sticker" if image.get("render_as_sticker") is True else "image"
        link = image.get("url") or link
        extra = {k: v for k, v in image.items() if k != "url" and v is not None}
    elif isinstance(video, dict):
        type_, link = "video", video.get("url") or link
        extra = {k: v for k, v in video.items() if k != "url" and v is not None}
    elif isinstance(template, dict):
        type_, title = "template", template.get("title")
        extra = {"generic_template": template}
    else:
        prefix = (mime_type or "").partition("/")[0]
        type_ = prefix if prefix in {"image", "video", "audio"} else "file"
    return attachment(
        type_,
        link,
        links,
        mime_type=mime_type,
        name=value.get("name"),
        size=value.get("size"),
        title=title,
        graph_id=str(value["id"]) if value.get("id") is not None else None,
        extra=extra,
    )


def _reactions(edge: object) -> list[list[str]]:
    """A list of reactions as [actor, name, emoji], sorted, so that equal lists are equal values."""
    found = []
    for reaction in _data(edge):
        users = reaction.get("users")
        name, emoji = _emoji_or_name(str(reaction.get("reaction") or ""))
        listed = users if isinstance(users, list) else _data(users)
        found += [[str(user["id"]), name, emoji] for user in listed if isinstance(user, dict) and user.get("id")]
    return sorted({user[0]: user for user in sorted(found)}.values())


def _emoji_or_name(reaction: str) -> tuple[str, str]:
    """Graph gives one text, which is a name (`love`) or the emoji itself."""
    return (reaction, "") if reaction.isascii() else ("", reaction)
