from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.demo.comparison import at, compare_conversations, compare_messages
from simulator import AttachmentTruth, ConversationTruth, MessageTruth, ReactionTruth

SENT_MS = 1_900_000_000_123
MESSAGE = MessageTruth(
    page_id="1",
    thread_id="t_1",
    psid="7",
    mid="m_a",
    direction="inbound",
    sent_at_ms=SENT_MS,
    text="grüß dich",
    attachments=(AttachmentTruth("photo-9", "image", "image"),),
    reactions=(ReactionTruth("7", "love", "❤", SENT_MS + 5),),
    num_edit=0,
    is_deleted=False,
    deleted_at_ms=None,
    reply_to="m_b",
    extra={},
    in_graph=True,
    in_webhooks=True,
)
ROW: dict[str, Any] = {
    "mid": "m_a",
    "psid": "7",
    "direction": "inbound",
    "sent_at": at(SENT_MS),
    "text": "grüß dich",
    "attachments": [{"type": "image", "url": "https://cdn.example/photo-9.jpg"}],
    "reply_to": "m_b",
    "is_deleted": False,
    "reactions": [["7", "love", None]],
}
LIVE = {"m_a": {"message"}}


def differences(
    row: dict[str, Any] | None, message: MessageTruth = MESSAGE, told: dict[str, set[str]] | None = None
) -> list[tuple[str, str]]:
    rows: list[Any] = [row] if row is not None else []
    found = compare_messages("1", [message], rows, LIVE if told is None else told)
    return [(d.kind, d.what.partition(" is ")[0]) for d in found]


def test_a_row_that_tells_the_truth_differs_in_nothing() -> None:
    assert differences(ROW) == []


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("psid", "8", "psid"),
        ("direction", "outbound", "direction"),
        ("sent_at", at(SENT_MS) + timedelta(milliseconds=1), "sent_at"),
        ("text", "gruss dich", "text"),
        ("text", None, "text"),
        ("is_deleted", True, "is_deleted"),
        ("reply_to", None, "reply_to"),
        ("attachments", None, "0 attachments, not 1"),
        ("attachments", [{"url": "https://cdn.example/photo-8.jpg"}], "other attachments"),
        ("reactions", None, "reactions by [], not by ['7']"),
        ("reactions", [["7", "like", None]], "other reactions"),
    ],
)
def test_each_field_that_is_wrong_is_found(field: str, value: object, what: str) -> None:
    assert differences(ROW | {field: value}) == [("wrong", what)]


def test_a_message_without_row_is_missing() -> None:
    assert differences(None) == [("missing", "the message")]


def test_a_row_without_message_is_unknown() -> None:
    rows: list[Any] = [ROW]
    assert [d.kind for d in compare_messages("1", [], rows, {})] == ["unknown"]


def test_a_message_that_only_graph_showed_has_whole_seconds_and_no_reply_link() -> None:
    row = ROW | {"sent_at": at(SENT_MS // 1000 * 1000), "reply_to": None}
    assert differences(row, told={}) == []
    assert differences(ROW | {"reply_to": None}, told={}) == [("wrong", "sent_at")]


def test_an_unsend_that_was_told_must_have_emptied_the_row_and_one_withheld_can_not() -> None:
    unsent = replace(MESSAGE, is_deleted=True, text=None, attachments=(), reactions=(), reply_to=None)
    emptied = ROW | {"is_deleted": True, "text": None, "attachments": None, "reactions": None, "reply_to": None}
    told = {"m_a": {"message", "unsend"}}
    assert differences(emptied, unsent, told) == []
    assert ("wrong", "is_deleted") in differences(ROW, unsent, told)
    assert differences(ROW, unsent, LIVE) == []


def test_conversations_are_compared_by_person_name_and_receipts() -> None:
    truth = ConversationTruth("1", "t_1", "7", "Zoë", SENT_MS, 1, "m_a", "grüß dich", SENT_MS, None, None)
    row = {"psid": "7", "name": "Zoë", "read_watermark": at(SENT_MS), "delivered_watermark": None}
    watermarks = {("7", "read"): at(SENT_MS)}

    def found(*rows: Any) -> list[str]:
        return [d.kind for d in compare_conversations("1", [truth], list(rows), watermarks)]

    assert found(row) == []
    assert found() == ["missing"]
    assert found(row | {"name": "Zoe"}, row | {"psid": "8"}) == ["wrong", "unknown"]
    assert found(row | {"read_watermark": None}) == ["wrong"]
