"""What was sent before a person was erased is gone, and is refused by whatever door and in whatever order it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from sql.erasures import erase, next_second
from sql.errors import TellsOfErased
from sql.rows import Counts, Row, Rows
from sql.upsert import ingest
from tests.sql.doors import (
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
    stub,
    thread,
    unreacted,
    unsent,
    write,
)
from tests.sql.mirrored import Mirror, empty, mirrored
from tests.sql.stepping import Writer, race
from tests.sql.test_confluence import arrangements, examples

if TYPE_CHECKING:
    import asyncpg
    from hypothesis.strategies import DrawFn

    from sql.erasures import Erased
    from sql.upsert import Connection

SENT = {"m_a": 0.3, "m_b": 1.0, "m_c": 1.6, "m_d": 2.5}
# of one actor's reactions only the last is kept, so an earlier one can't tell later how old its message is
REACTED_AFTER = {"m_a": 0.05, "m_b": 3.0, "m_c": 0.05, "m_d": 0.05}


async def erased(connection: Connection, psid: str = PERSON, *, before: float = 2.0) -> Erased:
    return await erase(connection, PAGE, psid, erased_before=at(before), requested_by="cli", now=at(500))


async def rows(connection: Connection, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]


# -- in any order -------------------------------------------------------------------------------------------------


class Erasure(NamedTuple):
    """The fact that a person was erased."""

    psid: str
    before: float


def _without_person(made: dict[str, Any], *, keeps: str | None = None) -> dict[str, Any]:
    """An item that names nobody but the Page, or only who is kept."""
    parties = {"sender", "recipient"} - {keeps}
    return {key: value for key, value in made.items() if key not in parties}


@st.composite
def webhooks(draw: DrawFn) -> list[Row]:
    """An item about a message of the person's; what is done to a message comes after it was sent."""
    mid = draw(st.sampled_from(sorted(SENT)))
    later = SENT[mid] + draw(st.sampled_from([0.05, 3.0]))
    reaction = SENT[mid] + REACTED_AFTER[mid]
    made = draw(
        st.sampled_from(
            [
                said("hello", mid=mid, seconds=SENT[mid]),
                said("hello", mid=mid, seconds=None),
                edited("better", mid=mid, seconds=later),
                _without_person(edited("best", mid=mid, number=2, seconds=later)),
                unsent(mid=mid, seconds=later),
                _without_person(unsent(mid=mid, seconds=later)),
                reacted("❤", mid=mid, seconds=reaction),
                _without_person(reacted("❤", mid=mid, seconds=reaction)),
                unreacted(mid=mid, seconds=reaction),
            ]
        )
    )
    return delivered(made, via=draw(st.sampled_from(["messaging", "standby"])))


@st.composite
def events(draw: DrawFn) -> list[Row]:
    """What a person did besides writing."""
    seconds = draw(st.sampled_from([0.3, 1.0, 1.9, 2.5]))
    watermark = {"watermark": int(at(seconds).timestamp() * 1000)}
    made = draw(
        st.sampled_from(
            [
                item("referral", {"ref": "r"}, seconds=seconds),
                item("postback", {"title": "Buy"}, seconds=seconds),
                item("read", watermark, seconds=None),
                item("delivery", watermark, seconds=None),
            ]
        )
    )
    return delivered(made)


@st.composite
def answers(draw: DrawFn) -> list[Row]:
    """The person's thread as Graph shows it, whole or in part, with or without the person."""
    shows_person = draw(st.booleans())
    shown = draw(st.lists(st.sampled_from(sorted(SENT)), unique=True, max_size=2))
    parties = {} if shows_person else NOBODY
    nodes = [
        draw(st.sampled_from([node("hello", mid=mid, seconds=SENT[mid], **parties), stub(mid=mid, seconds=SENT[mid])]))
        for mid in shown
    ]
    listed = thread(
        updated=draw(st.sampled_from([0.0, 1.0, 2.0])),
        person=PERSON if shows_person else None,
        name=draw(st.sampled_from(["Ada", "Bo"])),
        unread_count=1,
    )
    return answered(*nodes, listed=draw(st.sampled_from([None, listed])), reactions_asked=draw(st.booleans()))


erasures = st.builds(Erasure, st.sampled_from([PERSON, THREAD]), st.sampled_from([1.0, 2.0]))


async def tell(connection: Connection, batch: list[list[Row] | Erasure]) -> None:
    """Write a batch; an erasure in it is a transaction of its own."""
    facts: list[list[Row]] = []
    for fact in batch:
        if isinstance(fact, Erasure):
            await write(connection, *facts)
            facts = []
            await erased(connection, fact.psid, before=fact.before)
        else:
            facts.append(fact)
    await write(connection, *facts)


