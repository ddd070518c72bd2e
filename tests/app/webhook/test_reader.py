from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import structlog

from app.webhook import projection, reader
from app.webhook.event import CHANGE_KINDS, EVENT_KINDS
from app.webhook.payload import MAX_ID, milliseconds, read_time
from app.webhook.projection import Door
from app.webhook.reader import read_body
from sql.mids import MAX_BYTES
from sql.rows import SENT_BY_WEBHOOK_CLOCK, SENT_ESTIMATED, Event, Message, Reaction
from tests.app.webhook.support import MID, PAGE, PSID, SENT_AT, delivery_of, escaped, text_item

if TYPE_CHECKING:
    from app.webhook.reader import Reading
    from sql.rows import Row

RECEIVED = datetime(2031, 3, 14, 1, 59, 26, 535_897, tzinfo=UTC)
DOOR = Door(RECEIVED, RECEIVED.date(), UUID(int=7))
FOLDER = Path(__file__).parents[2] / "data" / "webhooks"
BODIES = {path.stem: json.loads(path.read_bytes())["body"] for path in sorted(FOLDER.glob("*.json"))}


def read(body: Any) -> Reading:
    return read_body(body if isinstance(body, bytes) else escaped(body), DOOR)


def rows_of(body: Any) -> list[Row]:
    return [row for item in read(body).items for row in item.rows]


def keys_of(body: Any) -> list[tuple[str, str, str | None]]:
    """What events are known by, wherever and in whatever form they came."""
    return [(row.event_key, row.kind, row.psid) for row in rows_of(body) if isinstance(row, Event)]


def test_every_kind_of_the_catalogue_has_a_body() -> None:
    seen = {kind for body in BODIES.values() for kind in read(body).kinds}
    states = {"message", "echo", "deleted", "postback", "message_edit", "reaction", "delivery", "read"}
    assert seen == {*states, *EVENT_KINDS.values(), *CHANGE_KINDS.values(), "call", "permission", "unknown"}


@pytest.mark.parametrize("name", [name for name, body in BODIES.items() if "standby" not in str(body)])
def test_in_standby_an_item_is_what_it_is_in_messaging(name: str) -> None:
    there = json.loads(json.dumps(BODIES[name]).replace('"messaging": [', '"standby": ['))
    assert [row._replace(via="messaging") if isinstance(row, Event) else row for row in rows_of(there)] == [
        row._replace(via="messaging") if isinstance(row, Event) else row for row in rows_of(BODIES[name])
    ]


@pytest.mark.parametrize("name", BODIES)
def test_an_id_that_is_a_number_is_the_same_id(name: str) -> None:
    def with_numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: int(v) if k == "id" and isinstance(v, str) and v.isdigit() else with_numbers(v)
                for k, v in value.items()
            }
        return [with_numbers(v) for v in value] if isinstance(value, list) else value

    body = BODIES[name]
    numbered = with_numbers(body)
    assert keys_of(numbered) == keys_of(body)
    known_by = [row[:3] for row in rows_of(body) if not isinstance(row, Event)]
    assert [row[:3] for row in rows_of(numbered) if not isinstance(row, Event)] == known_by


@pytest.mark.parametrize("name", BODIES)
def test_when_facebook_sent_an_item_is_no_part_of_what_it_is_known_by(name: str) -> None:
    later = json.loads(json.dumps(BODIES[name]).replace("1760000000456", "1760000999999"))
    assert keys_of(later) == keys_of(BODIES[name])


def test_a_secret_is_no_part_of_any_row() -> None:
    for name in ("account_linked", "optin_notifications", "optin_one_time"):
        text = str(rows_of(BODIES[name]))
        assert "one-time-code-881" not in text
        assert "112233445566778899" not in text
        assert "sha256:" in text


def test_events_that_differ_in_a_secret_alone_are_two() -> None:
    body = json.dumps(BODIES["account_linked"])
    assert keys_of(json.loads(body.replace("one-time-code-881", "another"))) != keys_of(json.loads(body))


