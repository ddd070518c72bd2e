"""Every other item: kept once by its own identity, however often and in whatever envelope it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sql.json_values import dumps
from sql.rows import Event
from tests.sql.doors import PAGE, PERSON, at, delivered, item, write
from tests.sql.mirrored import after, mirrored

if TYPE_CHECKING:
    from sql.rows import Row
    from sql.upsert import Connection


@dataclass
class Told:
    """An event's row, of the same identity unless said otherwise."""

    kind: str = "order"
    via: str = "messaging"
    psid: str | None = PERSON
    mid: str | None = None
    seconds: float = 0.0
    is_estimated: bool = False
    payload: Any = None

    def row(self) -> list[Row]:
        return [
            Event(
                PAGE,
                "its key",
                self.psid,
                self.kind,
                self.via,
                self.mid,
                at(self.seconds),
                self.is_estimated,
                dumps(self.payload or {}),
                at(60),
                at(60).date(),
                UUID(int=1),
            )
        ]


async def test_an_item_that_came_twice_is_one_event(mirror: Connection) -> None:
    referral = item("referral", {"ref": "r", "source": "ADS"})
    told = [delivered(referral, entry_time=30), delivered(referral, number=2, entry_time=31, received=99)]
    [event] = (await after(mirror, *told))["conversation_events"]
    assert (event["kind"], event["psid"], event["occurred_at"]) == ("referral", PERSON, at(0))
    assert event["payload"] == referral


async def test_items_that_differ_in_anything_are_two_events(mirror: Connection) -> None:
    told = [delivered(item("referral", {"ref": ref}, seconds=s)) for ref, s in (("r", 0), ("s", 0), ("r", 1))]
    assert len((await after(mirror, *told))["conversation_events"]) == 3


async def test_an_id_as_a_number_is_the_same_id(mirror: Connection) -> None:
    text = item("pass_thread_control", {"new_owner_app_id": "123"})
    number = item("pass_thread_control", {"new_owner_app_id": 123})
    stored = await after(mirror, delivered(text), delivered(number | {"sender": {"id": int(PERSON)}}))
    assert len(stored["conversation_events"]) == 1


async def test_a_postback_without_mid_and_its_standby_copy_are_one_with_the_payload(mirror: Connection) -> None:
    whole = delivered(item("postback", {"title": "Buy", "payload": "p"}))
    copy = delivered(item("postback", {"title": "Buy"}), via="standby")
    [event] = (await after(mirror, whole, copy))["conversation_events"]
    assert event["payload"]["postback"] == {"title": "Buy", "payload": "p"}
    assert (event["kind"], event["via"]) == ("postback", "messaging")


async def test_two_taps_on_a_button_are_two_postbacks(mirror: Connection) -> None:
    taps = [delivered(item("postback", {"title": "Buy"}, seconds=seconds)) for seconds in (0, 0.001)]
    assert len((await after(mirror, *taps))["conversation_events"]) == 2


async def test_an_event_without_a_time_of_its_own_keeps_the_least_it_was_sent_at(mirror: Connection) -> None:
    order = item("order", {"products": []}, seconds=None)
    [event] = (await after(mirror, delivered(order, entry_time=31), delivered(order, entry_time=30)))[
        "conversation_events"
    ]
    assert (event["occurred_at"], event["occurred_at_is_estimated"]) == (at(30), True)


async def test_of_two_times_the_least_stands_and_a_real_one_before_an_estimate(mirror: Connection) -> None:
    told = [Told(seconds=5), Told(seconds=4), Told(seconds=1, is_estimated=True)]
    [event] = (await after(mirror, *(t.row() for t in told)))["conversation_events"]
    assert (event["occurred_at"], event["occurred_at_is_estimated"]) == (at(4), False)


async def test_a_kind_that_has_a_name_beats_unknown(mirror: Connection) -> None:
    [event] = (await after(mirror, Told(kind="unknown").row(), Told(kind="zebra").row()))["conversation_events"]
    assert event["kind"] == "zebra"


async def test_fields_are_merged_present_beats_absent_then_the_greater(mirror: Connection) -> None:
    told = [Told(payload={"a": 1, "b": "x"}), Told(payload={"b": "y", "c": None}), Told(payload={"c": [1]})]
    [event] = (await after(mirror, *(t.row() for t in told)))["conversation_events"]
    assert event["payload"] == {"a": 1, "b": "y", "c": [1]}


async def test_person_and_message_of_an_event_are_kept_from_whichever_copy_names_them(mirror: Connection) -> None:
    told = [Told(psid=None, mid="m_one"), Told(mid=None), Told(psid=None, mid=None, via="standby")]
    [event] = (await after(mirror, *(t.row() for t in told)))["conversation_events"]
    assert (event["psid"], event["mid"], event["via"]) == (PERSON, "m_one", "messaging")


async def test_a_richer_copy_changes_nothing_that_it_tells_worse(mirror: Connection) -> None:
    first = Told(mid="m_one", payload={"a": 1})
    richer = Told(kind="unknown", via="standby", psid=None, seconds=9, payload={"b": 2})
    [event] = (await after(mirror, first.row(), richer.row()))["conversation_events"]
    assert (event["kind"], event["via"], event["psid"], event["mid"]) == ("order", "messaging", PERSON, "m_one")
    assert (event["occurred_at"], event["payload"]) == (at(0), {"a": 1, "b": 2})


async def test_an_item_of_nobody_is_an_event_without_a_conversation(mirror: Connection) -> None:
    optin = {"recipient": {"id": PAGE}, "timestamp": 1_935_817_689_000, "optin": {"ref": "r", "user_ref": "u"}}
    stored = await after(mirror, delivered(optin))
    assert [(e["kind"], e["psid"]) for e in stored["conversation_events"]] == [("optin", None)]
    assert stored["conversations"] == []


async def test_counts_tell_new_events_from_known_ones(mirror: Connection) -> None:
    first = await write(mirror, Told(payload={"a": 1}).row(), Told(payload={"b": 1}).row())
    assert (first.inserted, first.updated, first.unchanged) == (1, 0, 0)
    again = await write(mirror, Told(payload={"a": 1}).row())
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 1)
    richer = await write(mirror, Told(payload={"z": 1}).row())
    assert (richer.inserted, richer.updated, richer.unchanged) == (0, 1, 0)


async def test_an_event_known_already_is_not_written_again(mirror: Connection) -> None:
    await write(mirror, Told(payload={"a": 1}).row())
    before = await mirror.fetchval("SELECT xmin FROM conversation_events")
    await write(mirror, Told(payload={"a": 1}, seconds=9).row())
    assert await mirror.fetchval("SELECT xmin FROM conversation_events") == before
    assert len((await mirrored(mirror))["conversation_events"]) == 1
