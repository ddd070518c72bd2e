from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from sql.deliveries import (
    JournalFilter,
    all_deliveries,
    ensure_partitions,
    journal_deliveries,
    keep_journal,
    list_deliveries,
    mark_replayed,
    put_bodies,
    read_deliveries,
    show_delivery,
)
from sql.partitions import DAYS_AHEAD, drop_days_before
from sql.rows import Delivery
from tests.sql.explainer import Explainer

if TYPE_CHECKING:
    from sql.pool import Pool
    from sql.upsert import Connection

TODAY = date(2031, 3, 14)
LETTERS = '[{"path": "entry[0]", "reason": "it has no id"}]'


def delivery(number: int, received_at: datetime, state: str = "stored") -> Delivery:
    letters = LETTERS if state in {"partial", "dead"} else None
    return Delivery(received_at.date(), UUID(int=number), received_at, b"body %d" % number, state, 1, letters)


def at(hour: int, *, day: int = 0) -> datetime:
    return datetime(TODAY.year, TODAY.month, TODAY.day, hour, tzinfo=UTC) + timedelta(days=day)


async def journal(connection: Connection, *deliveries: Delivery) -> None:
    await ensure_partitions(connection, {d.day for d in deliveries})
    await journal_deliveries(connection, deliveries)


async def partitions(connection: Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'webhook_deliveries'::regclass"
    )
    return sorted(r["name"] for r in rows)


async def numbers(connection: Connection, which: JournalFilter, *, limit: int = 100) -> list[int]:
    return [r["id"].int for r in await read_deliveries(connection, which, limit=limit)]


async def test_partitions_are_made_ahead_and_yesterdays_too(connection: Connection) -> None:
    assert await keep_journal(connection, today=TODAY, retention_days=90) == []
    days = [TODAY + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)]
    assert await partitions(connection) == [f"webhook_deliveries_{day:%Y%m%d}" for day in days]


async def test_a_second_upkeep_of_the_day_changes_nothing(connection: Connection) -> None:
    await keep_journal(connection, today=TODAY, retention_days=90)
    before = await partitions(connection)
    assert await keep_journal(connection, today=TODAY, retention_days=90) == []
    assert await partitions(connection) == before


async def test_a_partition_has_every_index_key_and_check_of_the_journal(connection: Connection) -> None:
    await keep_journal(connection, today=TODAY, retention_days=90)
    rows = await connection.fetch(
        """
        SELECT i.indexrelid::regclass::text AS parent, count(c.inhrelid) AS children
        FROM pg_index AS i LEFT JOIN pg_inherits AS c ON c.inhparent = i.indexrelid
        WHERE i.indrelid = 'webhook_deliveries'::regclass GROUP BY i.indexrelid
        """
    )
    assert len(rows) == 3
    assert {r["children"] for r in rows} == {len(await partitions(connection))}
    with pytest.raises(asyncpg.CheckViolationError, match="state"):
        await journal_deliveries(connection, [delivery(1, at(1))._replace(state="lost")])
    with pytest.raises(asyncpg.NotNullViolationError):
        await connection.execute("INSERT INTO webhook_deliveries (day, id) VALUES ($1, $2)", TODAY, UUID(int=1))


async def test_days_past_retention_are_dropped_with_what_they_hold(connection: Connection) -> None:
    kept, past = delivery(1, at(0, day=-2)), delivery(2, at(23, day=-3))
    await journal(connection, kept, past, delivery(3, at(5, day=-40)))
    dropped = await keep_journal(connection, today=TODAY, retention_days=2)
    assert dropped == [TODAY - timedelta(days=40), TODAY - timedelta(days=3)]
    assert await numbers(connection, JournalFilter()) == [1]


async def test_upkeep_leaves_partitions_alone_that_it_did_not_make(connection: Connection) -> None:
    await connection.execute(
        """
        CREATE TABLE webhook_deliveries_archive PARTITION OF webhook_deliveries
        FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')
        """
    )
    assert await keep_journal(connection, today=TODAY, retention_days=1) == []
    assert "webhook_deliveries_archive" in await partitions(connection)


async def test_processes_that_make_the_same_partitions_at_once_all_succeed(pool: Pool) -> None:
    async def upkeep() -> None:
        async with pool.acquire() as connection:
            await keep_journal(connection, today=TODAY, retention_days=90)

    await asyncio.gather(*(upkeep() for _ in range(6)))
    async with pool.acquire() as connection:
        assert len(await partitions(connection)) == DAYS_AHEAD + 2


async def test_processes_that_drop_the_same_partitions_at_once_all_succeed(pool: Pool) -> None:
    async def drop() -> list[date]:
        async with pool.acquire() as connection:
            return await drop_days_before(connection, "webhook_deliveries", TODAY)

    async with pool.acquire() as connection:
        await ensure_partitions(connection, (TODAY - timedelta(days=n) for n in range(1, 6)))
        await asyncio.gather(*(drop() for _ in range(4)))
        assert await drop_days_before(connection, "webhook_deliveries", TODAY) == []
        assert await partitions(connection) == []


