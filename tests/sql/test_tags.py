"""Tags on conversations, and what goes with them: the span of time of the conversation's last message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sql.conversation_lists import Wanted, list_conversations
from sql.tags import UnknownTagsError, create_tag, delete_tag, list_tags, tag_conversations
from tests.sql.doors import PAGE, PERSON, THREAD, answered, delivered, item, node, said, thread, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from sql.rows import Row
    from sql.upsert import Connection

KEY = (PAGE, PERSON)


@pytest.fixture
async def tagged(writers: list[asyncpg.Connection[asyncpg.Record]]) -> AsyncIterator[Connection]:
    """A mirror with two tags."""
    mirror = writers[0]
    for name in ("vip", "new"):
        await create_tag(mirror, name, None)
    try:
        yield mirror
    finally:
        await mirror.execute("DELETE FROM tags")


def spoke(person: str, mid: str, seconds: float) -> list[Row]:
    return delivered(item("message", {"mid": mid, "text": "hello"}, seconds=seconds, person=person))


async def names(connection: Connection) -> list[str]:
    """The tags of the listed conversations, one after the other."""
    rows, _ = await list_conversations(connection, Wanted(), after=None, limit=99)
    return [f"{row['psid']}: {' '.join(row['tags'])}" for row in rows]


async def assert_spans_are_right(connection: Connection) -> None:
    wrong = await connection.fetch(
        """
        SELECT k.* FROM conversation_tags AS k
        LEFT JOIN conversations AS c ON c.page_id = k.page_id AND c.psid = k.psid
        WHERE c.psid IS NULL OR k.active_at IS DISTINCT FROM span_of(c.last_message_at)
        """
    )
    assert wrong == []


async def test_a_tag_put_on_twice_is_on_once_and_one_taken_off_twice_is_off(tagged: Connection) -> None:
    await write(tagged, delivered(said()))
    assert await tag_conversations(tagged, [KEY, KEY], add=["vip", "new"]) == (2, 0, [])
    assert await tag_conversations(tagged, [KEY], add=["vip"], remove=["new"]) == (0, 1, [])
    assert await tag_conversations(tagged, [KEY], remove=["new"]) == (0, 0, [])
    assert await names(tagged) == [f"{PERSON}: vip"]
    await assert_spans_are_right(tagged)


async def test_conversations_that_there_are_none_of_are_told_and_get_no_tag(tagged: Connection) -> None:
    await write(tagged, delivered(said()))
    done = await tag_conversations(tagged, [KEY, (PAGE, "nobody"), ("nowhere", PERSON)], add=["vip"])
    assert done == (1, 0, [(PAGE, "nobody"), ("nowhere", PERSON)])
    assert await tag_conversations(tagged, [], add=["vip"]) == (0, 0, [])


async def test_tags_that_there_are_none_of_are_told_and_nothing_changes(tagged: Connection) -> None:
    await write(tagged, delivered(said()))
    with pytest.raises(UnknownTagsError, match="no such tags: a, b"):
        await tag_conversations(tagged, [KEY], add=["vip", "b"], remove=["a"])
    assert await names(tagged) == [f"{PERSON}: "]


async def test_thousands_are_tagged_in_one_go(tagged: Connection) -> None:
    await tagged.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, last_message_at, created_at, updated_at)
        SELECT '9', 'p' || n, 'messenger', now(), now(), now() FROM generate_series(1, 5000) AS n
        """
    )
    keys = [("9", f"p{n}") for n in range(1, 5001)]
    assert await tag_conversations(tagged, keys, add=["vip", "new"]) == (10000, 0, [])
    assert {tag["name"]: tag["conversations"] for tag in await list_tags(tagged)} == {"new": 5000, "vip": 5000}
    assert await tag_conversations(tagged, keys[:4000], remove=["new"]) == (0, 4000, [])
    assert [tag["conversations"] for tag in await list_tags(tagged, page_id="9")] == [1000, 5000]
    assert [tag["conversations"] for tag in await list_tags(tagged, page_id="8")] == [0, 0]
    await assert_spans_are_right(tagged)