async def outcome(connection: Connection, told: list[list[Row] | Erasure], batches: list[list[int]]) -> Mirror:
    whole = connection.transaction()
    await whole.start()
    try:
        for batch in batches:
            await tell(connection, [told[n] for n in batch])
        return await mirrored(connection)
    finally:
        await whole.rollback()


@examples(60)
@given(
    told=st.lists(st.one_of(webhooks(), webhooks(), events(), answers()), min_size=1, max_size=7),
    wished=st.lists(erasures, min_size=1, max_size=2),
    data=st.data(),
)
async def test_an_erasure_may_come_before_after_or_between_what_it_covers(
    mirror: Connection, told: list[list[Row]], wished: list[Erasure], data: st.DataObject
) -> None:
    facts: list[list[Row] | Erasure] = [*told, *wished]
    expected = await outcome(mirror, facts, [[n] for n in range(len(facts))])
    for _ in range(2):
        batches = data.draw(arrangements(len(facts)))
        note(f"batches: {batches}")
        assert await outcome(mirror, facts, batches) == expected


class Eraser(Writer):
    """Erases, and stops at a gate before every statement."""

    wished = Erasure(PERSON, 2.0)

    async def _write(self, _rows: Rows) -> None:
        await erased(cast("Connection", self), self.wished.psid, before=self.wished.before)

    def transaction(self) -> asyncpg.transaction.Transaction:
        """As a connection's."""
        return self._connection.transaction()

    async def fetchval(self, query: str, *args: Any) -> Any:
        """As a connection's, once the gate opens."""
        await self._gate()
        return await self._connection.fetchval(query, *args)


@examples(50)
@given(
    before=st.lists(st.one_of(webhooks(), events(), answers()), max_size=3),
    group=st.lists(st.one_of(webhooks(), webhooks(), events(), answers()), min_size=1, max_size=4),
    turns=st.lists(st.booleans(), max_size=24),
    in_one_call=st.booleans(),
)
async def test_an_erasure_and_a_writer_at_once_end_in_the_same_rows(
    writers: list[asyncpg.Connection[asyncpg.Record]],
    before: list[list[Row]],
    group: list[list[Row]],
    turns: list[bool],
    in_one_call: bool,  # noqa: FBT001 - drawn by name
) -> None:
    watcher = writers[0]
    told: list[list[Row] | Erasure] = [*before, *group, Eraser.wished]
    expected = await outcome(watcher, told, [[n] for n in range(len(told))])
    writer, eraser = Writer(writers[1], watcher), Eraser(writers[2], watcher)
    try:
        await tell(watcher, [*before])
        await writer.start(group, in_one_call=in_one_call)
        await eraser.start([])
        await race(writer, eraser, turns)
        assert await mirrored(watcher) == expected
    finally:
        await writer.abandon()
        await eraser.abandon()
        await empty(watcher)


async def test_an_edit_that_names_nobody_and_waits_for_an_erasure_learns_of_it(
    writers: list[asyncpg.Connection[asyncpg.Record]],
) -> None:
    watcher, writer, eraser = writers[:3]
    await write(watcher, delivered(said("hello", mid="m_a", seconds=1)))
    told = Rows()
    told.add(delivered(_without_person(edited("better", mid="m_a", seconds=1.5))))
    async with eraser.transaction():
        await erased(eraser)
        writing = asyncio.create_task(ingest(writer, [], told))
        waits = "SELECT $1::integer = ANY(pg_blocking_pids($2))"
        while not await watcher.fetchval(waits, eraser.get_server_pid(), writer.get_server_pid()):
            assert not writing.done()
    with pytest.raises(TellsOfErased):
        await writing


# -- what an erasure takes and leaves -----------------------------------------------------------------------------


async def test_a_conversation_is_gone_with_all_that_hung_on_it(mirror: Connection) -> None:
    await write(mirror, answered(node("hello"), listed=thread(unread_count=2)))
    await write(mirror, delivered(said("hello"), reacted("❤", seconds=1), item("referral", {"ref": "r"})))
    await write(mirror, delivered(item("read", {"watermark": ms(0)}, seconds=None), edited("better", seconds=1)))
    await mirror.execute("INSERT INTO tags (name) VALUES ('vip')")
    await mirror.execute(
        "INSERT INTO conversation_tags (page_id, psid, tag_id) SELECT $1, $2, id FROM tags", PAGE, PERSON
    )
    stored = await mirrored(mirror)
    assert all(stored[table] for table in stored if table != "erasures")
    done = await erased(mirror)
    assert (done.psid, done.messages, done.events, done.was_known) == (PERSON, 1, 1, True)
    stored = await mirrored(mirror)
    for table in ("conversations", "message_reactions", "conversation_events", "conversation_tags"):
        assert stored[table] == []
    [stone] = stored["messages"]
    kept = {key for key, value in stone.items() if value not in (None, False, [])}
    assert kept == {"page_id", "mid", "psid", "thread_id", "sent_at_rank", "is_erased"}
    assert await mirror.fetchval("SELECT count(*) FROM conversation_names") == 0