async def test_a_partition_that_is_there_needs_no_right_to_make_one(connection: Connection) -> None:
    await ensure_partitions(connection, [TODAY])
    async with connection.transaction(readonly=True):
        await ensure_partitions(connection, [TODAY])
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with connection.transaction(readonly=True):
            await ensure_partitions(connection, [TODAY + timedelta(days=1)])


async def test_upkeep_beside_a_long_reader_waits_for_it_no_longer_than_a_moment(pool: Pool) -> None:
    async with pool.acquire() as reader, pool.acquire() as writer, pool.acquire() as keeper:
        await journal(writer, delivery(1, at(1, day=-5)), delivery(2, at(1)))
        async with reader.transaction():
            assert len(await reader.fetch("SELECT id FROM webhook_deliveries")) == 2
            async with asyncio.timeout(20):
                assert await keep_journal(keeper, today=TODAY, retention_days=2) == []
        made = [name for name in await partitions(keeper) if name > f"webhook_deliveries_{TODAY:%Y%m%d}"]
        assert len(made) == DAYS_AHEAD
        assert await keep_journal(keeper, today=TODAY, retention_days=2) == [TODAY - timedelta(days=5)]


async def test_a_partition_is_made_while_another_transaction_writes_the_journal(pool: Pool) -> None:
    async with pool.acquire() as writer, pool.acquire() as keeper:
        await ensure_partitions(writer, [TODAY])
        async with writer.transaction():
            await journal_deliveries(writer, [delivery(1, at(1))])
            async with asyncio.timeout(20):
                await ensure_partitions(keeper, [TODAY + timedelta(days=1)])
        await journal_deliveries(writer, [delivery(2, at(1, day=1))])
        assert await numbers(keeper, JournalFilter()) == [1, 2]


async def test_a_drop_that_waits_for_a_reader_gives_way_to_writers(pool: Pool) -> None:
    async with pool.acquire() as reader, pool.acquire() as writer, pool.acquire() as keeper:
        await journal(writer, delivery(1, at(1, day=-5)), delivery(2, at(1)))
        async with reader.transaction():
            await reader.fetch("SELECT id FROM webhook_deliveries")
            drop = asyncio.create_task(drop_days_before(keeper, "webhook_deliveries", TODAY))
            async with asyncio.timeout(20):
                await journal_deliveries(writer, [delivery(3, at(2))])
                assert await drop == []
        assert await numbers(writer, JournalFilter()) == [1, 2, 3]


async def test_deliveries_are_found_by_their_key_on_each_day_and_no_day_is_read_whole(connection: Connection) -> None:
    await journal(connection, *(delivery(n, at(1, day=-n)) for n in range(1, 5)))
    explainer = Explainer(connection)
    await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")  # as on a journal of many days
    row = await show_delivery(explainer.connection, UUID(int=3))
    assert row is not None
    assert (row["body"], row["received_at"]) == (b"body 3", at(1, day=-3))
    assert_found_by_key(explainer)
    assert await show_delivery(connection, UUID(int=5)) is None
    some = JournalFilter(ids=(UUID(int=2), UUID(int=4), UUID(int=5)))
    assert [r["id"].int for r in await read_deliveries(explainer.connection, some, limit=9)] == [4, 2]
    assert_found_by_key(explainer)


def assert_found_by_key(explainer: Explainer) -> None:
    lookups = [line for line in explainer.plan.splitlines() if "Index Cond" in line and "id = " in line]
    assert lookups, explainer.plan
    assert all("day = " in line for line in lookups)
    assert explainer.read_whole() == set()


async def test_the_same_identity_twice_is_one_row_and_the_first_stays(connection: Connection) -> None:
    first = delivery(7, at(3))
    await journal(connection, first, first._replace(body=b"again"))
    await journal_deliveries(connection, [first._replace(body=b"and again", state="dead", dead_letters=LETTERS)])
    (row,) = await read_deliveries(connection, JournalFilter(), limit=10)
    assert (row["body"], row["state"]) == (b"body 7", "stored")


async def test_more_deliveries_than_a_statement_takes_are_all_journaled(connection: Connection) -> None:
    await journal(connection, *(delivery(n, at(1)) for n in range(1, 1203)))
    assert await numbers(connection, JournalFilter(), limit=2000) == list(range(1, 1203))


async def test_writers_of_the_same_deliveries_in_opposite_order_do_not_deadlock(pool: Pool) -> None:
    group = [delivery(n, at(1)) for n in range(1, 600)]

    async def write(deliveries: list[Delivery]) -> None:
        async with pool.acquire() as connection, connection.transaction():
            for part in (deliveries[:300], deliveries[300:]):
                await journal_deliveries(connection, part)

    async with pool.acquire() as connection:
        await ensure_partitions(connection, [TODAY])
        backwards = [*group[:300][::-1], *group[300:][::-1]]
        await asyncio.gather(*(write(g) for g in (group, backwards) * 3))
        assert len(await numbers(connection, JournalFilter(), limit=1000)) == 599


