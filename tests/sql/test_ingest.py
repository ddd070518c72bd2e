from __future__ import annotations

import asyncio
import random
import string
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from sql import ingest
from sql.ingest import Ingest, Ingestor, ItemRows
from sql.rows import Conversation, Event, Message

if TYPE_CHECKING:
    from sql.pool import Pool

AT = datetime(2031, 3, 14, 1, 59, 26, tzinfo=UTC)
PAGE, PSID = "104203300000001", "7300000000000011"
# A message whose text begins so is refused with that SQLSTATE, or until it was refused so many times.
REFUSE, UNTIL = "refuse", "until"

TRIGGER = """
CREATE SEQUENCE refusals;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    word text[] := string_to_array(NEW.original ->> 'text', ' ');
BEGIN
    -- a sequence counts on when the transaction is rolled back
    IF word[1] = 'refuse' OR (word[1] = 'until' AND nextval('refusals') <= word[3]::integer) THEN
        RAISE EXCEPTION 'refused as told: %', NEW.original USING ERRCODE = word[2];
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.fixture
async def refusing(pool: Pool) -> Pool:
    """A database that refuses messages as their texts say."""
    await pool.execute(TRIGGER)
    return pool


def message(mid: str, text: str = "hello", *, psid: str = PSID, rank: int = 0) -> ItemRows:
    row = Message(
        PAGE,
        mid,
        psid,
        direction="inbound",
        sent_at=AT,
        sent_at_rank=rank,
        original=f'{{"text": "{text}"}}',
        webhook_seen_at=AT,
    )
    return ItemRows(f"entry[0].messaging[{mid!a}]", [Conversation(PAGE, psid, "messenger"), row])


def delivery(number: int, *items: ItemRows, dead: tuple[tuple[str, str], ...] = ()) -> Ingest:
    return Ingest(AT.date(), UUID(int=number), AT, b"body %d" % number, list(items), list(dead))


async def mids(pool: Pool) -> list[str]:
    return [r["mid"] for r in await pool.fetch("SELECT mid FROM messages ORDER BY mid")]


async def journal(pool: Pool) -> dict[int, tuple[Any, ...]]:
    rows = await pool.fetch("SELECT id, state, items, dead_letters FROM webhook_deliveries ORDER BY id")
    return {r["id"].int: (r["state"], r["items"], [d["path"] for d in r["dead_letters"] or []]) for r in rows}


async def test_a_group_is_journaled_and_its_rows_stored(pool: Pool) -> None:
    counts = await Ingestor(pool).write([delivery(1, message("m_1")), delivery(2, message("m_2"), message("m_3"))])
    assert counts.inserted == 3
    assert await mids(pool) == ["m_1", "m_2", "m_3"]
    assert await journal(pool) == {1: ("stored", 1, []), 2: ("stored", 2, [])}


async def test_a_group_written_twice_is_there_once(pool: Pool) -> None:
    group = [delivery(1, message("m_1")), delivery(2, message("m_2"))]
    await Ingestor(pool).write(group)
    counts = await Ingestor(pool).write(group)
    assert (counts.inserted, counts.updated, counts.unchanged) == (0, 0, 2)
    assert await journal(pool) == {1: ("stored", 1, []), 2: ("stored", 1, [])}


@pytest.mark.parametrize("state", ["21000", "22003", "22P05", "23514", "54000"])
async def test_an_item_that_postgres_finds_bad_is_a_dead_letter_and_all_else_is_stored(
    refusing: Pool, state: str
) -> None:
    bad = message("m_bad", f"{REFUSE} {state} private")
    group = [
        delivery(1, message("m_1")),
        delivery(2, message("m_2"), message("m_3"), bad, message("m_4")),
        *(delivery(n, message(f"m_{n}")) for n in range(5, 9)),
    ]
    counts = await Ingestor(refusing).write(group)
    assert counts.inserted == 8
    assert await mids(refusing) == [f"m_{n}" for n in range(1, 9)]
    told = await journal(refusing)
    assert told.pop(2) == ("partial", 4, [bad.path])
    assert list(told.values()) == [("stored", 1, [])] * 5
    letters = await refusing.fetchval("SELECT dead_letters FROM webhook_deliveries WHERE state = 'partial'")
    assert letters[0]["reason"].startswith("refused by Postgres: ")
    assert letters[0]["reason"].endswith(f"({state})")
    assert "private" not in str(letters)


async def test_several_bad_items_in_several_deliveries_are_each_found(refusing: Pool) -> None:
    bad = f"{REFUSE} 22003"
    group = [
        delivery(1, message("m_a", bad), message("m_1"), message("m_b", bad)),
        delivery(2, message("m_2")),
        delivery(3, message("m_c", bad)),
        delivery(4, message("m_d", bad), message("m_e", bad), dead=(("entry[9]", "an entry must be an object"),)),
    ]
    await Ingestor(refusing).write(group)
    assert await mids(refusing) == ["m_1", "m_2"]
    states = {number: (state, len(dead)) for number, (state, _, dead) in (await journal(refusing)).items()}
    assert states == {1: ("partial", 2), 2: ("stored", 0), 3: ("dead", 1), 4: ("dead", 3)}


async def test_a_bad_item_costs_the_whole_of_itself_and_no_more(refusing: Pool) -> None:
    rows = [*message("m_1").rows, *message("m_2", f"{REFUSE} 22003").rows]
    await Ingestor(refusing).write([delivery(1, ItemRows("entry[0].messaging[0]", rows), message("m_3"))])
    assert await mids(refusing) == ["m_3"]


@pytest.mark.parametrize("state", ["40P01", "40001", "55P03"])
async def test_what_only_the_moment_refuses_is_tried_again_as_a_whole(refusing: Pool, state: str) -> None:
    group = [delivery(1, message("m_1", f"{UNTIL} {state} 2"), message("m_2")), delivery(2, message("m_3"))]
    await Ingestor(refusing).write(group)
    assert await mids(refusing) == ["m_1", "m_2", "m_3"]
    assert await journal(refusing) == {1: ("stored", 2, []), 2: ("stored", 1, [])}


async def test_trying_again_has_an_end(refusing: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "RETRIES", 3)
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await Ingestor(refusing).write([delivery(1, message("m_1", f"{REFUSE} 40P01"))])
    assert await refusing.fetchval("SELECT count(*) FROM webhook_deliveries") == 0


@pytest.mark.parametrize("state", ["08006", "53100", "53300", "57014", "57P03", "58030", "XX000", "0A000", "42P01"])
async def test_when_postgres_cannot_take_it_now_nothing_is_dropped(refusing: Pool, state: str) -> None:
    group = [delivery(1, message("m_1")), delivery(2, message("m_2", f"{REFUSE} {state}"))]
    with pytest.raises(asyncpg.PostgresError):
        await Ingestor(refusing).write(group)
    assert await mids(refusing) == []
    assert await journal(refusing) == {}


def incompressible(length: int) -> str:
    return "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=length))


@pytest.mark.parametrize(
    ("bad", "state"),
    [
        (message("m_" + incompressible(3_000)), "54000"),  # past what a btree's entry may have
        (message("m_bad", psid=incompressible(3_000)), "54000"),
        (message("m_\x00"), "22021"),
        (message("m_bad", r"\u0000"), "22P05"),
        (message("m_bad", '", oops'), "22P02"),
        (message("m_\ud800"), None),
        (message("m_bad", rank=5), "23514"),
        (message("m_bad", rank=70_000), None),
        (message(""), "23514"),
        (
            ItemRows("x", [Event(PAGE, "k", None, "", "calls", None, AT, False, "{}", AT, AT.date(), UUID(int=1))]),
            "23514",
        ),
    ],
)
async def test_what_postgres_itself_refuses_is_a_dead_letter_and_all_else_is_stored(
    pool: Pool, bad: ItemRows, state: str | None
) -> None:
    group = [delivery(1, message("m_1"), bad, message("m_2")), delivery(2, message("m_3"))]
    await Ingestor(pool).write(group)
    assert await mids(pool) == ["m_1", "m_2", "m_3"]
    assert await journal(pool) == {1: ("partial", 3, [bad.path]), 2: ("stored", 1, [])}
    letters = await pool.fetchval("SELECT dead_letters FROM webhook_deliveries WHERE state = 'partial'")
    assert state is None or f"({state})" in letters[0]["reason"]


async def test_many_bad_items_among_many_good_ones_are_all_found(refusing: Pool) -> None:
    items = [message(f"m_{n:03}", f"{REFUSE} 22003" if n % 7 == 0 else "hello") for n in range(100)]
    await Ingestor(refusing).write([delivery(1, *items)])
    assert await mids(refusing) == [f"m_{n:03}" for n in range(100) if n % 7]
    assert await journal(refusing) == {1: ("partial", 100, [items[n].path for n in range(0, 100, 7)])}


async def test_a_day_without_a_partition_gets_one(pool: Pool) -> None:
    past = delivery(1, message("m_1"))._replace(day=date(2029, 2, 28))
    await Ingestor(pool).write([past])
    assert await journal(pool) == {1: ("stored", 1, [])}


async def test_a_partition_that_was_dropped_meanwhile_is_made_again(pool: Pool) -> None:
    ingestor = Ingestor(pool)
    await ingestor.write([delivery(1, message("m_1"))])
    await pool.execute(f"DROP TABLE webhook_deliveries_{AT:%Y%m%d}")
    await ingestor.write([delivery(2, message("m_2"))])
    assert await journal(pool) == {2: ("stored", 1, [])}
    assert await mids(pool) == ["m_1", "m_2"]


async def test_a_write_that_is_given_up_ends_soon_and_leaves_its_connection_free(pool: Pool) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE messages IN EXCLUSIVE MODE")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Ingestor(pool).write([delivery(1, message("m_1"))])
        await transaction.rollback()
    assert await journal(pool) == {}
    await Ingestor(pool).write([delivery(1, message("m_1"))])
    assert await journal(pool) == {1: ("stored", 1, [])}


async def test_two_writers_of_the_same_deliveries_both_succeed(pool: Pool) -> None:
    group = [delivery(n, message(f"m_{n % 5}")) for n in range(20)]
    await asyncio.gather(*(Ingestor(pool).write(g) for g in (group, list(reversed(group)), group[5:15])))
    assert len(await journal(pool)) == 20
    assert await mids(pool) == [f"m_{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("items", "dead", "tests", "state", "total"),
    [
        (0, 0, 0, "stored", 0),
        (2, 0, 0, "stored", 2),
        (2, 1, 1, "partial", 4),
        (0, 1, 1, "dead", 2),
        (0, 0, 3, "test", 3),
        (1, 0, 1, "stored", 2),
    ],
)
def test_the_journal_tells_what_became_of_a_delivery(items: int, dead: int, tests: int, state: str, total: int) -> None:
    row = delivery(1, *[message("m_1")] * items, dead=(("x", "y"),) * dead)._replace(tests=tests).delivery()
    assert (row.state, row.items, row.dead_letters is not None) == (state, total, dead > 0)
