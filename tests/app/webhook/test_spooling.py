"""Deliveries that Postgres can't take go to the spool, are answered 200, and are in Postgres once when it can."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from app import metrics
from app.webhook import drain as drain_module
from app.webhook import group_commit as group_commit_module
from app.webhook.delivery_reader import DeliveryReader
from app.webhook.drain import Drain
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.receiver import Receiver
from sql.ingest import Ingestor
from sql.pool import Pool, open_pool
from sql.spool import Spool, Spooled
from tests.app.webhook.support import MID, PAGE, SECRET, VERIFY_TOKEN, client_of, delivery_of, escaped, post, text_item
from tests.gateway import Gateway, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from sql.ingest import Ingest


class Door(NamedTuple):
    """A receiver with its spool, whose Postgres is behind a gateway. `seen` are deliveries that Postgres has."""

    http: httpx.AsyncClient
    spool: Spool
    durable: Durable
    drain: Drain
    gateway: Gateway
    seen: list[Ingest]


@asynccontextmanager
async def opened(dsn: str, folder: Path, *, max_bytes: int = 2**30) -> AsyncIterator[Door]:
    seen: list[Ingest] = []
    async with (
        gateway(dsn) as way,
        open_pool(way.dsn, min_size=0, max_size=3) as pool,
        Spool(folder, max_bytes=max_bytes) as spool,
    ):
        reader, ingestor = DeliveryReader(), Ingestor(pool)
        durable = Durable(GroupCommit(ingestor), spool, reader)
        drain = Drain(spool, pool, ingestor, reader, durable, on_stored=seen.append)
        async with durable.group_commit:
            receiver = Receiver(durable, secrets=[SECRET], verify_tokens=[VERIFY_TOKEN], on_stored=seen.append)
            async with client_of(receiver) as http:
                yield Door(http, spool, durable, drain, way, seen)


@pytest.fixture
async def door(one_database: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Door]:
    assert pool
    async with opened(one_database, tmp_path / "spool") as made:
        yield made


async def stored(pool: Pool) -> list[str]:
    return [r["text"] for r in await pool.fetch("SELECT text FROM messages ORDER BY page_id, mid")]


async def journaled(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM webhook_deliveries"))


async def assert_taken(door: Door, *items: dict[str, Any]) -> None:
    for item in items:
        assert (await post(door.http, delivery_of(item))).status_code == 200


@asynccontextmanager
async def refusing(pool: Pool, table: str, sqlstate: str, when: str = "true") -> AsyncIterator[None]:
    """Let Postgres refuse rows of a table with an error of this kind."""
    await pool.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {when} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )
    try:
        yield
    finally:
        await pool.execute("DROP FUNCTION refuse CASCADE")


async def test_while_postgres_is_away_deliveries_are_kept_and_answered_200(door: Door, pool: Pool) -> None:
    await assert_taken(door, text_item(1))
    await door.gateway.close()
    await assert_taken(door, text_item(2), text_item(3))
    assert (door.durable.is_away, door.spool.depth) == (True, 2)
    assert await door.drain.run_once() == {"stored": 0}
    await door.gateway.open()
    assert await door.drain.run_once() == {"stored": 2}
    assert (door.durable.is_away, door.spool.depth) == (False, 0)
    assert await stored(pool) == ["text 1", "text 2", "text 3"]
    await assert_taken(door, text_item(4))
    assert door.spool.depth == 0
    assert len(door.seen) == await journaled(pool) == 4


async def test_a_spooled_delivery_keeps_the_time_at_which_it_came_in(door: Door, pool: Pool) -> None:
    await door.gateway.close()
    await assert_taken(door, text_item(1))
    came = door.spool.oldest
    await door.gateway.open()
    await door.drain.run_once()
    row = await pool.fetchrow("SELECT received_at, webhook_seen_at, first_seen_at FROM messages, webhook_deliveries")
    assert row is not None
    assert tuple(row) == (came, came, came)


async def test_a_commit_that_takes_too_long_is_spooled_too_and_what_was_written_twice_is_there_once(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await assert_taken(door, text_item(1))
    door.gateway.freeze()
    with monkeypatch.context() as hurried:
        hurried.setattr(group_commit_module, "COMMIT_WITHIN_SECONDS", 0.2)
        await assert_taken(door, text_item(2))
    assert door.durable.is_away
    door.gateway.thaw()
    await door.drain.run_once()
    assert await stored(pool) == ["text 1", "text 2"]
    assert await journaled(pool) == 2


async def test_a_delivery_that_is_journaled_already_meets_itself(door: Door, pool: Pool) -> None:
    body = escaped(delivery_of(text_item(1)))
    await assert_taken(door, text_item(1))
    row = await pool.fetchrow("SELECT id, received_at FROM webhook_deliveries")
    assert row is not None
    await door.spool.put(Spooled(row["id"], row["received_at"], body))
    assert await door.drain.run_once() == {"stored": 1}
    assert (await journaled(pool), await stored(pool)) == (1, ["text 1"])


async def test_a_full_queue_means_the_spool(door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit_module, "MAX_QUEUE_BYTES", 100)
    await assert_taken(door, text_item(1))
    assert (door.durable.is_away, door.spool.depth) == (False, 1)
    await door.drain.run_once()
    assert await stored(pool) == ["text 1"]


async def test_a_body_that_took_all_the_time_there_is_goes_to_the_spool_at_once(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit_module, "COMMIT_WITHIN_SECONDS", 0.0)
    await assert_taken(door, text_item(1))
    assert (door.spool.depth, await journaled(pool)) == (1, 0)


async def test_while_postgres_is_away_nobody_waits_for_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(*_: object, **__: object) -> None:
        raise AssertionError("Postgres was asked")

    door.durable.went_away("told so")
    monkeypatch.setattr(GroupCommit, "commit", asked)
    await assert_taken(door, text_item(1))
    assert door.spool.depth == 1


@pytest.mark.parametrize("sqlstate", ["53100", "25006", "57P01"])
async def test_a_full_disk_or_a_standby_is_postgres_away(door: Door, pool: Pool, sqlstate: str) -> None:
    async with refusing(pool, "messages", sqlstate):
        await assert_taken(door, text_item(1), text_item(2))
        assert (door.durable.is_away, door.spool.depth) == (True, 2)
        await door.drain.run_once()
        assert (door.durable.is_away, door.spool.depth) == (True, 2)
    await door.drain.run_once()
    assert (door.durable.is_away, door.spool.depth) == (False, 0)
    assert await stored(pool) == ["text 1", "text 2"]


async def test_neither_postgres_nor_the_spool_is_503_and_postgres_back_is_noticed_by_the_next_delivery(
    one_database: str, pool: Pool, tmp_path: Path
) -> None:
    async with opened(one_database, tmp_path / "spool", max_bytes=10) as door:
        await door.gateway.close()
        for n in (1, 2):
            answer = await post(door.http, delivery_of(text_item(n)))
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        await door.gateway.open()
        await assert_taken(door, text_item(3))
        assert not door.durable.is_away
    assert await stored(pool) == ["text 3"]


async def test_with_nothing_in_the_spool_postgres_is_asked_whether_it_is_back(door: Door) -> None:
    await door.gateway.close()
    door.durable.went_away("told so")
    assert [door.durable.is_away] == [True]
    await door.drain.run_once()
    assert [door.durable.is_away] == [True]
    await door.gateway.open()
    await door.drain.run_once()
    assert [door.durable.is_away] == [False]


async def test_a_turn_of_the_drain_ends_in_its_time_though_postgres_stands_still(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spool_items(door, 1)
    await door.drain.run_once()  # there is a connection now
    await spool_items(door, 2)
    monkeypatch.setattr(drain_module, "COMMIT_WITHIN_SECONDS", 0.05)
    door.gateway.freeze()
    turn = asyncio.create_task(door.drain.run_once())
    done, _ = await asyncio.wait({turn}, timeout=30)
    assert done
    assert door.durable.is_away
    door.gateway.thaw()
    monkeypatch.undo()
    await drained(door)
    assert await stored(pool) == ["text 1", "text 2"]


async def spool_items(door: Door, *numbers: int) -> None:
    """Let these texts wait in the spool, as if Postgres were away."""
    door.durable.went_away("told so")
    await assert_taken(door, *(text_item(n) for n in numbers))


async def drained(door: Door) -> None:
    """Let so many turns pass that whoever can be stored is stored, and who can't be has had all its attempts."""
    for _ in range(drain_module.LAST_ATTEMPT + 10):
        await door.drain.run_once()