def test_the_same_secret_has_the_same_fingerprint_in_every_event() -> None:
    payloads = [
        json.loads(row.payload)["optin"]["notification_messages_token"]
        for name in ("optin_notifications", "optin_notifications_stop", "optin_notifications_resume")
        for row in rows_of(BODIES[name])
        if isinstance(row, Event)
    ]
    assert len(payloads) == 3
    assert len(set(payloads)) == 1


def test_taps_of_two_persons_or_two_moments_or_two_buttons_are_different_events() -> None:
    def tap(person: str = PSID, at: int = SENT_AT, title: str = "Talk") -> Any:
        item = {"sender": {"id": person}, "recipient": {"id": PAGE}, "timestamp": at, "postback": {"title": title}}
        return keys_of(delivery_of(item))[0]

    assert len({tap(), tap(person="7300000000000022"), tap(at=SENT_AT + 1), tap(title="Buy")}) == 4


@pytest.mark.parametrize(("timestamp", "rank"), [(SENT_AT, SENT_BY_WEBHOOK_CLOCK), (None, SENT_ESTIMATED)])
@pytest.mark.parametrize(
    "body", [{"message": {"mid": MID, "text": "Talk"}}, {"postback": {"mid": MID, "title": "Talk"}}]
)
def test_a_time_that_the_item_does_not_tell_is_flagged(body: dict[str, Any], timestamp: int | None, rank: int) -> None:
    parties = {"sender": {"id": PSID}, "recipient": {"id": PAGE}}
    item = parties | body | ({"timestamp": timestamp} if timestamp is not None else {})
    [message] = [row for row in rows_of(delivery_of(item)) if isinstance(row, Message)]
    assert message.sent_at_rank == rank


def test_each_step_of_a_call_is_an_event_of_its_own_and_its_repetition_is_not() -> None:
    def step(**call: Any) -> Any:
        return keys_of(delivery_of({"id": "c_1", "timestamp": 1_760_000_000} | call, via="calls"))[0][0]

    steps = [
        step(event="connect"),
        step(event="call_status", call_status="ringing"),
        step(event="call_status", call_status="accepted"),
        step(event="media_update", session={"version": 1}),
        step(event="media_update", session={"version": 2}),
        step(event="terminate"),
    ]
    assert len(set(steps)) == len(steps)
    assert step(event="connect", timestamp=1_760_000_009) == steps[0]


@pytest.mark.parametrize("name", ["unknown_item", "unknown_beside_message", "change_unknown", "unknown_entry_key"])
def test_a_key_that_nobody_knows_is_counted_by_its_name(name: str) -> None:
    names = {"change_unknown": ["changes:telepathy"], "unknown_entry_key": ["aura"]}
    assert read(BODIES[name]).unknown == names.get(name, ["telepathy"])


def test_what_is_known_is_not_counted_as_unknown() -> None:
    unknown = {
        "change_unknown",
        "numbers_refused",
        "unknown_beside_message",
        "unknown_entry_key",
        "unknown_item",
        "unknown_object",
    }
    assert {name for name, body in BODIES.items() if read(body).unknown} == unknown


def test_a_delivery_tells_how_many_tests_of_the_dashboard_it_holds() -> None:
    reading = read(BODIES["test_beside_message"])
    assert (reading.tests, len(reading.items), reading.dead_letters) == (1, 1, [])


@pytest.mark.parametrize("body", [b"", b"hello", b'{"entry":[', b"\xff\xfe"])
def test_a_body_that_is_not_json_is_one_dead_letter(body: bytes) -> None:
    reading = read(body)
    assert reading.items == []
    assert [path for path, _ in reading.dead_letters] == [""]
    assert reading.dead_letters[0][1].startswith("not JSON")


def test_past_the_most_items_a_delivery_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_ITEMS", 3)
    reading = read(delivery_of(*(text_item(n) for n in range(5))))
    assert len(reading.items) == 3
    assert reading.dead_letters == [("entry[0].messaging[3]", "more than 3 items: from here on it was not read")]


def test_misshapen_items_count_towards_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_ITEMS", 3)
    assert len(read(delivery_of(*[7] * 1_000)).dead_letters) == 4


