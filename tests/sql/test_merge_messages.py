"""A message's registers, what readers see of them, its time, and its unsend."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from sql.rows import SENT_BY_GRAPH_CLOCK, SENT_BY_WEBHOOK_CLOCK, SENT_ESTIMATED, SENT_UNKNOWN
from tests.sql.doors import (
    PAGE,
    PERSON,
    answered,
    at,
    delivered,
    echoed,
    edited,
    item,
    ms,
    node,
    reacted,
    said,
    stub,
    thread,
    unsent,
    write,
)
from tests.sql.mirrored import after, mirrored

if TYPE_CHECKING:
    from sql.upsert import Connection


# -- original -----------------------------------------------------------------------------------------------------


async def test_a_webhooks_message_is_stored_with_all_it_holds(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("hi", quick_reply={"payload": "p"}, reply_to={"mid": "m_zero"})))
    message = stored.message
    assert (message["page_id"], message["mid"], message["psid"]) == (PAGE, "m_one", PERSON)
    assert (message["direction"], message["text"], message["reply_to"]) == ("inbound", "hi", "m_zero")
    assert message["sent_at"] == at(0)
    assert message["original"]["quick_reply"] == {"payload": "p"}


async def test_an_echo_is_outbound_and_tells_its_app(mirror: Connection) -> None:
    message = (await after(mirror, delivered(echoed()))).message
    assert (message["direction"], message["psid"], message["app_id"]) == ("outbound", PERSON, "4400")


async def test_a_field_that_one_copy_lacks_is_kept_from_the_other(mirror: Connection) -> None:
    first = delivered(said("hi", quick_reply={"payload": "p"}))
    second = delivered(said("hi", reply_to={"mid": "m_zero"}), via="standby")
    original = (await after(mirror, first, second)).message["original"]
    assert original == {"text": "hi", "quick_reply": {"payload": "p"}, "reply_to": "m_zero"}


async def test_of_two_values_of_a_field_the_greater_stands(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("a")), delivered(said("b")), delivered(said(None)))
    assert stored.message["text"] == "b"


async def test_a_postback_and_its_standby_copy_without_payload_are_one_message(mirror: Connection) -> None:
    whole = delivered(item("postback", {"mid": "m_one", "title": "Buy", "payload": "p"}))
    copy = delivered(item("postback", {"mid": "m_one", "title": "Buy"}), via="standby")
    message = (await after(mirror, whole, copy)).message
    assert (message["text"], message["direction"]) == ("Buy", "inbound")
    assert message["original"]["postback"] == {"title": "Buy", "payload": "p"}


async def test_empty_text_is_null_at_both_doors(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("")), answered(node("")))
    assert stored.message["text"] is None


async def test_an_id_without_prefix_is_the_same_message(mirror: Connection) -> None:
    stored = await after(
        mirror, delivered(said("hi", mid="one")), answered(node("hi")), delivered(reacted("❤", mid="one"))
    )
    assert stored.message["mid"] == "m_one"


# -- edits --------------------------------------------------------------------------------------------------------


async def test_the_greatest_edit_is_seen_whatever_came_last(mirror: Connection) -> None:
    stored = await after(
        mirror,
        delivered(said("first")),
        delivered(edited("second", number=2, seconds=20)),
        delivered(edited("tenth", number=10, seconds=15)),
    )
    assert stored.message["text"] == "tenth"
    assert stored.message["edits"] == {"2": [ms(20), "second"], "10": [ms(15), "tenth"]}


async def test_of_one_edit_the_newest_text_stands_then_the_greater(mirror: Connection) -> None:
    told = [delivered(edited("z", seconds=1)), delivered(edited("a", seconds=2)), delivered(edited("b", seconds=2))]
    stored = await after(mirror, *told)
    assert stored.message["text"] == "b"


async def test_an_edit_without_a_time_of_its_own_loses_to_one_that_has_it(mirror: Connection) -> None:
    real = delivered(edited("a", seconds=1))
    estimated = [delivered(edited(text, seconds=None), entry_time=seconds) for text, seconds in (("y", 30), ("z", 31))]
    assert (await after(mirror, real, *estimated)).message["text"] == "a"
    assert (await after(mirror, *estimated)).message["text"] == "y"


async def test_an_edit_to_nothing_leaves_no_text(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("a")), delivered(edited("", seconds=1)))
    assert stored.message["text"] is None


# -- Graph --------------------------------------------------------------------------------------------------------


async def test_graph_is_seen_before_the_original_whatever_its_time(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("webhook", seconds=500)), answered(node("graph"), observed=1))
    assert stored.message["text"] == "graph"


async def test_an_edit_is_seen_before_graph_unless_graph_was_read_after_it(mirror: Connection) -> None:
    edit = delivered(edited("edited", seconds=50))
    for observed, seen in ((49, "edited"), (50, "edited"), (51, "graph")):
        stored = await after(mirror, edit, answered(node("graph"), observed=observed))
        assert stored.message["text"] == seen


async def test_graph_that_shows_no_text_hides_no_edit(mirror: Connection) -> None:
    stored = await after(mirror, delivered(edited("edited", seconds=50)), answered(node(""), observed=99))
    assert stored.message["text"] == "edited"


async def test_of_two_readings_of_graph_the_newer_stands_field_by_field(mirror: Connection) -> None:
    older = answered(node("z", reply_to={"mid": "m_zero"}), observed=1)
    newer = answered(node("a"), observed=2)
    tied = answered(node("b"), observed=2)
    message = (await after(mirror, older, newer, tied)).message
    assert (message["text"], message["reply_to"]) == ("b", "m_zero")


async def test_a_stub_overwrites_nothing(mirror: Connection) -> None:
    full = answered(
        node("text", reactions={"data": [{"reaction": "❤", "users": [{"id": PERSON}]}]}), reactions_asked=True
    )
    stored = await after(mirror, full, answered(stub(), listed=thread(), observed=999, reactions_asked=True))
    assert (stored.message["text"], stored.message["direction"]) == ("text", "inbound")
    assert stored.message["reactions_observed_at"] == at(100)
    assert stored.reactions == {PERSON: "❤"}


async def test_a_stub_alone_is_a_message_with_nothing_but_its_time(mirror: Connection) -> None:
    message = (await after(mirror, answered(stub(seconds=7), listed=thread()))).message
    assert (message["sent_at"], message["text"], message["direction"]) == (at(7), None, None)


async def test_reply_to_of_graph_goes_before_that_of_the_webhook(mirror: Connection) -> None:
    webhook = delivered(said(reply_to={"mid": "m_zz"}))
    stored = await after(mirror, webhook, answered(node(reply_to={"mid": "aa"})))
    assert stored.message["reply_to"] == "m_aa"


# -- time ---------------------------------------------------------------------------------------------------------


async def test_a_webhooks_own_milliseconds_beat_graphs_whole_second(mirror: Connection) -> None:
    message = (await after(mirror, delivered(said(seconds=3.456)), answered(node(seconds=3)))).message
    assert (message["sent_at"], message["sent_at_rank"]) == (at(3.456), SENT_BY_WEBHOOK_CLOCK)


async def test_graphs_second_beats_an_estimate(mirror: Connection) -> None:
    message = (await after(mirror, delivered(said(seconds=None), entry_time=1), answered(node(seconds=3)))).message
    assert (message["sent_at"], message["sent_at_rank"]) == (at(3), SENT_BY_GRAPH_CLOCK)


async def test_of_two_times_alike_the_least_stands(mirror: Connection) -> None:
    own = [delivered(said(seconds=seconds)) for seconds in (3.5, 3.25)]
    assert (await after(mirror, *own)).message["sent_at"] == at(3.25)
    of_graph = [answered(node(seconds=seconds)) for seconds in (4, 3)]
    assert (await after(mirror, *of_graph)).message["sent_at"] == at(3)
    estimated = [delivered(said(seconds=None), entry_time=seconds) for seconds in (31, 30)]
    message = (await after(mirror, *estimated)).message
    assert (message["sent_at"], message["sent_at_rank"]) == (at(30), SENT_ESTIMATED)


async def test_without_any_time_of_facebooks_the_least_receipt_stands(mirror: Connection) -> None:
    told = [delivered(said(seconds=None), entry_time=None, received=seconds) for seconds in (60.000002, 60.000001)]
    assert (await after(mirror, *told)).message["sent_at"] == at(60.000001)


# -- unsend -------------------------------------------------------------------------------------------------------


async def test_an_unsend_leaves_time_person_and_direction_and_nothing_else(mirror: Connection) -> None:
    picture = {"type": "image", "payload": {"url": "https://scontent.xx.fbcdn.net/a.jpg?oe=7f000000&oh=1"}}
    stored = await after(
        mirror,
        delivered(said("secret", seconds=3, attachments=[picture])),
        delivered(edited("secret too", seconds=4)),
        delivered(reacted("❤", seconds=5)),
        delivered(unsent(seconds=6)),
    )
    message = stored.message
    assert (message["is_deleted"], message["deleted_at"]) == (True, at(6))
    assert (message["sent_at"], message["psid"], message["direction"]) == (at(3), PERSON, "inbound")
    gone = ("text", "attachments", "original", "edits", "graph", "reply_to", "app_id", "reactions_observed_at")
    assert all(message[field] is None for field in gone)
    assert message["links"] == []
    assert stored["message_reactions"] == []
    assert stored.conversation["snippet"] is None
    assert stored.conversation["last_message_mid"] == "m_one"


async def test_what_graph_still_shows_of_an_unsent_message_is_not_stored(mirror: Connection) -> None:
    listed = [{"reaction": "❤", "users": [{"id": PERSON}]}]
    shown = answered(node("secret", reactions={"data": listed}), observed=999, reactions_asked=True)
    stored = await after(mirror, delivered(unsent(seconds=6)), shown)
    assert (stored.message["text"], stored.message["graph"], stored["message_reactions"]) == (None, None, [])
    assert (stored.message["sent_at"], stored.message["thread_id"]) == (at(0), "t_31")


async def test_an_unsend_that_names_nobody_takes_the_text_all_the_same(mirror: Connection) -> None:
    nobodys = unsent(seconds=6)
    del nobodys["sender"]
    stored = await after(mirror, delivered(said("secret")), delivered(nobodys))
    assert (stored.message["is_deleted"], stored.message["text"], stored.message["psid"]) == (True, None, PERSON)
    assert stored.conversation["snippet"] is None


async def test_an_unsend_of_nobodys_unknown_message_is_kept_for_when_it_comes(mirror: Connection) -> None:
    nobodys = unsent(seconds=6)
    del nobodys["sender"]
    await write(mirror, delivered(nobodys))
    [message] = (await mirrored(mirror))["messages"]
    assert (message["psid"], message["is_deleted"], message["sent_at_rank"]) == (None, True, SENT_UNKNOWN)


async def test_of_two_unsends_the_first_time_stands_and_a_real_one_before_an_estimate(mirror: Connection) -> None:
    real = [delivered(unsent(seconds=seconds)) for seconds in (7, 6)]
    estimated = [delivered(unsent(seconds=None), entry_time=seconds) for seconds in (2, 1)]
    assert (await after(mirror, *real, *estimated)).message["deleted_at"] == at(6)
    assert (await after(mirror, *estimated)).message["deleted_at"] == at(1)


# -- direction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [*product(["webhook", "graph"], repeat=2)])
async def test_who_sent_it_is_told_alike_by_both_doors(mirror: Connection, first: str, second: str) -> None:
    by_page: dict[str, Any] = {"from": {"id": PAGE}, "to": {"data": [{"id": PERSON}]}}
    doors = {"webhook": delivered(echoed("hi")), "graph": answered(node("hi", **by_page))}
    message = (await after(mirror, doors[first], doors[second])).message
    assert (message["direction"], message["psid"]) == ("outbound", PERSON)
