"""Whose a thread is; until that is known its id stands in, and what stands there moves when it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sql.conversations import person_of_thread
from sql.rekey import rekey
from tests.sql.doors import (
    NOBODY,
    PAGE,
    PERSON,
    THREAD,
    answered,
    at,
    delivered,
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


def unclaimed(*messages: dict[str, Any], **more: Any) -> list[Row]:
    """An answer that shows no person."""
    return answered(*messages, listed=thread(person=None, **more))


def nodes_of_nobody(*mids: str) -> list[dict[str, Any]]:
    return [node(mid, mid=mid, seconds=n, **NOBODY) for n, mid in enumerate(mids)]


async def test_the_person_is_whoever_is_not_the_page_among_the_participants(mirror: Connection) -> None:
    for participants in ([PAGE, PERSON], [PERSON, PAGE]):
        listed = thread() | {"participants": {"data": [{"id": who} for who in participants]}}
        stored = await after(mirror, answered(stub(), listed=listed))
        assert (stored.message["psid"], stored.conversation["psid"]) == (PERSON, PERSON)


async def test_a_page_whose_id_is_the_greater_is_not_the_person(mirror: Connection) -> None:
    listed = thread() | {"participants": {"data": [{"id": "9999"}, {"id": PERSON}]}}
    of_page: dict[str, Any] = {"from": {"id": "9999"}, "to": {"data": [{"id": PERSON}]}}
    for shows in (answered(listed=listed, page_id="9999"), answered(node(**of_page), page_id="9999")):
        assert (await after(mirror, shows)).conversation["psid"] == PERSON


async def test_the_person_is_sought_in_any_messages_from_and_to(mirror: Connection) -> None:
    parties: dict[str, Any] = {"from": {"id": PAGE}, "to": {"data": [{"id": PERSON}]}}
    of_page = node("a", mid="m_1", **parties)
    for shows in (of_page, node("a", mid="m_1")):
        stored = await after(mirror, unclaimed(stub(mid="m_0"), shows))
        assert stored.conversation["psid"] == PERSON
        assert {m["psid"] for m in stored["messages"]} == {PERSON}


async def test_the_person_is_told_by_a_stored_message_of_the_thread(mirror: Connection) -> None:
    stored = await after(mirror, delivered(said("b", mid="b", seconds=1)), unclaimed(*nodes_of_nobody("m_a", "m_b")))
    assert stored.conversation["psid"] == PERSON
    assert {m["psid"] for m in stored["messages"]} == {PERSON}
    assert stored["conversation_threads"][0]["psid"] == PERSON


async def test_a_placeholder_and_a_tombstone_tell_the_person_too(mirror: Connection) -> None:
    for tells in (delivered(reacted("❤", mid="m_b")), delivered(unsent(mid="m_b", seconds=1))):
        stored = await after(mirror, tells, unclaimed(*nodes_of_nobody("m_a", "m_b")))
        assert stored.conversation["psid"] == PERSON
        assert {m["psid"] for m in stored["messages"]} == {PERSON}


async def test_an_unsend_of_nobody_tells_no_person(mirror: Connection) -> None:
    nobodys = unsent(mid="m_a", seconds=1)
    del nobodys["sender"]
    stored = await after(mirror, delivered(nobodys), unclaimed(*nodes_of_nobody("m_a")))
    assert (stored.message["psid"], stored.message["is_deleted"]) == (THREAD, True)


async def test_until_the_person_is_known_the_threads_id_stands_in(mirror: Connection) -> None:
    stored = await after(mirror, unclaimed(*nodes_of_nobody("m_a")))
    assert (stored.message["psid"], stored.message["thread_id"]) == (THREAD, THREAD)
    assert (stored.conversation["psid"], stored.conversation["last_message_mid"]) == (THREAD, "m_a")
    assert stored["conversation_threads"][0]["psid"] == THREAD


async def test_the_thread_of_one_page_is_not_anothers(mirror: Connection) -> None:
    other = answered(*nodes_of_nobody("m_z"), page_id="202", listed=thread(person=None))
    stored = await after(mirror, other, unclaimed(*nodes_of_nobody("m_a")), answered(listed=thread()))
    assert [(c["page_id"], c["psid"]) for c in stored["conversations"]] == [(PAGE, PERSON), ("202", THREAD)]


async def test_all_moves_when_the_person_is_known(mirror: Connection) -> None:
    stored = await after(
        mirror,
        unclaimed(*nodes_of_nobody("m_a", "m_b"), {"id": "m_c"}, updated=7, message_count=3),
        delivered(said("later", mid="m_d", seconds=9)),
        answered(listed=thread(updated=5, unread_count=1)),
    )
    assert {m["psid"] for m in stored["messages"]} == {PERSON}
    conversation = stored.conversation
    assert (conversation["psid"], conversation["last_message_mid"]) == (PERSON, "m_d")
    assert (conversation["message_count"], conversation["unread_count"], conversation["name"]) == (3, 1, "Ada")
    assert conversation["updated_time"] == at(7)


async def test_the_last_message_is_among_those_that_moved(mirror: Connection) -> None:
    told = [delivered(said("older", mid="m_0", seconds=0)), unclaimed(*nodes_of_nobody("m_a", "m_b"))]
    stored = await after(mirror, *told, answered(listed=thread()))
    assert stored.conversation["last_message_mid"] == "m_b"


async def test_the_thread_stays_as_the_alias_for_old_links(mirror: Connection) -> None:
    await write(mirror, unclaimed(*nodes_of_nobody("m_a")))
    assert await person_of_thread(mirror, PAGE, THREAD) is None
    await write(mirror, answered(listed=thread()))
    assert await person_of_thread(mirror, PAGE, THREAD) == PERSON


async def test_what_still_shows_no_person_goes_to_the_one_that_is_known(mirror: Connection) -> None:
    stored = await after(mirror, answered(listed=thread()), unclaimed(*nodes_of_nobody("m_a"), updated=9))
    assert (stored.conversation["psid"], stored.message["psid"]) == (PERSON, PERSON)
    assert stored.conversation["updated_time"] == at(9)


async def test_tags_move_with_the_conversation_and_are_not_doubled(mirror: Connection) -> None:
    tags = [await mirror.fetchval("INSERT INTO tags (name) VALUES ($1) RETURNING id", f"tag {n}") for n in range(2)]
    try:
        await write(mirror, unclaimed(*nodes_of_nobody("m_a")), delivered(said("b", mid="m_0")))
        await mirror.executemany(
            "INSERT INTO conversation_tags (page_id, psid, tag_id) VALUES ($1, $2, $3)",
            [(PAGE, THREAD, tags[0]), (PAGE, THREAD, tags[1]), (PAGE, PERSON, tags[0])],
        )
        await write(mirror, answered(listed=thread()))
        rows = await mirror.fetch("SELECT psid, tag_id FROM conversation_tags ORDER BY tag_id")
        assert [tuple(row) for row in rows] == [(PERSON, tag) for tag in tags]
    finally:
        await mirror.execute("DELETE FROM tags")


async def test_events_and_receipts_move_with_the_conversation(mirror: Connection) -> None:
    await write(mirror, unclaimed(*nodes_of_nobody("m_a")))
    await mirror.execute(
        """
        INSERT INTO conversation_events (
            page_id, event_key, psid, kind, via, occurred_at, occurred_at_is_estimated, payload, received_at,
            delivery_day, delivery_id, seen_batch, updated_at
        ) VALUES ($1, 'k', $2, 'order', 'messaging', now(), false, '{}', now(), now(), gen_random_uuid(), 1, now())
        """,
        PAGE,
        THREAD,
    )
    await mirror.execute("UPDATE conversations SET read_watermark = $1", at(5))
    await write(mirror, answered(listed=thread()))
    stored = await mirrored(mirror)
    assert [e["psid"] for e in stored["conversation_events"]] == [PERSON]
    assert [c["read_watermark"] for c in stored["conversations"]] == [at(5)]


async def test_moving_twice_moves_nothing_more(mirror: Connection) -> None:
    await write(mirror, unclaimed(*nodes_of_nobody("m_a")))
    async with mirror.transaction():
        assert await rekey(mirror, PAGE, THREAD, PERSON, now=at(300))
        assert not await rekey(mirror, PAGE, THREAD, PERSON, now=at(301))
    stored = await mirrored(mirror)
    assert [c["psid"] for c in stored["conversations"]] == [PERSON]
    assert [m["psid"] for m in stored["messages"]] == [PERSON]


async def test_a_moved_message_reads_differently(mirror: Connection) -> None:
    await write(mirror, unclaimed(*nodes_of_nobody("m_a")), now=at(300))
    await write(mirror, answered(listed=thread()), now=at(400))
    assert await mirror.fetchval("SELECT updated_at FROM messages") == at(400)


async def test_of_two_persons_that_graph_named_for_a_thread_one_stands(mirror: Connection) -> None:
    told = [answered(listed=thread(person=person)) for person in ("7002", "7003")]
    stored = await after(mirror, *told)
    assert stored["conversation_threads"][0]["psid"] == "7003"


async def test_a_thread_with_many_participants_is_the_same_persons_in_any_order(mirror: Connection) -> None:
    for ids in ([PAGE, "7002", "7003"], ["7003", "7002", PAGE]):
        listed = thread() | {"participants": {"data": [{"id": who} for who in ids]}}
        stored = await after(mirror, answered(listed=listed))
        assert stored["conversation_threads"][0]["psid"] == "7003"
