from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.graph.payload import ConversationNode, MessageNode
from reconciler.graph.rows import conversation_row, message_row, person_of
from sql.rows import SENT_BY_GRAPH_CLOCK, SENT_UNKNOWN, Message

PAGE, PERSON = "700", "900"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AT_MS = 1772366400000
NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
WHOLE = {
    "id": "m_abc",
    "created_time": "2026-03-01T11:00:00+0000",
    "from": {"id": PERSON, "name": "Ada"},
    "to": {"data": [{"id": PAGE, "name": "Shop"}]},
}
SIGNED = "https://scontent-a.xx.fbcdn.net/v/photo.jpg?_nc_cat=1&oh=00_x&oe=6A000000"
PLAIN = "https://*.fbcdn.net/v/photo.jpg"


def row(node: dict[str, Any], *, asked_reactions: bool = False) -> Message:
    read = MessageNode.model_validate(node)
    return message_row(PAGE, "t_1", PERSON, read, observed_at=AT, now=NOW, asked_reactions=asked_reactions)


def graph_of(node: dict[str, Any], *, asked_reactions: bool = False) -> dict[str, Any]:
    graph = row({**WHOLE, **node}, asked_reactions=asked_reactions).graph
    fields: dict[str, Any] = json.loads(graph) if graph else {}
    assert {at for at, _ in fields.values()} <= {AT_MS}
    return {name: value for name, (_, value) in fields.items()}


def attachments_of(node: dict[str, Any]) -> Any:
    return graph_of(node).get("attachments")


def conversation(**fields: Any) -> ConversationNode:
    return ConversationNode.model_validate({"id": "t_1", "updated_time": "2026-03-01T11:00:00+0000", **fields})


def test_a_message_of_a_person_is_inbound_and_sent_at_graphs_second() -> None:
    made = row({**WHOLE, "message": "hello"})
    assert made[:7] == (
        PAGE,
        "m_abc",
        PERSON,
        "t_1",
        "inbound",
        datetime(2026, 3, 1, 11, 0, tzinfo=UTC),
        SENT_BY_GRAPH_CLOCK,
    )
    assert made.sync_seen_at == NOW
    assert {made.original, made.edits, made.links, made.webhook_seen_at, made.deleted_at} == {None}
    assert json.loads(made.graph or "") == {"text": [AT_MS, "hello"]}


def test_a_message_of_the_page_is_outbound() -> None:
    assert row({**WHOLE, "from": {"id": PAGE}}).direction == "outbound"


def test_an_id_without_its_prefix_is_the_same_message() -> None:
    assert row({**WHOLE, "id": "mid.1458:abc"}).mid == "m_mid.1458:abc"


@pytest.mark.parametrize("asked_reactions", [False, True])
def test_a_stub_brings_its_time_and_overwrites_nothing(*, asked_reactions: bool) -> None:
    stub = {"id": "m_abc", "created_time": "2026-03-01T11:00:00+0000"}
    made = row(stub, asked_reactions=asked_reactions)
    assert made.sent_at == datetime(2026, 3, 1, 11, 0, tzinfo=UTC)
    assert made.graph is made.links is made.direction is None


def test_an_id_alone_is_a_placeholder() -> None:
    made = row({"id": "m_abc"})
    assert (made.sent_at, made.sent_at_rank, made.sync_seen_at) == (None, SENT_UNKNOWN, None)


