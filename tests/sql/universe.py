"""A small universe of what both doors may tell, in which times, values and unset fields collide all the time.

It keeps what is true of Facebook: a message is in one thread, a thread is one person's, and one person may have two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from sql.json_values import dumps
from sql.rows import Conversation, Event, Message, Reaction, Row
from tests.sql.doors import PAGE, answered, at, delivered, graph_time, item

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


class Place(NamedTuple):
    """Where a message stands."""

    page_id: str
    mid: str
    person: str
    thread_id: str


PLACES = [
    Place(PAGE, "m_a", "7001", "t_31"),
    Place(PAGE, "m_b", "7001", "t_31"),
    Place(PAGE, "m_c", "7001", "t_32"),
    Place(PAGE, "m_d", "6002", "t_41"),
    Place("202", "m_a", "8003", "t_51"),
]
THREADS = sorted({place[0::3] + place[2:3] for place in PLACES})  # (page_id, thread_id, person)

places = st.sampled_from(PLACES)
texts = st.sampled_from(["a", "b", "ä😀", "", None])
emojis = st.sampled_from(["❤", "😀"])
moments = st.sampled_from([0.0, 0.25, 0.999, 1.0, 2.0, None])
readings = st.sampled_from([0.0, 1.0, 2.0, 100.0])
CDN = "https://scontent-a.xx.fbcdn.net/v/t1/{}.jpg?_nc_cat=1&oh=1{}&oe={:x}"


def link(name: str, signature: int) -> str:
    """A signed link: the same file for the same name."""
    return CDN.format(name, signature, int(at(3600 * 24 * signature).timestamp()))


@st.composite
def attachments(draw: DrawFn) -> list[dict[str, Any]]:
    """What a webhook may attach."""
    kinds = draw(st.lists(st.sampled_from(["image", "file", "fallback", "sticker"]), max_size=2))
    made = []
    for kind in kinds:
        payload: dict[str, Any] = {"url": link(draw(st.sampled_from("xy")), draw(st.integers(1, 3)))}
        if kind == "sticker":
            payload["sticker_id"] = draw(st.sampled_from([1, 2]))
        if kind == "fallback":
            payload["title"] = draw(st.sampled_from(["one", "two"]))
        made.append({"type": kind, "payload": payload})
    return made


@st.composite
def envelopes(draw: DrawFn) -> dict[str, Any]:
    """How a delivery may come in."""
    return {
        "via": draw(st.sampled_from(["messaging", "messaging", "standby"])),
        "number": draw(st.integers(1, 3)),
        "received": draw(st.sampled_from([60.0, 60.000001, 61.0])),
        "entry_time": draw(st.sampled_from([None, 30.0, 31.0])),
    }


@st.composite
def messages(draw: DrawFn) -> list[Row]:
    """A message, an echo or a copy of one, with anything missing."""
    place = draw(places)
    value: dict[str, Any] = {"mid": place.mid, "text": draw(texts)}
    attached = draw(attachments())
    if attached:
        value["attachments"] = attached
    if draw(st.booleans()):
        value["reply_to"] = {"mid": draw(places).mid}
    if draw(st.booleans()):
        value["quick_reply"] = {"payload": draw(st.sampled_from(["p", "q"]))}
    from_page = draw(st.booleans())
    if from_page:
        value |= {"is_echo": True, "app_id": draw(st.sampled_from([1, 2]))}
    made = item(
        "message", value, seconds=draw(moments), person=place.person, page_id=place.page_id, from_page=from_page
    )
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def unsends(draw: DrawFn) -> list[Row]:
    """An unsend, now and then of nobody."""
    place = draw(places)
    value = {"mid": place.mid, "is_deleted": True}
    made = item("message", value, seconds=draw(moments), person=place.person, page_id=place.page_id)
    if draw(st.integers(0, 3)) == 0:
        del made["sender"]
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def edits(draw: DrawFn) -> list[Row]:
    """One of a message's edits, now and then of nobody."""
    place = draw(places)
    value = {
        "mid": place.mid,
        "text": draw(st.sampled_from(["e", "f", ""])),
        "num_edit": draw(st.sampled_from([1, 2, 10])),
    }
    made = item("message_edit", value, seconds=draw(moments), person=place.person, page_id=place.page_id)
    if draw(st.integers(0, 3)) == 0:
        del made["sender"]
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def reactions(draw: DrawFn) -> list[Row]:
    """A reaction put on or taken off, by the person or by the Page, which may not say whose message it is."""
    place = draw(places)
    value: dict[str, Any] = {"mid": place.mid, "action": "unreact"}
    if draw(st.booleans()):
        value |= {"action": "react", "emoji": draw(emojis), "reaction": draw(st.sampled_from(["love", "other", None]))}
    from_page = draw(st.booleans())
    made = item(
        "reaction", value, seconds=draw(moments), person=place.person, page_id=place.page_id, from_page=from_page
    )
    if from_page and draw(st.booleans()):
        del made["recipient"]
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def receipts(draw: DrawFn) -> list[Row]:
    """What was delivered or read up to a time."""
    place = draw(places)
    kind = draw(st.sampled_from(["read", "delivery"]))
    value = {"watermark": int(at(draw(st.integers(0, 3))).timestamp() * 1000)}
    made = item(kind, value, seconds=None, person=place.person, page_id=place.page_id)
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def others(draw: DrawFn) -> list[Row]:
    """A postback, with a mid or without, or an item that is kept as an event."""
    place = draw(places)
    kind = draw(st.sampled_from(["postback", "referral", "something_new"]))
    value: dict[str, Any] = {"ref": draw(st.sampled_from(["r", "s"]))}
    if kind == "postback":
        value = {"title": draw(st.sampled_from(["a", "Buy"]))}
        if draw(st.booleans()):
            value["payload"] = draw(st.sampled_from(["p", "q"]))
        if draw(st.booleans()):
            value["mid"] = place.mid
    made = item(kind, value, seconds=draw(moments), person=place.person, page_id=place.page_id)
    return delivered(made, page_id=place.page_id, **draw(envelopes()))