def test_an_item_that_our_own_code_fails_on_is_a_dead_letter_and_its_neighbours_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = projection.project

    def project(item: Any, door: Door) -> Any:
        if item.path.endswith("[1]"):
            raise KeyError("private text")
        return real(item, door)

    capture = structlog.testing.LogCapture()
    monkeypatch.setattr(reader, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[capture]))
    monkeypatch.setattr(reader, "project", project)
    reading = read(delivery_of(text_item(1), text_item(2), text_item(3)))
    assert [item.path for item in reading.items] == ["entry[0].messaging[0]", "entry[0].messaging[2]"]
    assert reading.dead_letters == [("entry[0].messaging[1]", "not understood: KeyError")]
    assert [entry["event"] for entry in capture.entries] == ["item_not_understood"]
    assert "private" not in str(capture.entries)


def test_a_reason_quotes_nothing_of_the_item() -> None:
    item = text_item(1, mid={"private": "text"}, text=["private text"], is_echo="private text")
    (letter,) = read(delivery_of(item)).dead_letters
    assert "private" not in letter[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"message": {"mid": "x" * (MAX_BYTES + 1)}}, f"message.mid: an id has at most {MAX_BYTES} bytes"),
        ({"message": {"mid": "ü" * MAX_BYTES}}, f"message.mid: an id has at most {MAX_BYTES} bytes"),
        ({"message": {"text": "no mid"}}, "message.mid: Field required"),
        ({"sender": {"id": "9" * (MAX_ID + 1)}}, f"sender.id: String should have at most {MAX_ID} characters"),
        ({"sender": "7300"}, "sender: Input should be a valid dictionary or instance of Party"),
        ({"reaction": {"mid": MID}}, "reaction.action: Field required"),
        ({"message_edit": {"mid": MID, "num_edit": "many"}}, "message_edit.num_edit: Input should be a valid integer"),
    ],
)
def test_an_item_that_cannot_be_a_row_tells_which_field_is_to_blame(change: dict[str, Any], reason: str) -> None:
    (letter,) = read(delivery_of(text_item() | change)).dead_letters
    assert letter[0] == "entry[0].messaging[0]"
    assert letter[1].startswith(reason)


def test_ids_of_the_greatest_length_are_read() -> None:
    item = text_item() | {"sender": {"id": "9" * MAX_ID}, "message": {"mid": "x" * MAX_BYTES}}
    assert read(delivery_of(item, page_id="8" * MAX_ID)).dead_letters == []


def test_one_item_may_hold_several_kinds() -> None:
    item = text_item() | {
        "reaction": {"mid": MID, "action": "react", "emoji": "👍"},
        "read": {"watermark": SENT_AT},
        "order": {"note": "gift"},
        "referral": {"ref": "flyer"},
    }
    reading = read(delivery_of(item))
    assert reading.kinds == ["message", "reaction", "read", "order", "referral"]
    rows = reading.items[0].rows
    assert {row.mid for row in rows if isinstance(row, Message)} == {"m_unit_0001", MID}
    assert [row.actor for row in rows if isinstance(row, Reaction)] == [PSID]
    assert [row.kind for row in rows if isinstance(row, Event)] == ["order"]


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (SENT_AT, SENT_AT),
        (str(SENT_AT), SENT_AT),
        (float(SENT_AT), SENT_AT),
        (1_760_000_000, 1_760_000_000_000),
        ("1760000000", 1_760_000_000_000),
        (1_075_593_600, 1_075_593_600_000),
        (999_999_999_999, None),
        (10**12, None),
        (1_075_593_600_000, 1_075_593_600_000),
        (4_102_444_800_000, None),
        (1_075_593_599, None),
        (0, None),
        (-1, None),
        (10**15, None),
        (10**400, None),
        (True, None),
        (None, None),
        ("", None),
        ("soon", None),
        ("9" * 5_000, None),
        ("2025-10-09T08:53:20Z", None),
        (float("inf"), None),
        (float("nan"), None),
        ([], None),
        ({}, None),
    ],
)
def test_a_time_is_read_in_milliseconds_or_seconds_or_not_at_all(value: object, ms: int | None) -> None:
    read_at = read_time(value)
    assert (milliseconds(read_at) if read_at else None) == ms