async def test_only_dead_means_deliveries_with_dead_letters(connection: Connection) -> None:
    states = ("stored", "partial", "dead", "test")
    await journal(connection, *(delivery(n, at(n), state) for n, state in enumerate(states)))
    assert await numbers(connection, JournalFilter(only_dead=True)) == [1, 2]


async def test_since_is_included_and_until_is_not_whatever_the_zone_they_are_given_in(connection: Connection) -> None:
    await connection.execute("SET timezone = 'Asia/Tokyo'")
    await journal(connection, *(delivery(n, at(0) + timedelta(hours=n - 100)) for n in range(70, 130)))
    assert await numbers(connection, JournalFilter(since=at(1), until=at(3))) == [101, 102]
    offset = timezone(timedelta(hours=-9))
    moved = JournalFilter(since=at(1).astimezone(offset), until=at(3).astimezone(offset))
    assert await numbers(connection, moved) == [101, 102]
    assert len(await numbers(connection, JournalFilter(since=at(0)))) == 30
    assert len(await numbers(connection, JournalFilter(until=at(0)))) == 30


async def test_ids_are_found_in_any_day_and_none_given_is_none_found(connection: Connection) -> None:
    await journal(connection, *(delivery(n, at(1, day=-n)) for n in range(1, 5)))
    assert await numbers(connection, JournalFilter(ids=(UUID(int=4), UUID(int=2), UUID(int=99)))) == [4, 2]
    assert await numbers(connection, JournalFilter(ids=())) == []


async def test_paging_gives_each_delivery_once_though_all_came_at_one_instant(
    pool: Pool, connection: Connection
) -> None:
    await journal(connection, *(delivery(n, at(6)) for n in range(1, 12)), delivery(99, at(6, day=-1)))
    pages = [[r["id"].int for r in rows] async for rows in all_deliveries(pool, JournalFilter(), chunk=3)]
    assert pages == [[99, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


async def test_dead_letters_are_all_read_though_the_reader_mends_them_on_the_way(
    pool: Pool, connection: Connection
) -> None:
    dead = [delivery(n, at(6), "dead") for n in range(1, 8)]
    await journal(connection, *dead)
    seen = []
    async for rows in all_deliveries(pool, JournalFilter(only_dead=True), chunk=2):
        seen += [r["id"].int for r in rows]
        mended = [d._replace(state="stored", dead_letters=None) for d in dead if d.id in {r["id"] for r in rows}]
        await mark_replayed(connection, mended, at(8))
    assert seen == list(range(1, 8))
    assert await numbers(connection, JournalFilter(only_dead=True)) == []


async def test_a_list_is_newest_first_without_bodies_and_pages_back(connection: Connection) -> None:
    await journal(connection, *(delivery(n, at(6), "partial") for n in range(1, 5)), delivery(9, at(6, day=-1)))
    first = await list_deliveries(connection, JournalFilter(), limit=3)
    last = (first[-1]["received_at"], first[-1]["id"])
    rest = await list_deliveries(connection, JournalFilter(), limit=3, before=last)
    assert [r["id"].int for r in (*first, *rest)] == [4, 3, 2, 1, 9]
    assert first[0]["dead_letters"] == [{"path": "entry[0]", "reason": "it has no id"}]
    assert (first[0]["bytes"], "body" in first[0].keys()) == (6, False)  # noqa: SIM118 - of a Record, `in` asks values


async def test_a_replay_marks_what_it_made_of_a_delivery_and_touches_no_other(connection: Connection) -> None:
    dead, other = delivery(1, at(1), "dead"), delivery(2, at(1), "dead")
    await journal(connection, dead, other)
    await mark_replayed(connection, [dead._replace(state="stored", items=3, dead_letters=None)], at(9))
    one, two = await read_deliveries(connection, JournalFilter(), limit=2)
    assert (one["state"], one["items"], one["dead_letters"], one["replayed_at"]) == ("stored", 3, None, at(9))
    assert (one["body"], one["received_at"]) == (dead.body, dead.received_at)
    assert (two["state"], two["replayed_at"]) == ("dead", None)


async def test_a_body_is_replaced_only_where_it_still_is_what_was_read(connection: Connection) -> None:
    one, two = delivery(1, at(1)), delivery(2, at(1))
    await journal(connection, one, two)
    await put_bodies(connection, [(d.day, d.id, d.body, b"less") for d in (one, two)])
    await put_bodies(connection, [(one.day, one.id, one.body, b"stale"), (two.day, two.id, b"less", b"least")])
    assert [row["body"] for row in await read_deliveries(connection, JournalFilter(), limit=2)] == [b"less", b"least"]
    assert not await mark_replayed(connection, [one], at(9))
    assert await mark_replayed(connection, [one._replace(body=b"less")], at(9))


async def test_a_replay_of_a_delivery_that_retention_dropped_marks_nothing(connection: Connection) -> None:
    await ensure_partitions(connection, [TODAY])
    assert not await mark_replayed(connection, [delivery(1, at(1, day=-100))], at(9))
    assert await numbers(connection, JournalFilter()) == []
