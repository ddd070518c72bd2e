"""The bulk upsert itself: counts, provenance, chunks, the order of locks, and text that Postgres refuses."""

from __future__ import annotations

import re
from datetime import timedelta
from random import Random
from string import ascii_letters
from typing import TYPE_CHECKING, Any, cast

from sql.batches import passes
from sql.json_values import unescape
from sql.mids import MAX_BYTES
from sql.rows import Conversation, Counts, Event, Reaction, Rows
from sql.upsert import Connection, upsert
from tests.sql.doors import (
    PAGE,
    PERSON,
    answered,
    at,
    delivered,
    edited,
    item,
    node,
    reacted,
    said,
    thread,
    unsent,
    write,
)
from tests.sql.mirrored import mirrored

if TYPE_CHECKING:
    import asyncpg

    from sql.rows import Row


class Recorder:
    """A connection that keeps what was asked of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        self.asked.append((query, args))
        return await self._connection.fetch(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        self.asked.append((query, args))
        return await self._connection.execute(query, *args)

    def tables(self) -> list[str]:
        """The tables written, in order."""
        found = (re.match(rf"\s*(?:INSERT INTO (\w+)|{FUNCTION}\(\$)", query, re.DOTALL) for query, _ in self.asked)
        return [f[1] or TABLES[f[2]] for f in found if f]

    def keys(self, table: str, columns: int = 2) -> list[list[tuple[str, ...]]]:
        """The keys of each statement that inserts into a table."""
        chunks: dict[int, list[tuple[str, ...]]] = {}
        for query, args in self.asked:
            found = re.match(rf"\s*{FUNCTION}\(\$1::\w+_row\[\]", query, re.DOTALL)
            if found and TABLES[found[1]] == table:
                for number, *row in args[0]:
                    chunks.setdefault(number, []).append(tuple(row[:columns]))
        inserts = [args for query, args in self.asked if re.match(rf"\s*INSERT INTO {table}\b", query)]
        return [*chunks.values(), *(list(zip(*args[:columns], strict=True)) for args in inserts)]


FUNCTION = r"SELECT\b.*?\b(upsert_\w+|derive_last_messages)"
TABLES = {
    "upsert_conversations": "conversations",
    "upsert_messages": "messages",
    "upsert_reactions": "message_reactions",
    "upsert_events": "conversation_events",
    "derive_last_messages": "conversations",
}


async def recorded(mirror: Connection, *facts: list[Row]) -> Recorder:
    """Write facts, and keep the statements."""
    recorder = Recorder(mirror)
    rows = Rows()
    for fact in facts:
        rows.add(fact)
    async with mirror.transaction():
        await upsert(cast("Connection", recorder), rows)
    return recorder


# -- counts -------------------------------------------------------------------------------------------------------


async def test_a_message_is_inserted_once_and_then_unchanged(mirror: Connection) -> None:
    first = delivered(said("a"), said("b", mid="m_two"))
    assert await write(mirror, first) == Counts(inserted=2)
    assert await write(mirror, first, delivered(said("a"), number=2, received=70)) == Counts(unchanged=2)


async def test_a_message_that_reads_differently_is_updated(mirror: Connection) -> None:
    await write(mirror, delivered(said("a")))
    assert await write(mirror, delivered(edited("b", seconds=1))) == Counts(updated=1)
    assert await write(mirror, delivered(edited("b", seconds=1), number=2)) == Counts(unchanged=1)
    assert await write(mirror, delivered(unsent(seconds=2))) == Counts(updated=1)


async def test_what_the_other_door_tells_alike_is_unchanged(mirror: Connection) -> None:
    await write(mirror, delivered(said("a", seconds=0.5)))
    before = await mirror.fetchval("SELECT updated_at FROM messages")
    assert await write(mirror, answered(node("a"), listed=thread())) == Counts(unchanged=1)
    assert await write(mirror, answered(node("a"), observed=500, reactions_asked=True)) == Counts(unchanged=1)
    assert await mirror.fetchval("SELECT updated_at FROM messages") == before
    assert await write(mirror, answered(node("edited"), observed=501)) == Counts(updated=1)


async def test_a_reaction_that_graph_brings_is_an_update(mirror: Connection) -> None:
    await write(mirror, delivered(said("a")))
    hearts = {"data": [{"reaction": "❤", "users": [{"id": PERSON}]}]}
    assert await write(mirror, answered(node("a", reactions=hearts), reactions_asked=True)) == Counts(updated=1)


async def test_a_message_told_in_many_ways_at_once_is_one_insert(mirror: Connection) -> None:
    told = [delivered(edited("c", seconds=1)), delivered(said("a")), delivered(said("b")), answered(node("d"))]
    assert await write(mirror, *told) == Counts(inserted=1)


async def test_what_is_only_referred_to_counts_for_nothing(mirror: Connection) -> None:
    assert await write(mirror, delivered(said("a"), reacted("❤"), reacted("❤", mid="m_two"))) == Counts(inserted=1)
    assert await write(mirror, delivered(reacted("😀", seconds=1))) == Counts()


async def test_counts_add_up() -> None:
    assert Counts(1, 2, 3) + Counts(1, 1, 1) == Counts(2, 3, 4)


# -- provenance ---------------------------------------------------------------------------------------------------


async def test_the_door_that_brought_it_first_is_told_whatever_was_written_first(mirror: Connection) -> None:
    webhook, sync = delivered(said("a"), received=300), answered(node("a"), now=200)
    for told in ([webhook, sync], [sync, webhook]):
        for fact in told:
            await write(mirror, fact)
        row = await mirror.fetchrow("SELECT first_seen_via, first_seen_at, webhook_seen_at, sync_seen_at FROM messages")
        assert row is not None
        assert tuple(row) == ("sync", at(200), at(300), at(200))
        await mirror.execute("DELETE FROM messages")


async def test_the_first_receipt_at_each_door_is_kept(mirror: Connection) -> None:
    await write(mirror, delivered(said("a"), received=61), answered(node("a"), now=201))
    await write(mirror, delivered(said("a"), received=60), answered(node("a"), now=200))
    await write(mirror, delivered(said("a"), received=62), answered(node("a"), now=202))
    row = await mirror.fetchrow("SELECT first_seen_via, webhook_seen_at, sync_seen_at FROM messages")
    assert row is not None
    assert tuple(row) == ("webhook", at(60), at(200))


async def test_an_edit_or_a_reaction_is_not_the_message_itself(mirror: Connection) -> None:
    await write(mirror, delivered(edited("a", seconds=1)), delivered(reacted("❤")))
    assert await mirror.fetchval("SELECT first_seen_via FROM messages") is None
    await write(mirror, answered(node("a"), now=200))
    assert await mirror.fetchval("SELECT first_seen_via FROM messages") == "sync"


async def test_every_row_keeps_the_delivery_it_came_from(mirror: Connection) -> None:
    await write(mirror, answered(node("a")))
    await write(mirror, delivered(said("a"), reacted("❤"), item("referral", {"ref": "r"}), number=7))
    await write(mirror, delivered(said("a"), number=8))
    for table in ("messages", "message_reactions", "conversation_events"):
        row = await mirror.fetchrow(f"SELECT delivery_day, delivery_id FROM {table}")
        assert row is not None
        assert (row["delivery_day"], row["delivery_id"].int) == (at(60).date(), 7)


# -- statements ---------------------------------------------------------------------------------------------------


async def test_a_group_is_one_statement_per_table_in_a_fixed_order(mirror: Connection) -> None:
    webhook = delivered(item("referral", {"ref": "r"}), reacted("❤"), said("a"), said("b", mid="m_two"))
    tables = (await recorded(mirror, webhook)).tables()
    assert tables == ["conversations", "messages", "message_reactions", "conversation_events", "conversations"]
    graph = (await recorded(mirror, answered(node("a"), node("c", mid="m_three"), listed=thread()))).tables()
    assert graph == ["conversation_threads", "conversations", "messages", "conversations"]


async def test_nothing_to_write_asks_nothing(mirror: Connection) -> None:
    assert (await recorded(mirror)).asked == []


async def test_all_keys_are_sorted_before_they_are_cut_into_chunks(mirror: Connection) -> None:
    numbers = sorted(range(1203), key=lambda n: hash(("shuffled", n)))
    told = []
    for n in numbers:
        person, mid = f"9{n % 250:03}", f"m_{n:04}"
        told.append(
            delivered(
                item("message", {"mid": mid, "text": "a"}, person=person),
                item("reaction", {"mid": mid, "action": "react", "emoji": "❤"}, person=person),
                item("referral", {"ref": mid}, person=person),
            )
        )
    told += [answered(thread_id=f"t_{n}", listed=thread()) for n in range(150)]
    recorder = await recorded(mirror, *told)
    for table, size, columns, total in (
        ("conversation_threads", 100, 2, 150),
        ("messages", 500, 2, 1203),
        ("message_reactions", 500, 3, 1203),
        ("conversation_events", 500, 2, 1203),
    ):
        chunks = recorder.keys(table, columns)
        keys = [key for chunk in chunks for key in chunk]
        assert (len(set(keys)), keys) == (total, sorted(keys))
        assert max(map(len, chunks)) == size
    conversations = recorder.keys("conversations")[:3]  # more of Graph's registers follow
    assert [len(chunk) for chunk in conversations] == [100, 100, 51]
    assert [key for chunk in conversations for key in chunk] == sorted(
        {(PAGE, f"9{n:03}") for n in range(250)} | {(PAGE, PERSON)}
    )


def test_rows_that_repeat_a_key_come_in_later_passes() -> None:
    rows = [Conversation(PAGE, psid, platform) for psid in "cab" for platform in ("x", "y")]
    made = list(passes([*rows, *rows], lambda row: (row.page_id, row.psid), 2))
    assert [[row.psid for row in chunk] for chunk in made] == [["a", "b"], ["c"], ["a", "b"], ["c"]]
    assert sorted(row for chunk in made for row in chunk) == sorted(rows)


async def test_many_receipts_of_a_conversation_are_one_row_of_one_statement(mirror: Connection) -> None:
    told = [delivered(item("read", {"watermark": 1_935_817_689_000 + n}, seconds=None)) for n in range(9)]
    recorder = await recorded(mirror, *told)
    assert recorder.keys("conversations") == [[(PAGE, PERSON)]]


async def test_what_changes_nothing_writes_nothing(mirror: Connection) -> None:
    told = [
        delivered(said("a"), edited("b", seconds=1), reacted("❤"), item("referral", {"ref": "r"})),
        delivered(item("read", {"watermark": 1_935_817_689_000}, seconds=None)),
        answered(node("c"), listed=thread()),
    ]
    await write(mirror, *told)
    tables = ("conversations", "conversation_threads", "messages", "message_reactions", "conversation_events")
    before = [await mirror.fetch(f"SELECT xmin FROM {table}") for table in tables]
    await write(mirror, *told)
    assert [await mirror.fetch(f"SELECT xmin FROM {table}") for table in tables] == before


async def test_rows_without_their_conversation_make_it(mirror: Connection) -> None:
    rows = Rows()
    rows.add(row for row in delivered(said("a"), reacted("❤"), item("order", {})) if not isinstance(row, Conversation))
    event = next(row for row in rows.events)
    rows.events.append(event._replace(psid="8", event_key="other"))
    async with mirror.transaction():
        await upsert(mirror, rows, now=at(300))
    stored = await mirrored(mirror)
    assert [(c["psid"], c["platform"]) for c in stored["conversations"]] == [(PERSON, "messenger"), ("8", "messenger")]
    assert await mirror.fetchval("SELECT updated_at FROM messages") == at(300)


# -- what Postgres refuses ----------------------------------------------------------------------------------------


async def test_nul_and_lone_surrogates_are_escaped_in_text_ids_and_json(mirror: Connection) -> None:
    odd = "a\x00b\ud800c\x1ad"
    told = delivered(
        item("message", {"mid": odd, "text": odd, "quick_reply": {"payload": odd}}, person=odd),
        item("reaction", {"mid": odd, "action": "react", "emoji": odd}, person=odd),
        item("message_edit", {"mid": odd, "text": odd, "num_edit": 1}, person=odd, seconds=1),
        item("referral", {"ref": odd, odd: odd}, person=odd),
    )
    await write(mirror, told)
    stored = await mirrored(mirror)
    [message], [reaction], [event] = (stored[t] for t in ("messages", "message_reactions", "conversation_events"))
    assert [unescape(message[field]) for field in ("mid", "psid", "text")] == [f"m_{odd}", odd, odd]
    assert unescape(message["original"]["quick_reply"]["payload"]) == odd
    assert unescape(reaction["emoji"]) == odd
    assert {unescape(key): unescape(value) for key, value in event["payload"]["referral"].items()} == {
        "ref": odd,
        odd: odd,
    }
    assert await write(mirror, told) == Counts(unchanged=2)


async def test_ids_of_any_letters_sort_alike_here_and_in_postgres(mirror: Connection) -> None:
    mids = [f"m_{letter}" for letter in ("a", "B", "_", "é", "\uff5a", "😀", "\uffff", "z", "ß", "-")]
    await write(mirror, *(delivered(said(mid, mid=mid)) for mid in mids))
    rows = await mirror.fetch("SELECT mid FROM messages ORDER BY mid")
    assert [row["mid"] for row in rows] == sorted(mids)


async def test_a_row_without_optional_fields_can_be_stored(mirror: Connection) -> None:
    rows = Rows()
    [conversation, message, *_] = delivered(said(None))
    rows.add([conversation, message])
    [*_, reaction] = delivered(reacted("❤"))
    assert isinstance(reaction, Reaction)
    rows.add([reaction._replace(reaction=None, emoji=None)])
    [*_, event] = delivered(item("order", {}, seconds=None), entry_time=None)
    assert isinstance(event, Event)
    rows.add([event._replace(psid=None, mid=None)])
    async with mirror.transaction():
        assert await upsert(mirror, rows, now=at(0) + timedelta(days=1)) == Counts(inserted=2)


async def test_the_longest_ids_that_graph_can_tell_fit_every_index(mirror: Connection) -> None:
    chance = Random(7)
    person, thread_id, mid = ("".join(chance.choices(ascii_letters, k=MAX_BYTES)) for _ in range(3))
    hearts = {"data": [{"reaction": "❤", "users": [{"id": person}]}]}
    shown = node("hello", mid=mid, reactions=hearts) | {"from": {"id": person}}
    told = answered(shown, listed=thread(person=person), thread_id=thread_id, reactions_asked=True)
    await write(mirror, told)
    stored = await mirrored(mirror)
    assert [(m["mid"], m["psid"]) for m in stored["messages"]] == [(f"m_{mid}", person)]
    assert [r["actor"] for r in stored["message_reactions"]] == [person]
