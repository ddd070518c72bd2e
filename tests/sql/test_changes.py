"""The feed of changes: what is noted in it, in which order it is read, and that nothing is ever skipped."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from sql.changes import BEGINNING, TABLE, Change, feed, held_seconds, keep_changes, note_changes, read_changes
from sql.erasures import erase
from sql.page_erasures import erase_rows
from sql.partitions import partitions
from sql.pool import connect
from sql.tags import change_tag, create_tag, delete_tag, tag_conversations
from sql.upsert import ingest
from tests.conftest import LAYOUTS, in_database, new_database
from tests.horizon import all_is_told
from tests.sql.doors import (
    MID,
    NOBODY,
    PAGE,
    PERSON,
    THREAD,
    answered,
    at,
    delivered,
    edited,
    item,
    ms,
    node,
    reacted,
    said,
    thread,
    unsent,
    write,
)
from tests.sql.test_one_round_trip import together

if TYPE_CHECKING:
    from sql.changes import Place
    from sql.pool import Pool
    from sql.rows import Row
    from sql.upsert import Connection

MESSAGE = ("message", MID)
CONVERSATION = ("conversation", PERSON)
PICTURE = "https://cdn.example/p.jpg?oh={}&oe={:x}"


@pytest.fixture(params=list(LAYOUTS))
def tables(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Reader:
    """Reads on from where it stands: all that was committed before, however long others hold that up."""

    def __init__(self, connection: Connection, page_id: str | None = None) -> None:
        self._connection, self._page_id = connection, page_id
        self.place: Place = BEGINNING

    async def changes(self, limit: int = 500) -> list[Change]:
        await all_is_told(self._connection)
        return await self.peek(limit)

    async def peek(self, limit: int = 500) -> list[Change]:
        """Read what can be read by now: for a test that has a transaction open, which all would wait for."""
        read = await read_changes(self._connection, self.place, limit=limit, page_id=self._page_id)
        self.place = read.place
        return [told.change for told in read.changes]

    async def keys(self) -> list[tuple[str, str]]:
        return sorted((change.kind, change.key) for change in await self.changes())


@pytest.fixture
async def reader(connection: Connection) -> Reader:
    await keep_changes(connection, today=datetime.now(UTC).date(), retention_days=14)
    return Reader(connection)


# -- what is noted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_call", [True, False], ids=["in one call", "step by step"])
async def test_a_new_message_and_its_conversation_are_changes_once_each(
    connection: Connection, reader: Reader, *, in_one_call: bool
) -> None:
    told = delivered(said("hello"))
    for expected in ([CONVERSATION, MESSAGE], []):  # the same again changes nothing
        if in_one_call:
            await ingest(connection, [], together([told]))
        else:
            await write(connection, told)
        assert await reader.keys() == expected


STEPS: dict[str, tuple[list[Row], list[tuple[str, str]]]] = {
    "an edit": (delivered(edited("b", seconds=1)), [CONVERSATION, MESSAGE]),
    "an unsend": (delivered(unsent(seconds=2)), [CONVERSATION, MESSAGE]),
    "a reaction": (delivered(reacted("❤", seconds=1)), [MESSAGE]),
    "a receipt": (delivered(item("read", {"watermark": ms(5)}, seconds=None)), [CONVERSATION]),
    "what the other door tells alike": (answered(node("a")), []),
    "Graph's view of it": (answered(node("z"), listed=thread()), [CONVERSATION, MESSAGE]),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("in_one_call", [True, False], ids=["in one call", "step by step"])
async def test_what_reads_differently_is_a_change_and_again_is_none(
    connection: Connection, reader: Reader, name: str, *, in_one_call: bool
) -> None:
    told, expected = STEPS[name]
    rows = together([told])
    await write(connection, delivered(said("a")), now=at(100))
    await reader.changes()
    for noted in (expected, []):
        if in_one_call and not rows.threads:
            await ingest(connection, [], rows, now=at(101))
        else:
            await write(connection, told, now=at(102))
        assert await reader.keys() == noted


async def test_a_conversation_that_is_only_read_again_is_no_change(connection: Connection, reader: Reader) -> None:
    await write(connection, answered(listed=thread(), observed=100), now=at(100))
    assert await reader.keys() == [CONVERSATION]
    await write(connection, answered(listed=thread(), observed=400), now=at(400))
    assert await reader.keys() == []
    await write(connection, answered(listed=thread(name="Eve"), observed=700), now=at(700))
    assert await reader.keys() == [CONVERSATION]


async def test_a_link_that_was_only_signed_anew_is_no_change(connection: Connection, reader: Reader) -> None:
    expires = int(at(3600).timestamp())
    for number, noted in ((0, [CONVERSATION, MESSAGE]), (1, [])):
        url = PICTURE.format(number, expires + 10**6 * number)
        picture = {"type": "image", "payload": {"url": url}}
        await write(connection, delivered(said(None, attachments=[picture]), number=number + 1), now=at(number))
        assert await reader.keys() == noted


async def test_an_event_is_a_change_and_a_placeholder_is_none(connection: Connection, reader: Reader) -> None:
    await write(connection, delivered(item("referral", {"ref": "r"})))
    [(kind, _), _] = reversed(await reader.keys())
    assert kind == "event"
    await write(connection, delivered(reacted("❤", mid="m_nobody_knows")))
    assert await reader.keys() == []


async def test_a_conversation_that_moves_to_its_person_moves_with_all_that_is_its(
    connection: Connection, reader: Reader
) -> None:
    await write(connection, answered(node("hello", **NOBODY), listed=thread(person=None)))
    assert await reader.keys() == [("conversation", THREAD), MESSAGE]
    await write(connection, answered(listed=thread()))
    assert set(await reader.keys()) == {("conversation", PERSON), ("conversation", THREAD), MESSAGE}


async def test_tags_put_on_renamed_and_taken_off_change_their_conversations(
    connection: Connection, reader: Reader
) -> None:
    await write(connection, delivered(said("a")))
    await create_tag(connection, "vip", None)
    await reader.changes()
    for noted in ([CONVERSATION], []):
        await tag_conversations(connection, [(PAGE, PERSON)], add=["vip"])
        assert await reader.keys() == noted
    await change_tag(connection, "vip", new_name="good", colour="#aabbcc", keep_colour=False)
    assert await reader.keys() == [CONVERSATION]
    for noted in ([CONVERSATION], []):
        await tag_conversations(connection, [(PAGE, PERSON)], remove=["good"])
        assert await reader.keys() == noted
    await tag_conversations(connection, [(PAGE, PERSON)], add=["good"])
    await reader.changes()
    await delete_tag(connection, "good")
    assert await reader.keys() == [CONVERSATION]


async def test_an_erasure_is_told_by_keys_and_leaves_no_word_in_the_feed(
    connection: Connection, reader: Reader
) -> None:
    await write(connection, delivered(said("a secret"), item("referral", {"ref": "a secret"})))
    before = await reader.keys()
    await erase(connection, PAGE, PERSON, erased_before=at(999), requested_by="cli", now=at(1000))
    assert set(await reader.keys()) == set(before)
    assert "secret" not in str(await connection.fetch("SELECT c::text FROM changes AS c"))


async def test_an_erased_page_is_one_change_and_all_else_of_it_is_forgotten(
    connection: Connection, reader: Reader
) -> None:
    await write(connection, delivered(said("a")), delivered(said("b", mid="m_other"), page_id="202"))
    while await erase_rows(connection, PAGE):
        pass
    assert {(change.page_id, change.kind) for change in await reader.changes()} == {
        ("202", "message"),
        ("202", "conversation"),
        (PAGE, "page"),
    }


# -- the order ----------------------------------------------------------------------------------------------------


async def test_who_commits_later_than_a_younger_one_is_not_missed(pool: Pool, reader: Reader) -> None:
    async with pool.acquire() as older, pool.acquire() as younger:
        whole = older.transaction()
        await whole.start()
        await note_changes(older, [Change("message", PAGE, "older", None)])
        await note_changes(younger, [Change("message", PAGE, "younger", None)])
        assert await reader.peek() == []
        assert await held_seconds(younger) > 0
        await whole.commit()
        assert [change.key for change in await reader.changes()] == ["older", "younger"]
        assert await held_seconds(younger) == 0


async def test_a_transaction_of_another_database_only_delays(
    server: str, pool: Pool, reader: Reader, templates: dict[str, str]
) -> None:
    async with new_database(server, templates, "plain") as other:
        stranger = await connect(other)
        whole = stranger.transaction()
        await whole.start()
        await stranger.execute("CREATE TABLE something ()")
        async with pool.acquire() as writer:
            await note_changes(writer, [Change("message", PAGE, "held", None)])
            assert await reader.peek() == []
            assert await held_seconds(writer) > 0
        await whole.rollback()
        await stranger.close()
    assert await reader.keys() == [("message", "held")]


async def test_a_reader_that_writes_nothing_delays_nobody(pool: Pool, reader: Reader) -> None:
    async with pool.acquire() as dump, pool.acquire() as writer, dump.transaction(isolation="repeatable_read"):
        await dump.fetch("SELECT * FROM changes")
        await note_changes(writer, [Change("message", PAGE, "told", None)])
        assert await reader.keys() == [("message", "told")]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page_id", [None, PAGE], ids=["of all", "of one Page"])
async def test_readers_beside_many_writers_read_every_change_in_one_order(
    pool: Pool, reader: Reader, seed: int, page_id: str | None
) -> None:
    dice = Random(seed)
    reading = Reader(reader._connection, page_id)
    written: set[str] = set()
    read: list[str] = []
    open_ones: dict[int, tuple[Any, Any, list[str]]] = {}
    for n in range(150):
        slot, what = dice.randrange(6), dice.random()
        if what < 0.3:
            read += [change.key for change in await reading.peek(limit=dice.choice((1, 3, 500)))]
        elif slot not in open_ones:
            connection = await pool.acquire()
            whole = connection.transaction()
            await whole.start()
            open_ones[slot] = (connection, whole, [])
        elif what < 0.7:
            changed = [Change("message", dice.choice((PAGE, "202")), f"m_{n}_{k}", None) for k in range(3)]
            await note_changes(open_ones[slot][0], changed)
            open_ones[slot][2].extend(c.key for c in changed if page_id in {None, c.page_id})
        else:
            connection, whole, keys = open_ones.pop(slot)
            if what < 0.9:
                await whole.commit()
                written.update(keys)
            else:
                await whole.rollback()
            await pool.release(connection)
    for connection, whole, keys in open_ones.values():
        await whole.commit()
        written.update(keys)
        await pool.release(connection)
    await all_is_told(pool)
    while more := await reading.peek(limit=7):
        read += [change.key for change in more]
    assert sorted(read) == sorted(written)
    again = Reader(reader._connection, page_id)
    assert [change.key for change in await again.peek()] == read


# -- which feed, and how far back ---------------------------------------------------------------------------------


async def test_a_day_that_nobody_made_a_partition_for_is_made_by_who_writes(
    connection: Connection,
) -> None:
    await feed(connection)
    assert not await partitions(connection, TABLE)
    await note_changes(connection, [Change("message", PAGE, "m", None)])
    assert await Reader(connection).keys() == [("message", "m")]
    assert len(await partitions(connection, TABLE)) == 1


async def test_of_writers_that_all_find_a_day_without_partition_one_makes_it(
    pool: Pool, connection: Connection
) -> None:
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(pool.acquire()) for _ in range(6)]
        for writer in writers:  # each has seen that there is none
            day = await writer.fetchval("SELECT 'changes_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
            assert await writer.fetchval("SELECT to_regclass($1)", day) is None
        await asyncio.gather(
            *(note_changes(writer, [Change("message", PAGE, str(n), None)]) for n, writer in enumerate(writers))
        )
    assert await connection.fetchval("SELECT count(*) FROM changes") == 6


async def test_what_retention_takes_away_is_told_by_the_feed(connection: Connection, reader: Reader) -> None:
    await note_changes(connection, [Change("message", PAGE, "m", None)])
    await reader.changes()
    before = await feed(connection)
    assert before.dropped is None
    today = datetime.now(UTC).date()
    await keep_changes(connection, today=today + timedelta(days=9), retention_days=2)
    after = await feed(connection)
    assert after.epoch == before.epoch
    assert after.dropped is not None
    assert BEGINNING < after.dropped < reader.place
    assert await Reader(connection).keys() == []


async def test_a_copy_of_a_database_begins_a_feed_of_its_own(server: str, database: str) -> None:
    here = await connect(database)  # no pool's: a connection to what is copied would stand in the way
    await note_changes(here, [Change("message", PAGE, "m", None)])
    epoch = (await feed(here)).epoch
    name = await here.fetchval("SELECT current_database()")
    await here.close()
    admin = await connect(server)
    try:
        while await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name):
            pass
        await admin.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        there = await connect(in_database(server, f"{name}_copy"))
        assert (await feed(there)).epoch != epoch
        assert (await feed(there)).epoch == (await feed(there)).epoch
        assert await Reader(there).keys() == []
        await there.close()
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name}_copy WITH (FORCE)")
        await admin.close()


async def test_a_dump_that_was_loaded_begins_a_feed_of_its_own(connection: Connection, reader: Reader) -> None:
    await note_changes(connection, [Change("message", PAGE, "m", None)])
    epoch = (await feed(connection)).epoch
    async with connection.transaction():  # what loading its data does
        await connection.execute(
            """
            CREATE TEMPORARY TABLE dumped ON COMMIT DROP AS SELECT * FROM changes_feed;
            TRUNCATE changes_feed;
            INSERT INTO changes_feed SELECT * FROM dumped
            """
        )
    assert await reader.keys() == [("message", "m")]
    assert (await feed(connection)).epoch != epoch
    assert await Reader(connection).keys() == []