async def test_one_that_postgres_keeps_refusing_holds_up_nobody_and_becomes_a_dead_letter(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "LAST_ATTEMPT", 6)
    async with refusing(pool, "messages", "P0001", "NEW.mid = 'm_unit_0002'"):
        await spool_items(door, 1, 2, 3, 4)
        await drained(door)
        assert (door.durable.is_away, door.spool.depth) == (False, 0)
        assert await stored(pool) == ["text 1", "text 3", "text 4"]
    letters = await pool.fetch("SELECT dead_letters FROM webhook_deliveries WHERE state = 'dead'")
    assert [r["dead_letters"] for r in letters] == [
        [{"path": "", "reason": "refused by Postgres: RaiseError (P0001)"}],
    ]


async def test_one_that_not_even_the_journal_takes_stays_in_the_spool_and_holds_up_nobody(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "LAST_ATTEMPT", 6)
    async with refusing(
        pool, "webhook_deliveries", "P0001", "position('text 2' IN convert_from(NEW.body, 'UTF8')) > 0"
    ):
        await spool_items(door, 1, 2, 3)
        await drained(door)
        assert (door.durable.is_away, door.spool.depth) == (False, 1)
        await spool_items(door, 4)
        await door.drain.run_once()
        assert (door.durable.is_away, door.spool.depth) == (False, 1)
        assert await stored(pool) == ["text 1", "text 3", "text 4"]
    await door.drain.run_once()
    assert await stored(pool) == ["text 1", "text 2", "text 3", "text 4"]


