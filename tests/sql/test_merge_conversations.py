"""A conversation's receipts, Graph's fields, its last message; placeholders are in none of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sql.conversation_lists import Wanted, list_conversations
from sql.messages import list_messages
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
    from sql.rows import Row
    from sql.upsert import Connection


def receipt(kind: str, watermark: Any) -> list[Row]:
    return delivered(item(kind, {"watermark": watermark}, seconds=None))


async def test_receipts_only_rise(mirror: Connection) -> None:
    told = [receipt("read", ms(5)), receipt("read", ms(4)), receipt("delivery", ms(7)), receipt("delivery", ms(6))]
    conversation = (await after(mirror, *told)).conversation
    assert (conversation["read_watermark"], conversation["delivered_watermark"]) == (at(5), at(7))


async def test_a_receipt_that_rises_takes_no_other_down(mirror: Connection) -> None:
    for told, stored in (((5, 7), (5, 7)), ((4, 8), (5, 8)), ((6, 7), (6, 8))):
        await write(mirror, receipt("read", ms(told[0])), receipt("delivery", ms(told[1])))
        [conversation] = (await mirrored(mirror))["conversations"]
        assert conversation["read_watermark"] == at(stored[0])
        assert conversation["delivered_watermark"] == at(stored[1])


async def test_a_receipt_may_be_text_and_may_come_before_any_message(mirror: Connection) -> None:
    conversation = (await after(mirror, receipt("read", str(ms(5))), delivered(said("hi")))).conversation
    assert (conversation["read_watermark"], conversation["snippet"]) == (at(5), "hi")


async def test_graph_leaves_receipts_as_they_are(mirror: Connection) -> None:
    stored = await after(mirror, receipt("read", ms(5)), answered(listed=thread(updated=99)))
    assert stored.conversation["read_watermark"] == at(5)


# -- Graph's fields -----------------------------------------------------------------------------------------------


async def test_graphs_fields_are_those_of_the_newest_activity_whatever_was_read_last(mirror: Connection) -> None:
    newer = answered(listed=thread(updated=9, name="Bo", unread_count=0, message_count=4), observed=10)
    older = answered(listed=thread(updated=8, name="Zoe", unread_count=3, message_count=5), observed=20)
    conversation = (await after(mirror, newer, older)).conversation
    assert (conversation["name"], conversation["unread_count"], conversation["message_count"]) == ("Bo", 0, 4)
    assert conversation["updated_time"] == at(9)


async def test_of_one_activity_the_newest_reading_stands_then_the_greater_value(mirror: Connection) -> None:
    told = [
        answered(listed=thread(unread_count=count, can_reply=can_reply), observed=observed)
        for observed, count, can_reply in ((1, 9, True), (2, 3, False), (2, 2, False))
    ]
    conversation = (await after(mirror, *told)).conversation
    assert (conversation["unread_count"], conversation["can_reply"]) == (3, False)


async def test_a_field_that_graph_left_out_is_kept(mirror: Connection) -> None:
    told = [answered(listed=thread(updated=1, message_count=4)), answered(listed=thread(updated=2, name=""))]
    conversation = (await after(mirror, *told)).conversation
    assert (conversation["name"], conversation["message_count"]) == ("Ada", 4)


async def test_two_threads_of_a_person_are_one_conversation(mirror: Connection) -> None:
    one = answered(node("a", mid="m_1", seconds=1), listed=thread(updated=1, name="Old"), thread_id="t_1")
    two = answered(node("b", mid="m_2", seconds=2), listed=thread(updated=2, name="New"), thread_id="t_2")
    stored = await after(mirror, one, two)
    assert (stored.conversation["name"], stored.conversation["last_message_mid"]) == ("New", "m_2")
    assert [(t["thread_id"], t["psid"]) for t in stored["conversation_threads"]] == [("t_1", PERSON), ("t_2", PERSON)]


async def test_instagram_is_told_by_any_of_its_items(mirror: Connection) -> None:
    told = [
        delivered(item("referral", {"ref": "r"}), kind="instagram"),
        delivered(said("hi"), kind="instagram"),
        delivered(item("read", {"mid": "x"}), kind="instagram"),
    ]
    assert (await after(mirror, *told)).conversation["platform"] == "instagram"
    for alone in told:
        assert (await after(mirror, alone)).conversation["platform"] == "instagram"


async def test_the_platform_that_was_told_beats_the_one_assumed(mirror: Connection) -> None:
    [_, event] = delivered(item("referral", {"ref": "r"}), kind="instagram")
    told = [[event], delivered(said("hi"), kind="instagram")]
    assert (await after(mirror, *told)).conversation["platform"] == "instagram"


# -- the last message ---------------------------------------------------------------------------------------------


async def test_the_last_message_is_the_newest_whatever_came_last(mirror: Connection) -> None:
    told = [delivered(said("new", mid="m_1", seconds=2)), delivered(echoed("old", mid="m_2", seconds=1))]
    conversation = (await after(mirror, *told)).conversation
    assert (conversation["last_message_mid"], conversation["last_message_at"]) == ("m_1", at(2))
    assert (conversation["last_message_direction"], conversation["snippet"]) == ("inbound", "new")


async def test_a_conversation_changes_when_its_last_message_does(mirror: Connection) -> None:
    for seconds, told, changes in (
        (1, said("a"), True),
        (2, said("a"), False),
        (3, edited("b", seconds=1), True),
        (4, said("older", mid="m_0", seconds=-9), False),
    ):
        await write(mirror, delivered(told), now=at(seconds))
        assert (await mirror.fetchval("SELECT updated_at FROM conversations") == at(seconds)) is changes


async def test_of_two_messages_of_one_time_the_greater_id_is_last(mirror: Connection) -> None:
    told = [delivered(said(mid, mid=mid)) for mid in ("m_b", "m_a", "m_B")]
    assert (await after(mirror, *told)).conversation["last_message_mid"] == "m_b"


async def test_the_snippet_follows_an_edit_and_is_cut_short(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("first")), delivered(edited("x" * 999, seconds=1)))
    assert stored.conversation["snippet"] == "x" * 200


async def test_the_last_message_moves_when_a_better_time_of_it_is_told(mirror: Connection) -> None:
    told = [
        delivered(said("a", mid="m_1", seconds=5)),
        delivered(said("b", mid="m_2", seconds=None), entry_time=9),
        answered(node("b", mid="m_2", seconds=4)),
    ]
    assert (await after(mirror, *told)).conversation["last_message_mid"] == "m_1"


async def test_a_person_of_two_pages_has_two_conversations(mirror: Connection) -> None:
    item_of_202 = item("message", {"mid": "m_one", "text": "there"}, page_id="202")
    stored = await after(mirror, delivered(said("here")), delivered(item_of_202, page_id="202"))
    assert [(c["page_id"], c["psid"], c["snippet"]) for c in stored["conversations"]] == [
        (PAGE, PERSON, "here"),
        ("202", PERSON, "there"),
    ]
    assert [m["text"] for m in stored["messages"]] == ["here", "there"]


# -- placeholders -------------------------------------------------------------------------------------------------


async def test_a_placeholder_is_in_no_list_no_count_and_no_last_message(mirror: Connection) -> None:
    nameless = {"id": "m_4"}
    told = [
        delivered(edited("edit", mid="m_1", seconds=90)),
        delivered(reacted("❤", mid="m_2", seconds=91)),
        delivered(unsent(mid="m_3", seconds=92)),
        answered(nameless, listed=thread()),
    ]
    stored = await after(mirror, *told)
    assert [m["mid"] for m in stored["messages"]] == ["m_1", "m_2", "m_3", "m_4"]
    assert stored.conversation["last_message_mid"] is None
    counts = await write(mirror, *told)
    assert (counts.inserted, counts.updated) == (0, 0)
    assert await list_messages(mirror, PAGE, PERSON, after=None, limit=9) == []
    assert await list_conversations(mirror, Wanted(PAGE), after=None, limit=9, count=True) == ([], 0)


async def test_a_placeholder_is_not_the_last_message_beside_one_that_is(mirror: Connection) -> None:
    stored = await after(mirror, delivered(edited("edit", mid="m_z", seconds=90)), delivered(said("hi", mid="m_a")))
    assert stored.conversation["last_message_mid"] == "m_a"


async def test_a_placeholder_is_inserted_when_its_message_comes(mirror: Connection) -> None:
    await write(mirror, delivered(edited("edit", seconds=9)), delivered(reacted("❤")))
    counts = await write(mirror, delivered(said("text")))
    assert (counts.inserted, counts.updated) == (1, 0)
    [message] = await list_messages(mirror, PAGE, PERSON, after=None, limit=9)
    assert (message["text"], message["is_edited"]) == ("edit", True)
    assert message["reactions"] == [
        {"actor": PERSON, "reaction": "other", "emoji": "❤", "reacted_at": "2031-05-06T07:08:09.000000Z"}
    ]
    assert len((await list_conversations(mirror, Wanted(PAGE), after=None, limit=9)).rows) == 1


async def test_an_unsent_message_stays_in_the_list_without_its_text(mirror: Connection) -> None:
    await write(mirror, delivered(said("secret")), delivered(unsent(seconds=9)))
    [message] = await list_messages(mirror, PAGE, PERSON, after=None, limit=9)
    assert (message["is_deleted"], message["text"]) == (True, None)


async def test_a_message_of_which_only_the_time_is_known_is_a_message(mirror: Connection) -> None:
    await write(mirror, answered(stub(seconds=3), listed=thread()))
    [conversation] = (await mirrored(mirror))["conversations"]
    assert (conversation["last_message_mid"], conversation["snippet"]) == ("m_one", None)
    assert conversation["last_message_at"] == datetime(2031, 5, 6, 7, 8, 12, tzinfo=UTC)