async def test_a_deleted_tag_is_on_nothing(tagged: Connection) -> None:
    await write(tagged, delivered(said()))
    await tag_conversations(tagged, [KEY], add=["vip", "new"])
    assert await delete_tag(tagged, "vip")
    assert not await delete_tag(tagged, "vip")
    assert await tagged.fetchval("SELECT count(*) FROM conversation_tags") == 1
    await create_tag(tagged, "vip", None)
    assert await names(tagged) == [f"{PERSON}: new"]


async def test_the_count_of_a_tag_is_that_of_the_list_it_gives(tagged: Connection) -> None:
    await write(tagged, delivered(item("read", {"watermark": 5}, seconds=None)))
    await tag_conversations(tagged, [KEY], add=["vip"])
    for total in (0, 1):
        listed = await list_conversations(tagged, Wanted(include_tags=("vip",)), after=None, limit=9, count=True)
        assert (listed.total, len(listed.rows)) == (total, total)
        assert [tag["conversations"] for tag in await list_tags(tagged, name="vip")] == [total]
        await write(tagged, delivered(said()))


async def test_a_conversation_moves_up_in_the_lists_of_its_tags_with_each_message(tagged: Connection) -> None:
    for n, psid in enumerate(("p1", "p2", "p3")):
        await write(tagged, spoke(psid, f"m_{psid}", n * 3600))
        await tag_conversations(tagged, [(PAGE, psid)], add=["vip"])
    assert [row.partition(":")[0] for row in await names(tagged)] == ["p3", "p2", "p1"]
    await write(tagged, spoke("p1", "m_new", 9 * 3600))
    await assert_spans_are_right(tagged)
    listed, _ = await list_conversations(tagged, Wanted(include_tags=("vip",)), after=None, limit=9)
    assert [row["psid"] for row in listed] == ["p1", "p3", "p2"]
    await write(tagged, answered(node(mid="m_graph", seconds=10 * 3600), listed=thread()))
    await assert_spans_are_right(tagged)


async def test_spans_are_right_after_a_conversation_moved_to_its_person(tagged: Connection) -> None:
    nobody = {"id": "m_a", "created_time": "2031-05-06T07:08:09+0000", "message": "x"}
    await write(tagged, answered(nobody, listed=thread(person=None)))
    await write(tagged, delivered(said(mid="m_late", seconds=86400)))
    await tag_conversations(tagged, [(PAGE, THREAD)], add=["vip"])
    await tag_conversations(tagged, [KEY], add=["new"])
    await write(tagged, answered(listed=thread()))
    assert await names(tagged) == [f"{PERSON}: new vip"]
    await assert_spans_are_right(tagged)


async def test_a_tag_put_on_while_a_message_is_written_has_the_right_span(
    tagged: Connection, writers: list[asyncpg.Connection[asyncpg.Record]]
) -> None:
    await write(tagged, delivered(said()))
    writing, other = writers[1], writers[2]
    async with writing.transaction():
        await write(writing, delivered(said(mid="m_late", seconds=86400)))
        putting = asyncio.create_task(tag_conversations(other, [KEY], add=["vip"]))
        await until_waiting(tagged)
    assert (await putting).added == 1
    await assert_spans_are_right(tagged)
    async with other.transaction():
        await tag_conversations(other, [KEY], add=["new"])
        arriving = asyncio.create_task(write(writing, delivered(said(mid="m_later", seconds=2 * 86400))))
        await until_waiting(tagged)
    await arriving
    await assert_spans_are_right(tagged)


async def test_a_tag_can_be_put_on_nothing_once_it_is_being_deleted(
    tagged: Connection, writers: list[asyncpg.Connection[asyncpg.Record]]
) -> None:
    await write(tagged, delivered(said()))
    async with writers[1].transaction():
        await delete_tag(writers[1], "vip")
        putting = asyncio.create_task(tag_conversations(writers[2], [KEY], add=["vip"]))
        await until_waiting(tagged)
    with pytest.raises(UnknownTagsError):
        await putting
    assert await tagged.fetchval("SELECT count(*) FROM conversation_tags") == 0


async def until_waiting(connection: Connection) -> None:
    """Return once another session waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while True:
        if await connection.fetchval(waiting):
            return