@pytest.mark.parametrize("empty", [{"message": ""}, {"message": None}, {}, {"attachments": {"data": []}}])
def test_an_empty_text_or_list_writes_no_register(empty: dict[str, Any]) -> None:
    assert graph_of(empty) == {}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (
            {
                "id": "1",
                "mime_type": "image/jpeg",
                "name": "image-1",
                "size": None,
                "image_data": {"width": 10, "height": 20, "url": SIGNED, "preview_url": SIGNED, "max_width": None},
            },
            {
                "type": "image",
                "url": PLAIN,
                "mime_type": "image/jpeg",
                "name": "image-1",
                "graph_id": "1",
                "extra": {"width": 10, "height": 20, "preview_url": PLAIN},
            },
        ),
        (
            {"id": "2", "mime_type": "image/png", "image_data": {"url": SIGNED, "render_as_sticker": True}},
            {
                "type": "sticker",
                "url": PLAIN,
                "mime_type": "image/png",
                "graph_id": "2",
                "extra": {"render_as_sticker": True},
            },
        ),
        (
            {"id": 3, "mime_type": "video/mp4", "size": 9, "video_data": {"url": SIGNED, "length": 4}},
            {
                "type": "video",
                "url": PLAIN,
                "mime_type": "video/mp4",
                "size": 9,
                "graph_id": "3",
                "extra": {"length": 4},
            },
        ),
        (
            {"id": "4", "mime_type": "audio/mp4", "file_url": SIGNED},
            {"type": "audio", "url": PLAIN, "mime_type": "audio/mp4", "graph_id": "4"},
        ),
        (
            {"id": "5", "mime_type": "application/pdf", "name": "a.pdf", "file_url": SIGNED},
            {"type": "file", "url": PLAIN, "mime_type": "application/pdf", "name": "a.pdf", "graph_id": "5"},
        ),
        (
            {"id": "6", "name": "Media not available due to privacy rules"},
            {"type": "file", "name": "Media not available due to privacy rules", "graph_id": "6"},
        ),
        (
            {"id": "7", "mime_type": "image/jpeg", "file_url": SIGNED},
            {"type": "image", "url": PLAIN, "mime_type": "image/jpeg", "graph_id": "7"},
        ),
        (
            {"generic_template": {"title": "Boots", "subtitle": "New", "media_url": SIGNED}},
            {
                "type": "template",
                "title": "Boots",
                "extra": {"generic_template": {"title": "Boots", "subtitle": "New", "media_url": PLAIN}},
            },
        ),
        ({"id": "8", "mime_type": 7}, {"type": "file", "graph_id": "8"}),
        ({}, {"type": "file"}),
    ],
)
def test_every_form_of_an_attachment_becomes_the_stored_shape(given: dict[str, Any], stored: dict[str, Any]) -> None:
    assert attachments_of({"attachments": {"data": [given]}}) == [stored]


def test_signed_links_stand_beside_the_plain_ones_with_their_expiry() -> None:
    made = row({**WHOLE, "attachments": {"data": [{"mime_type": "audio/mp4", "file_url": SIGNED}]}})
    links = json.loads(made.links or "")
    assert links == {PLAIN: [0x6A000000 * 1000, SIGNED, datetime.fromtimestamp(0x6A000000, UTC).isoformat()]}


def test_a_sticker_is_an_attachment_unless_it_is_one_already() -> None:
    sticker = "https://scontent.xx.fbcdn.net/sticker.png"
    assert attachments_of({"sticker": sticker}) == [{"type": "sticker", "url": "https://*.fbcdn.net/sticker.png"}]
    both = {"sticker": sticker, "attachments": {"data": [{"id": "1", "image_data": {"render_as_sticker": True}}]}}
    assert [a["type"] for a in attachments_of(both)] == ["sticker"]


def test_shares_are_attachments_and_empty_ones_are_not() -> None:
    shares = [
        {"id": "31", "link": "https://example.org/a", "name": "A page", "description": "Of things", "picture": None},
        {"id": None, "link": "https://example.org/b", "name": "", "description": None, "picture": None},
        {"id": None, "link": None, "name": None},
    ]
    assert attachments_of({"shares": {"data": shares}}) == [
        {
            "type": "fallback",
            "url": "https://example.org/a",
            "title": "A page",
            "graph_id": "31",
            "extra": {"description": "Of things"},
        },
        {"type": "fallback", "url": "https://example.org/b"},
    ]


