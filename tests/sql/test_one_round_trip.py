"""`ingest` does in one call what `upsert` does step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from sql.deliveries import ensure_partitions
from sql.rows import Counts, Delivery, Rows, Thread
from sql.upsert import ingest
from tests.sql.doors import NOBODY, PAGE, PERSON, answered, at, delivered, node, reacted, said, thread, unsent, write
from tests.sql.mirrored import empty, mirrored
from tests.sql.test_confluence import examples
from tests.sql.universe import facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from sql.rows import Row
    from sql.upsert import Connection


def together(told: Iterable[list[Row]]) -> Rows:
    rows = Rows()
    for fact in told:
        rows.add(fact)
    return rows


def names_no_thread(fact: list[Row]) -> bool:
    return not any(isinstance(row, Thread) for row in fact)


def delivery(number: int) -> Delivery:
    return Delivery(at(0).date(), UUID(int=number), at(0), b"{}", "stored", 1, None)


class Counted:
    """A connection that counts the statements it is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.calls = 0

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        self.calls += 1
        return await self._connection.fetch(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        self.calls += 1
        return await self._connection.execute(query, *args)

    def transaction(self) -> asyncpg.transaction.Transaction:
        self.calls += 2
        return self._connection.transaction()


async def counted(connection: Connection, *told: list[Row]) -> tuple[Counts, int]:
    """Ingest facts; returns the counts and the number of round trips."""
    counting = Counted(connection)
    return await ingest(cast("Connection", counting), [], together(told)), counting.calls


webhook_facts = facts().filter(names_no_thread)


@examples(60)
@given(before=st.lists(facts(), max_size=4), told=st.lists(webhook_facts, min_size=1, max_size=6))
async def test_a_group_in_one_call_ends_in_the_same_rows_and_counts_as_step_by_step(
    mirror: Connection, before: list[list[Row]], told: list[list[Row]]
) -> None:
    ends: list[object] = []
    for in_one_call in (False, True):
        for fact in before:
            await write(mirror, fact)
        counts = await ingest(mirror, [], together(told)) if in_one_call else await write(mirror, *told)
        ends.append((await mirrored(mirror), counts))
        await empty(mirror)
    assert ends[0] == ends[1]


async def test_a_group_of_webhooks_takes_one_round_trip(mirror: Connection) -> None:
    hello = delivered(said("hello"))
    counts, calls = await counted(mirror, hello, delivered(said("again", mid="m_2")), delivered(reacted("❤")), hello)
    assert counts == Counts(inserted=2)
    assert calls == 1


async def test_more_rows_than_one_statement_takes_are_written_in_one_round_trip_too(
    mirror: Connection,
) -> None:
    told = [delivered(said("hello", mid=f"m_{n}") | {"sender": {"id": str(7000 + n)}}) for n in range(601)]
    counts, calls = await counted(mirror, *told, *told[:50])
    assert counts == Counts(inserted=601)
    assert calls == 1
    assert await mirror.fetchval("SELECT count(*) FROM conversations WHERE last_message_mid IS NOT NULL") == 601


async def test_a_message_of_a_thread_whose_person_is_known_takes_one_round_trip(
    mirror: Connection,
) -> None:
    await write(mirror, answered(node("hello"), listed=thread()))
    counts, calls = await counted(mirror, delivered(said("hello", quick_reply={"payload": "p"})))
    assert (counts, calls) == (Counts(updated=1), 1)


async def test_a_message_that_tells_whose_its_thread_is_goes_step_by_step_and_moves_it(
    mirror: Connection,
) -> None:
    await write(mirror, answered(node("hello", **NOBODY), listed=thread(person=None)))
    _, calls = await counted(mirror, delivered(said("hello")))
    assert calls > 1
    stored = await mirrored(mirror)
    assert [c["psid"] for c in stored["conversations"]] == [PERSON]
    assert [m["psid"] for m in stored["messages"]] == [PERSON]


async def test_what_goes_step_by_step_is_journaled_once(connection: Connection) -> None:
    await ensure_partitions(connection, [at(0).date()])
    await write(connection, answered(node("hello", **NOBODY), listed=thread(person=None)))
    for _ in range(2):
        await ingest(connection, [delivery(2), delivery(1)], together([delivered(said("hello"))]))
    rows = await connection.fetch("SELECT id FROM webhook_deliveries ORDER BY id")
    assert [r["id"].int for r in rows] == [1, 2]


async def test_plans_made_while_the_tables_were_small_still_read_by_key(connection: Connection) -> None:
    told = delivered(said("hello")), delivered(reacted("❤")), delivered(unsent(mid="m_2"))
    for _ in range(8):  # after five times a plan is kept
        await ingest(connection, [], together(told))
        await connection.execute("UPDATE messages SET original = NULL")
    await connection.execute(
        """
        INSERT INTO conversations (page_id, psid, platform, created_at, updated_at)
        SELECT $1, n::text, 'messenger', now(), now() FROM generate_series(1, 5000) AS n
        """,
        PAGE,
    )
    before = await scanned(connection)
    await ingest(connection, [], together(told))
    assert await scanned(connection) == before


async def scanned(connection: Connection) -> int:
    """How often tables were read from end to end."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return int(
        await connection.fetchval(
            """
            SELECT sum(seq_scan) FROM pg_stat_user_tables
            WHERE relname IN ('conversations', 'messages', 'message_reactions')
            """
        )
    )