async def test_a_conversation_that_somebody_holds_locked_holds_up_only_itself(
    door: Door, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "COMMIT_WITHIN_SECONDS", 0.3)
    locked = text_item(9) | {"sender": {"id": "7300000000000099"}}
    await assert_taken(door, locked)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM conversations WHERE psid = '7300000000000099' FOR UPDATE")
        door.durable.went_away("told so")
        await assert_taken(door, text_item(1), locked, text_item(2))
        for _ in range(8):
            await door.drain.run_once()
        assert door.spool.depth == 1
        assert await stored(pool) == ["text 1", "text 2", "text 9"]
    await door.drain.run_once()
    assert (door.spool.depth, door.durable.is_away, await journaled(pool)) == (0, False, 4)


async def test_a_bad_item_of_a_spooled_delivery_costs_its_neighbours_nothing(door: Door, pool: Pool) -> None:
    door.durable.went_away("told so")
    async with refusing(pool, "messages", "23514", "NEW.mid = 'm_unit_0002'"):
        assert (await post(door.http, delivery_of(text_item(1), text_item(2), {"message": 7}))).status_code == 200
        assert (await post(door.http, b"{ this is not JSON")).status_code == 200
        await door.drain.run_once()
    assert await stored(pool) == ["text 1"]
    states = await pool.fetch("SELECT state, jsonb_array_length(dead_letters) AS letters FROM webhook_deliveries")
    assert sorted(tuple(r) for r in states) == [("dead", 1), ("partial", 2)]


async def test_what_is_left_at_an_orderly_end_is_drained_then(one_database: str, pool: Pool, tmp_path: Path) -> None:
    async with opened(one_database, tmp_path / "spool") as door:
        async with door.drain:
            await spool_items(door, 1)
            door.durable.came_back()
        assert door.spool.depth == 0
    assert await stored(pool) == ["text 1"]


async def test_the_spools_depth_bytes_and_age_are_metrics(door: Door) -> None:
    before = metrics.SPOOLED._value.get(), metrics.DRAINED._value.get()
    await spool_items(door, 1, 2)
    assert metrics.SPOOL_DELIVERIES._value.get() == 2
    assert metrics.SPOOL_BYTES._value.get() == 2 * len(escaped(delivery_of(text_item(1))))
    assert metrics.SPOOL_AGE_SECONDS._value.get() >= 0
    await door.drain.run_once()
    assert metrics.SPOOL_DELIVERIES._value.get() == metrics.SPOOL_BYTES._value.get() == 0
    assert (metrics.SPOOLED._value.get() - before[0], metrics.DRAINED._value.get() - before[1]) == (2, 2)


async def test_many_deliveries_during_an_outage_are_all_there_once_afterwards(door: Door, pool: Pool) -> None:
    deliveries = [delivery_of(text_item(n)) for n in range(300)]

    async def send(part: list[dict[str, Any]]) -> None:
        answers = await asyncio.gather(*(post(door.http, one) for one in part))
        assert {answer.status_code for answer in answers} == {200}

    await send(deliveries[:100])
    sending = asyncio.create_task(send(deliveries[100:200]))
    await door.gateway.close()
    await sending
    await send(deliveries[200:])
    await door.gateway.open()
    while door.spool.depth:
        await door.drain.run_once()
    assert await stored(pool) == [f"text {n}" for n in range(300)]
    assert await journaled(pool) == 300
    assert PAGE in {row.page_id for one in door.seen for item in one.items for row in item.rows}
    assert MID not in await stored(pool)