@st.composite
def nodes(draw: DrawFn, place: Place, *, shows_person: bool) -> dict[str, Any]:
    """A message as Graph may show it: whole, in part, or as a stub."""
    made: dict[str, Any] = {"id": place.mid, "created_time": graph_time(draw(st.sampled_from([0.0, 1.0])))}
    if draw(st.integers(0, 4)) == 0:
        return made
    parties = [{"id": place.page_id}, {"id": place.person}]
    if draw(st.booleans()):
        parties.reverse()
    if shows_person:
        made |= {"from": parties[0], "to": {"data": parties[1:]}}
    elif draw(st.booleans()):
        made["from"] = {"id": place.page_id}
    text = draw(texts)
    if text is not None:
        made["message"] = text
    if draw(st.booleans()):
        url = link(draw(st.sampled_from("xz")), draw(st.integers(1, 3)))
        made["attachments"] = {"data": [{"id": "9", "mime_type": "image/jpeg", "image_data": {"url": url, "width": 1}}]}
    if draw(st.booleans()):
        made["shares"] = {"data": [{"link": "https://shop.example/a", "name": draw(st.sampled_from(["one", "two"]))}]}
    if draw(st.booleans()):
        made["reply_to"] = {"mid": draw(places).mid}
    if draw(st.booleans()):
        actors = draw(st.lists(st.sampled_from([place.person, place.page_id]), unique=True, max_size=2))
        made["reactions"] = {"data": [{"reaction": draw(emojis), "users": [{"id": actor}]} for actor in actors]}
    return made


@st.composite
def answers(draw: DrawFn) -> list[Row]:
    """A thread with some of its messages, as one answer of Graph shows it."""
    page_id, thread_id, person = draw(st.sampled_from(THREADS))
    shows_person = draw(st.booleans())
    there = [place for place in PLACES if (place.page_id, place.thread_id) == (page_id, thread_id)]
    shown = draw(st.lists(st.sampled_from(there), unique=True, max_size=2))
    listed: dict[str, Any] | None = None
    if draw(st.booleans()):
        listed = {"updated_time": graph_time(draw(st.sampled_from([0.0, 1.0])))}
        if shows_person:
            name = draw(st.sampled_from(["Ada", "Bo", None]))
            listed["participants"] = {"data": [{"id": page_id}, {"id": person, "name": name}]}
        for field in ("message_count", "unread_count"):
            listed[field] = draw(st.sampled_from([1, 2, None]))
        listed["can_reply"] = draw(st.sampled_from([True, False, None]))
    return answered(
        *[draw(nodes(place, shows_person=shows_person)) for place in shown],
        listed=listed,
        page_id=page_id,
        thread_id=thread_id,
        observed=draw(readings),
        now=draw(st.sampled_from([200.0, 201.0])),
        reactions_asked=draw(st.booleans()),
    )


