"""Two connections at once: whoever commits first, the rows are the same, nobody waits in a circle, nothing is lost."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from sql.errors import Refusal, refusal_of
from sql.rows import Rows, Thread
from sql.upsert import ingest, upsert
from tests.sql.doors import (
    NOBODY,
    PAGE,
    PERSON,
    THREAD,
    answered,
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
    unreacted,
    unsent,
    write,
)
from tests.sql.mirrored import empty, mirrored, outcome
from tests.sql.stepping import Writer, finish, race

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from sql.rows import Row
    from sql.upsert import Connection

    Connections = list[asyncpg.Connection[asyncpg.Record]]

PICTURE = {"type": "image", "payload": {"url": "https://a.example/1"}}
HEART = {"data": [{"reaction": "❤", "users": [{"id": "7001"}]}]}
NOBODYS = {key: value for key, value in unsent(seconds=6).items() if key != "sender"}

# what a transaction may hold, all about one message, its conversation or its thread
GROUPS: dict[str, list[list[Row]]] = {
    "message": [delivered(said("hello", attachments=[PICTURE]))],
    "another message": [delivered(said("newer", mid="m_two", seconds=9))],
    "echo": [delivered(echoed("hello"))],
    "edit": [delivered(edited("edited", seconds=5))],
    "unsend": [delivered(unsent(seconds=6))],
    "unsend of nobody": [delivered(NOBODYS)],
    "reaction": [delivered(reacted("❤", seconds=5))],
    "removal": [delivered(unreacted(seconds=5))],
    "receipt": [delivered(item("read", {"watermark": ms(5)}, seconds=None))],
    "postback": [delivered(item("postback", {"mid": "m_one", "title": "Buy", "payload": "p"}))],
    "event": [delivered(item("referral", {"ref": "r"}))],
    "thread": [answered(node("graph", mid="m_two"), listed=thread(updated=3))],
    "list of reactions": [answered(node("graph", reactions=HEART), observed=4, reactions_asked=True)],
    "thread of nobody": [answered(node("graph", **NOBODY), stub(mid="m_two"), listed=thread(person=None, updated=4))],
    "everything of the webhook": [delivered(said("a"), edited("b", seconds=1), reacted("❤"), said("c", mid="m_two"))],
}


@pytest.fixture
async def three(writers: Connections) -> AsyncIterator[tuple[Writer, ...]]:
    made = tuple(Writer(connection, writers[0]) for connection in writers[1:4])
    yield made
    for writer in made:
        await writer.abandon()


@pytest.fixture
def pair(three: tuple[Writer, ...]) -> tuple[Writer, Writer]:
    return three[0], three[1]


@pytest.mark.parametrize("before", [[], [delivered(said("before"))]], ids=["at first", "beside a message"])
@pytest.mark.parametrize("name", GROUPS)
async def test_whoever_commits_first_the_rows_are_the_same(
    mirror: Connection, pair: tuple[Writer, Writer], name: str, before: list[list[Row]]
) -> None:
    first, second = pair
    for other in GROUPS.values():
        told = [*before, *GROUPS[name], *other]
        expected = await outcome(mirror, told, [[n] for n in range(len(told))])
        for groups in ((GROUPS[name], other), (other, GROUPS[name])):
            await write(mirror, *before)
            await first.start(groups[0])
            await second.start(groups[1], in_one_call=True)
            assert await first.reaches_commit(second)
            if await second.reaches_commit(first):
                await second.step(first)  # nothing of the first's was in its way: it commits before
            await finish(first, second)
            assert await mirrored(mirror) == expected
            await empty(mirror)


async def test_writers_of_one_conversation_wait_for_each_other(mirror: Connection, pair: tuple[Writer, Writer]) -> None:
    first, second = pair
    await first.start([delivered(said("a", mid="m_a", seconds=1))])
    await second.start([delivered(said("b", mid="m_b", seconds=2))])
    assert await first.reaches_commit(second)
    assert not await second.reaches_commit(first)
    await finish(first, second)
    [conversation] = (await mirrored(mirror))["conversations"]
    assert conversation["last_message_mid"] == "m_b"


def many(count: int, *, name: str) -> list[list[Row]]:
    """Messages of many persons, more than a statement takes."""
    rows = []
    for n in range(count):
        message = item("message", {"mid": f"m_{n:04}", "text": name}, person=f"9{n:04}", seconds=n)
        rows.append(delivered(message, item("referral", {"ref": f"{name} {n}"}, person=f"9{n:04}", seconds=n)))
    return rows


async def test_writers_of_the_same_keys_in_opposite_order_never_wait_in_a_circle(
    mirror: Connection, pair: tuple[Writer, Writer]
) -> None:
    first, second = pair
    rows, others = many(520, name="a"), many(520, name="b")
    await first.start(rows)
    await second.start(others[::-1])
    await race(first, second, [True, False] * 40)
    stored = await mirrored(mirror)
    assert (len(stored["conversations"]), len(stored["conversation_events"])) == (520, 1040)
    assert {m["text"] for m in stored["messages"]} == {"b"}


async def test_a_late_lock_that_is_not_free_is_not_waited_for(mirror: Connection, pair: tuple[Writer, Writer]) -> None:
    webhook, graph = pair
    await write(mirror, answered(node("graph", **NOBODY), listed=thread(person=None)))
    await webhook.start([delivered(said("hello"))])
    await graph.start([answered(node("older", mid="m_two", **NOBODY), listed=thread(person=None))])
    for _ in range(2):  # the thread is locked, its messages are not
        assert await graph.step(webhook)
    assert not await webhook.reaches_commit(graph)
    assert webhook.retries == 1
    assert await graph.reaches_commit(webhook)
    await finish(webhook, graph)
    stored = await mirrored(mirror)
    assert {m["psid"] for m in stored["messages"]} == {"7001"}
    assert [c["psid"] for c in stored["conversations"]] == ["7001"]


async def test_a_late_conversation_that_is_not_free_is_not_waited_for(
    mirror: Connection, pair: tuple[Writer, Writer]
) -> None:
    await write(mirror, delivered(said("hello")))
    graph, webhook = pair
    nodes = [node("hello", **NOBODY), node("newer", mid="m_two", **NOBODY)]
    await graph.start([answered(*nodes, listed=thread(person=None))])
    await webhook.start([delivered(said("newer", mid="m_two"))])
    for _ in range(4):  # threads, the conversation of nobody, the messages
        assert await graph.step(webhook)
    assert not await webhook.reaches_commit(graph)
    assert not await graph.reaches_commit(webhook)
    assert graph.retries == 1
    assert await webhook.reaches_commit(graph)
    await finish(graph, webhook)
    stored = await mirrored(mirror)
    assert [c["psid"] for c in stored["conversations"]] == [PERSON]
    assert {m["psid"] for m in stored["messages"]} == {PERSON}


async def test_the_person_that_a_thread_goes_to_is_locked_with_all_the_others(
    mirror: Connection, pair: tuple[Writer, Writer]
) -> None:
    await write(mirror, answered(node("graph", **NOBODY), listed=thread(person=None)))
    graph, webhook = pair
    of_another = item("message", {"mid": "m_9", "text": "hello"}, person="9001")
    await graph.start([[Thread(PAGE, THREAD, PERSON)], delivered(of_another)])
    await webhook.start([delivered(said("b", mid="m_8")), delivered(of_another)])
    for _ in range(3):  # threads, and the conversations
        assert await graph.step(webhook)
    assert not await webhook.reaches_commit(graph)
    assert await graph.reaches_commit(webhook)
    await finish(graph, webhook)
    assert [c["psid"] for c in (await mirrored(mirror))["conversations"]] == [PERSON, "9001"]


async def test_what_names_nobody_and_a_move_take_messages_in_one_order(
    mirror: Connection, three: tuple[Writer, ...]
) -> None:
    mids = ("m_1", "m_2")
    nodes = [node("graph", mid=mid, seconds=n, **NOBODY) for n, mid in enumerate(mids)]
    await write(mirror, answered(*nodes, listed=thread(person=None)))
    holder, mover, nobodys = three
    await holder.start([delivered(NOBODYS | {"message": {"mid": "m_2", "is_deleted": True}})])
    assert await holder.step(mover)  # holds the newest message alone
    await mover.start([answered(listed=thread())])
    assert not await mover.reaches_commit(holder)
    await nobodys.start([delivered(NOBODYS | {"message": {"mid": mid, "is_deleted": True}}) for mid in mids])
    assert not await nobodys.reaches_commit(holder, mover)
    await finish(holder, mover, nobodys)
    stored = await mirrored(mirror)
    assert [(m["psid"], m["is_deleted"]) for m in stored["messages"]] == [(PERSON, True)] * 2
    assert [c["psid"] for c in stored["conversations"]] == [PERSON]


async def test_a_last_message_is_derived_under_a_lock_though_nobody_named_the_conversation(
    mirror: Connection, pair: tuple[Writer, Writer]
) -> None:
    await write(mirror, delivered(said("secret")))
    webhook, nobodys = pair
    await webhook.start([delivered(said("newer", mid="m_two", seconds=9))])
    await nobodys.start([delivered(NOBODYS)])
    assert await webhook.reaches_commit(nobodys)
    assert not await nobodys.reaches_commit(webhook)
    await finish(webhook, nobodys)
    [conversation] = (await mirrored(mirror))["conversations"]
    assert (conversation["last_message_mid"], conversation["snippet"]) == ("m_two", "newer")


# -- all at once --------------------------------------------------------------------------------------------------


async def write_until_stored(connection: Connection, facts: list[list[Row]]) -> None:
    """Write as the product does, which tries once more where only the moment was bad; a deadlock is no such moment."""
    rows = Rows()
    for fact in facts:
        rows.add(fact)
    for attempt in range(200):
        try:
            if rows.threads:
                async with connection.transaction():
                    await upsert(connection, rows)
            else:
                await ingest(connection, [], rows)
        except Exception as error:
            if refusal_of(error) is not Refusal.RETRY or getattr(error, "sqlstate", "") == "40P01" or attempt == 199:
                raise
        else:
            return


def busy_world(random: Random) -> list[list[Row]]:
    """Threads that name nobody at first, their messages by both doors, placeholders before their messages."""
    told: list[list[Row]] = []
    for t in range(6):
        person, thread_id = f"7{t:03}", f"t_{t:03}"
        mids = [f"m_{t:03}_{n}" for n in range(5)]
        nobodys = [node(mid, mid=mid, seconds=n, **NOBODY) for n, mid in enumerate(mids)]
        told += [
            answered(*nobodys[:3], listed=thread(person=None, updated=t), thread_id=thread_id),
            answered(*nobodys[2:], thread_id=thread_id, observed=101),
            answered(listed=thread(person=person, updated=t + 1), thread_id=thread_id, observed=102),
        ]
        for n, mid in enumerate(mids):
            message = item("message", {"mid": mid, "text": mid}, person=person, seconds=n + 0.5)
            told += [
                delivered(message),
                delivered(message, number=2, via="standby"),
                delivered(reacted("❤", mid=mid, person=person, seconds=n + 1)),
                delivered(item("message_edit", {"mid": mid, "text": "e", "num_edit": 1}, person=person, seconds=n + 2)),
            ]
        told.append(delivered(item("message", {"mid": mids[0], "is_deleted": True}, person=person, seconds=99)))
        told.append(delivered(item("read", {"watermark": ms(t)}, person=person, seconds=None)))
    random.shuffle(told)
    return told


@pytest.mark.parametrize("seed", range(4))
async def test_many_writers_at_once_lose_nothing_and_never_deadlock(writers: Connections, seed: int) -> None:
    random = Random(seed)
    told = busy_world(random)
    expected = await outcome(writers[0], told, [[*range(len(told))]])

    async def write_all(connection: Connection, order: list[int]) -> None:
        while order:
            batch, order = [told[n] for n in order[:12]], order[12:]
            for of_graph in (False, True):
                await write_until_stored(connection, [f for f in batch if isinstance(f[0], Thread) is of_graph])

    orders = [random.sample(range(len(told)), len(told)) for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        for connection, order in zip(writers[1:4], orders, strict=True):
            tasks.create_task(write_all(connection, order))
    assert await mirrored(writers[0]) == expected