async def test_what_is_sent_later_is_kept_and_what_was_sent_before_stays_away(mirror: Connection) -> None:
    await write(mirror, delivered(said("old", mid="m_1", seconds=1)), delivered(said("new", mid="m_2", seconds=2)))
    await erased(mirror, before=2)
    for _ in range(2):
        counts = await write(
            mirror,
            answered(
                node("old", mid="m_1", seconds=1),
                node("older", mid="m_0", seconds=0),
                node("new", mid="m_2", seconds=2),
                listed=thread(updated=2),
            ),
        )
        assert counts.inserted == 0
    assert [(m["mid"], m["text"]) for m in await rows(mirror, "messages") if m["sent_at"]] == [("m_2", "new")]
    [conversation] = await rows(mirror, "conversations")
    assert (conversation["last_message_mid"], conversation["name"]) == ("m_2", "Ada")


async def test_other_persons_and_the_same_id_on_another_page_are_left_alone(mirror: Connection) -> None:
    await write(mirror, delivered(said("hello") | {"sender": {"id": "7002"}}))
    await write(mirror, delivered(item("message", {"mid": "m_2", "text": "x"}, page_id="102"), page_id="102"))
    before = await mirrored(mirror)
    done = await erased(mirror)
    assert (done.messages, done.was_known) == (0, False)
    after = await mirrored(mirror)
    assert {**after, "erasures": []} == before
    assert len(after["erasures"]) == 1


async def test_erasing_again_changes_nothing_and_a_stone_never_shrinks(mirror: Connection) -> None:
    await write(mirror, delivered(said("hello")))
    await erased(mirror, before=2)
    stored = await mirrored(mirror)
    assert (await erased(mirror, before=1)).erased_before == at(2)
    assert await mirrored(mirror) == stored


async def test_a_fraction_of_a_second_counts_as_the_whole_second_as_graph_tells_it(mirror: Connection) -> None:
    assert next_second(at(1.2)) == at(2)
    assert next_second(at(2)) == at(2)
    await erased(mirror, before=1.2)
    await write(mirror, delivered(said("same second", mid="m_1", seconds=1.9), said("next", mid="m_2", seconds=2)))
    await write(mirror, answered(node("same second", mid="m_1", seconds=1.0)))
    assert [m["mid"] for m in await rows(mirror, "messages") if m["sent_at"]] == ["m_2"]


async def test_a_conversation_erased_under_its_threads_id_is_refused_under_its_persons(mirror: Connection) -> None:
    hidden = answered(node("hello", **NOBODY), listed=thread(person=None))
    await write(mirror, hidden)
    assert (await erased(mirror, THREAD)).psid == THREAD
    await write(mirror, hidden)
    assert await rows(mirror, "conversations") == []
    await write(mirror, answered(node("hello"), node("later", mid="m_2", seconds=9), listed=thread(updated=9)))
    await write(mirror, delivered(said("older still", mid="m_0", seconds=-5)))
    assert [m["mid"] for m in await rows(mirror, "messages") if m["sent_at"]] == ["m_2"]
    [stone] = await rows(mirror, "erasures")
    assert stone["psid"] == PERSON


async def test_a_thread_of_a_known_person_erases_the_person(mirror: Connection) -> None:
    await write(mirror, answered(node("hello"), listed=thread()))
    assert (await erased(mirror, THREAD)).psid == PERSON
    assert await rows(mirror, "conversations") == []


async def test_what_was_erased_counts_as_nothing_for_webhooks_and_syncs_alike(mirror: Connection) -> None:
    await erased(mirror)
    assert await write(mirror, delivered(said("hello"), item("referral", {"ref": "r"}))) == Counts()
    assert await write(mirror, answered(node("hello"), listed=thread())) == Counts(unchanged=1)


async def test_the_deliveries_that_rows_came_from_are_told(mirror: Connection) -> None:
    await write(mirror, delivered(said("hello"), number=1))
    await write(mirror, delivered(reacted("❤", seconds=1), number=2))
    await write(mirror, delivered(item("referral", {"ref": "r"}), number=3))
    await write(mirror, delivered(_without_person(reacted("❤", seconds=1)), number=4))
    await write(mirror, delivered(said("another", mid="m_9") | {"sender": {"id": "7002"}}, number=5))
    done = await erased(mirror)
    assert [delivery_id.int for _, delivery_id in done.deliveries] == [1, 2, 3, 4]
