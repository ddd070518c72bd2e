from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.graph.payload import ConversationNode, MessageNode
from sql.mids import MAX_BYTES


@pytest.mark.parametrize(
    "text",
    ["2026-03-01T12:00:00+0000", "2026-03-01T12:00:00Z", "2026-03-01T14:00:00+02:00", "2026-03-01T12:00:00"],
)
def test_a_time_is_read_as_utc_however_it_is_written(text: str) -> None:
    node = MessageNode.model_validate({"id": "m_1", "created_time": text})
    assert node.created_time == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_epoch_seconds_are_a_time_too() -> None:
    node = MessageNode.model_validate({"id": "m_1", "created_time": 1772366400})
    assert node.created_time == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_numeric_ids_are_text() -> None:
    node = MessageNode.model_validate({"id": 123, "from": {"id": 456}})
    assert (node.id, node.sender and node.sender.id) == ("123", "456")


def test_an_id_that_no_index_can_hold_is_no_id() -> None:
    assert MessageNode.model_validate({"id": "x" * MAX_BYTES}).id == "x" * MAX_BYTES
    for mid in ("x" * (MAX_BYTES + 1), "ü" * MAX_BYTES, ""):
        with pytest.raises(ValidationError):
            MessageNode.model_validate({"id": mid})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created_time", "yesterday"),
        ("created_time", "0001-01-01T00:00:00+1200"),
        ("from", "somebody"),
        ("from", []),
        ("to", {"data": "somebody"}),
        ("message", {"text": "in a box"}),
        ("sticker", ["x"]),
    ],
)
def test_a_bad_field_of_a_message_costs_only_itself(field: str, value: Any) -> None:
    good = {"id": "m_1", "created_time": "2026-03-01T12:00:00+0000", "message": "hello", "from": {"id": "5"}}
    expected = MessageNode.model_validate({k: v for k, v in good.items() if k != field})
    assert MessageNode.model_validate({**good, field: value}) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("participants", []),
        ("message_count", "many"),
        ("message_count", 2**31),
        ("unread_count", -1),
        ("can_reply", "perhaps"),
    ],
)
def test_a_bad_field_of_a_conversation_costs_only_itself(field: str, value: Any) -> None:
    good = {"id": "t_1", "updated_time": "2026-03-01T12:00:00+0000"}
    assert ConversationNode.model_validate({**good, field: value}) == ConversationNode.model_validate(good)


def test_one_bad_participant_costs_no_other() -> None:
    node = ConversationNode.model_validate(
        {
            "id": "t_1",
            "updated_time": "2026-03-01T12:00:00+0000",
            "participants": {"data": [None, {"id": {}}, {"id": "5", "name": 7}]},
        }
    )
    assert node.participants is not None
    assert [(p.id, p.name) for p in node.participants.persons()] == [(None, None), ("5", "7")]


@pytest.mark.parametrize("row", [None, "m_1", [], {}, {"id": ""}, {"id": None}, {"id": "m_" + "x" * 2000}])
def test_a_message_without_a_usable_id_is_refused(row: object) -> None:
    with pytest.raises(ValidationError):
        MessageNode.model_validate(row)


@pytest.mark.parametrize("time", [None, "yesterday", "9999-12-31T23:59:59-1200"])
def test_a_conversation_without_a_time_is_refused(time: object) -> None:
    with pytest.raises(ValidationError):
        ConversationNode.model_validate({"id": "t_1", "updated_time": time})