@pytest.mark.parametrize("broken", [[], "text", {"data": {}}, {"data": [None, 7, "x"]}, {"paging": {}}])
def test_lists_of_another_shape_are_as_if_they_were_not_there(broken: Any) -> None:
    lists = {"attachments": broken, "shares": broken, "reactions": broken, "reply_to": broken}
    assert graph_of(lists) == {}
    assert graph_of(lists, asked_reactions=True) == {"reactions": []}


@pytest.mark.parametrize("replied", [{"mid": "mid.1"}, {"id": "m_mid.1"}])
def test_a_reply_names_the_message_in_its_canonical_form(replied: dict[str, str]) -> None:
    assert graph_of({"reply_to": replied}) == {"reply_to": "m_mid.1"}


def test_a_list_of_reactions_is_sorted_and_names_each_actor_once() -> None:
    reactions = {
        "data": [
            {"reaction": "love", "users": [{"id": PERSON}, {"id": PAGE}]},
            {"reaction": "👍", "users": {"data": [{"id": "800"}, {"name": "nobody"}, None]}},
            {"users": [{"id": 850}]},
            {"reaction": "wow", "users": [{"id": "800"}]},
        ]
    }
    assert graph_of({"reactions": reactions}, asked_reactions=True)["reactions"] == [
        [PAGE, "love", ""],
        ["800", "wow", ""],
        ["850", "", ""],
        [PERSON, "love", ""],
    ]


def test_reactions_are_a_register_only_when_they_were_asked_for() -> None:
    assert graph_of({}, asked_reactions=True) == {"reactions": []}
    assert graph_of({"reactions": {"data": [{"reaction": "love", "users": [{"id": PERSON}]}]}}) == {}


@pytest.mark.parametrize(
    ("node", "messages", "person"),
    [
        (conversation(participants={"data": [{"id": PAGE}, {"id": PERSON}]}), [], PERSON),
        (conversation(participants={"data": [{"id": PERSON}, {"id": PAGE}]}), [], PERSON),
        (conversation(participants={"data": [{"id": PAGE}]}), [{**WHOLE, "from": {"id": PERSON}}], PERSON),
        (conversation(), [{**WHOLE, "from": {"id": PAGE}, "to": {"data": [{"id": PERSON}]}}], PERSON),
        (None, [{"id": "m_1"}, WHOLE], PERSON),
        (conversation(participants={"data": [{"id": PAGE}, {"name": "No id"}]}), [{"id": "m_1"}], None),
        (conversation(), [], None),
    ],
)
def test_the_person_is_whoever_is_not_the_page(
    node: ConversationNode | None, messages: list[dict[str, Any]], person: str | None
) -> None:
    assert person_of(PAGE, node, [MessageNode.model_validate(m) for m in messages]) == person


def test_a_conversation_is_ordered_by_its_own_time_then_by_when_it_was_read() -> None:
    node = conversation(
        participants={"data": [{"id": PAGE, "name": "Shop"}, {"id": PERSON, "name": "Ada"}]},
        message_count=3,
        unread_count=0,
        can_reply=False,
    )
    updated = AT_MS - 3_600_000
    made = conversation_row(PAGE, node, PERSON, AT)
    assert made[:3] == (PAGE, PERSON, "messenger")
    assert json.loads(made.graph or "") == {
        "updated_time": [updated, AT_MS, updated],
        "name": [updated, AT_MS, "Ada"],
        "message_count": [updated, AT_MS, 3],
        "unread_count": [updated, AT_MS, 0],
        "can_reply": [updated, AT_MS, False],
    }


def test_a_conversation_of_nobody_known_stands_under_its_threads_id() -> None:
    made = conversation_row(PAGE, conversation(), None, AT)
    assert made.psid == "t_1"
    assert list(json.loads(made.graph or "")) == ["updated_time"]