@st.composite
def odd_messages(draw: DrawFn) -> list[Row]:
    """A message's row as no body above makes it: every field set or unset on its own."""
    place = draw(places)
    rank = draw(st.sampled_from([0, 1, 2, 9]))
    register = {
        "text": draw(texts),
        "attachments": draw(st.sampled_from([None, [{"type": "image"}], [{"type": "file", "extra": {"a": 1}}]])),
        "app_id": draw(st.sampled_from([None, "1", "2"])),
        "referral": draw(st.sampled_from([None, {"ref": "r"}, {"ref": "s", "ad_id": "1"}])),
    }
    original = {key: value for key, value in register.items() if value is not None and draw(st.booleans())}
    edit_keys = draw(st.lists(st.sampled_from(["0", "1", "2", "10"]), unique=True, max_size=2))
    told_edits = {key: [draw(st.integers(-2, 2)), draw(st.sampled_from(["e", "f", None]))] for key in edit_keys}
    deleted_at = draw(st.sampled_from([None, None, None, at(0), at(1)])) if not (original or told_edits) else None
    row = Message(
        place.page_id,
        place.mid,
        place.person,
        direction=draw(st.sampled_from([None, "inbound", "outbound"])),
        sent_at=None if rank == 9 else at(draw(st.sampled_from([0.0, 0.001, 1.0]))),
        sent_at_rank=rank,
        deleted_at=deleted_at,
        deleted_at_is_estimated=deleted_at is not None and draw(st.booleans()),
        original=dumps(original) if original else None,
        edits=dumps(told_edits) if told_edits else None,
        webhook_seen_at=at(draw(st.integers(60, 61))) if draw(st.booleans()) else None,
        delivery_day=at(0).date(),
        delivery_id=UUID(int=4),
    )
    return [row]


@st.composite
def odd_events(draw: DrawFn) -> list[Row]:
    """An event's row of an identity that others share, every field set or unset on its own."""
    place = draw(places)
    payload: dict[str, Any] = {
        "a": draw(st.sampled_from([None, 1, 2])),
        "b": draw(st.sampled_from([None, [], {"c": 1}, "d"])),
    }
    return [
        Event(
            place.page_id,
            draw(st.sampled_from(["k1", "k2"])),
            draw(st.sampled_from([None, place.person])),
            draw(st.sampled_from(["unknown", "order", "referral"])),
            draw(st.sampled_from(["messaging", "standby", "changes"])),
            draw(st.sampled_from([None, place.mid])),
            at(draw(st.sampled_from([0.0, 0.000001, 1.0]))),
            draw(st.booleans()),
            dumps({key: value for key, value in payload.items() if draw(st.booleans())}),
            at(60),
            at(60).date(),
            UUID(int=5),
        )
    ]


@st.composite
def odd_conversations(draw: DrawFn) -> list[Row]:
    """A conversation's row with any receipts and any of Graph's fields."""
    place = draw(places)
    marks = st.sampled_from([None, at(0), at(1)])
    values: dict[str, list[Any]] = {"name": ["Ada", "Bo"], "unread_count": [0, 1], "can_reply": [True, False]}
    graph = {
        field: [draw(st.integers(0, 1)), draw(st.integers(0, 1)), draw(st.sampled_from(among))]
        for field, among in values.items()
        if draw(st.booleans())
    }
    return [
        Conversation(
            place.page_id,
            place.person,
            draw(st.sampled_from(["messenger", "instagram"])),
            dumps(graph) if graph else None,
            draw(marks),
            draw(marks),
        )
    ]


@st.composite
def odd_reactions(draw: DrawFn) -> list[Row]:
    """A reaction's row, with the placeholder that goes before it."""
    place = draw(places)
    is_removed = draw(st.booleans())
    placeholder = Message(place.page_id, place.mid, draw(st.sampled_from([None, place.person])))
    reaction = Reaction(
        place.page_id,
        place.mid,
        draw(st.sampled_from([place.person, place.page_id])),
        None if is_removed else draw(st.sampled_from([None, "love", "wow"])),
        None if is_removed else draw(st.sampled_from([None, "❤", "😀"])),
        is_removed,
        at(draw(st.sampled_from([0.0, 0.000001, 1.0, 2.0]))),
        draw(st.booleans()),
        at(60).date(),
        UUID(int=6),
    )
    return [placeholder, reaction]


def facts() -> SearchStrategy[list[Row]]:
    """Any one thing that a door may tell; its rows travel together."""
    return st.one_of(
        messages(),
        unsends(),
        edits(),
        reactions(),
        receipts(),
        others(),
        answers(),
        answers(),
        odd_messages(),
        odd_reactions(),
        odd_conversations(),
        odd_events(),
    )
