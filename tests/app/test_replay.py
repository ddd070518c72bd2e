from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from app import replay as replay_module
from app.replay import Replayed, replay
from sql.deliveries import JournalFilter
from tests.app.webhook.support import PAGE, PSID, SENT_AT, delivery_of, post, rows_of, text_item, webhook
from tests.app.webhook.test_reader import BODIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from sql.pool import Pool

ALL, DEAD = JournalFilter(), JournalFilter(only_dead=True)
TABLES = ("conversations", "messages", "message_reactions", "conversation_events")


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with webhook(pool) as made:
        yield made


async def every_column(pool: Pool) -> dict[str, list[Any]]:
    return {
        table: [r["row"] for r in await pool.fetch(f"SELECT to_jsonb(t) AS row FROM {table} AS t ORDER BY t::text")]
        for table in TABLES
    }


async def forget(pool: Pool) -> None:
    await pool.execute(f"TRUNCATE {', '.join(TABLES)}")


async def refuse_second_texts(pool: Pool) -> None:
    await pool.execute("ALTER TABLE messages ADD CONSTRAINT no_second CHECK (text <> 'text 2')")


async def test_a_dead_letter_whose_reason_is_gone_becomes_rows(client: httpx.AsyncClient, pool: Pool) -> None:
    await refuse_second_texts(pool)
    await post(client, delivery_of(text_item(1), text_item(2), text_item(3)))
    await post(client, delivery_of(text_item(4)))
    assert await replay(pool, DEAD) == Replayed(1, 1, 0, 0)
    await pool.execute("ALTER TABLE messages DROP CONSTRAINT no_second")
    assert await replay(pool, DEAD) == Replayed(1, 0, 1, 0)
    assert await replay(pool, DEAD) == Replayed(0, 0, 0, 0)
    rows = await pool.fetch("SELECT text FROM messages ORDER BY mid")
    assert [r["text"] for r in rows] == ["text 1", "text 2", "text 3", "text 4"]
    journal = await pool.fetch("SELECT state, items, dead_letters, replayed_at FROM webhook_deliveries ORDER BY id")
    assert [(r["state"], r["items"], r["dead_letters"]) for r in journal] == [("stored", 3, None), ("stored", 1, None)]
    assert [r["replayed_at"] is not None for r in journal] == [True, False]


async def test_what_is_still_bad_stays_a_dead_letter_with_its_reason(client: httpx.AsyncClient, pool: Pool) -> None:
    await refuse_second_texts(pool)
    await post(client, b"hello")
    await post(client, delivery_of(text_item(1), 7))
    await post(client, delivery_of(text_item(2)))
    before = await pool.fetch("SELECT state, items, dead_letters FROM webhook_deliveries ORDER BY id")
    assert [r["state"] for r in before] == ["dead", "partial", "dead"]
    assert await replay(pool, DEAD) == Replayed(3, 3, 0, 0)
    assert await pool.fetch("SELECT state, items, dead_letters FROM webhook_deliveries ORDER BY id") == before


async def test_a_replay_of_everything_brings_the_same_rows_back(client: httpx.AsyncClient, pool: Pool) -> None:
    for body in BODIES.values():
        await post(client, body)
    async with pool.acquire() as connection:
        before = await rows_of(connection)
    await forget(pool)
    replayed = await replay(pool, ALL)
    assert replayed.deliveries == len(BODIES)
    async with pool.acquire() as connection:
        assert await rows_of(connection) == before | {
            "webhook_deliveries": [
                row | {"replayed_at": after["replayed_at"]}
                for row, after in zip(
                    before["webhook_deliveries"], (await rows_of(connection))["webhook_deliveries"], strict=True
                )
            ]
        }


async def test_a_second_replay_changes_nothing(client: httpx.AsyncClient, pool: Pool) -> None:
    for body in BODIES.values():
        await post(client, body)
    before = await every_column(pool)
    for _ in range(2):
        replayed = await replay(pool, ALL)
        assert (replayed.inserted, replayed.updated) == (0, 0)
        assert await every_column(pool) == before


async def test_a_replay_keeps_the_time_of_receipt(client: httpx.AsyncClient, pool: Pool) -> None:
    item = text_item()
    del item["timestamp"]
    body = delivery_of(item)
    del body["entry"][0]["time"]
    await post(client, body)
    await forget(pool)
    await replay(pool, ALL)
    row = await pool.fetchrow("SELECT m.sent_at, m.webhook_seen_at, m.first_seen_at FROM messages AS m")
    received_at = await pool.fetchval("SELECT received_at FROM webhook_deliveries")
    assert tuple(row or ()) == (received_at,) * 3


async def test_a_replay_of_a_time_range_leaves_the_rest_alone(client: httpx.AsyncClient, pool: Pool) -> None:
    for n in range(4):
        await post(client, delivery_of(text_item(n)))
    times = [r["received_at"] for r in await pool.fetch("SELECT received_at FROM webhook_deliveries ORDER BY 1")]
    await forget(pool)
    assert (await replay(pool, JournalFilter(since=times[1], until=times[3]))).deliveries == 2
    assert [r["mid"] for r in await pool.fetch("SELECT mid FROM messages ORDER BY mid")] == [
        "m_unit_0001",
        "m_unit_0002",
    ]


async def test_a_replay_of_chosen_deliveries_leaves_the_rest_alone(client: httpx.AsyncClient, pool: Pool) -> None:
    for n in range(3):
        await post(client, delivery_of(text_item(n)))
    ids = [r["id"] for r in await pool.fetch("SELECT id FROM webhook_deliveries ORDER BY received_at")]
    await forget(pool)
    assert (await replay(pool, JournalFilter(ids=(ids[1],)))).deliveries == 1
    assert await pool.fetchval("SELECT mid FROM messages") == "m_unit_0001"


async def test_a_replay_reads_every_delivery_once_however_many(
    client: httpx.AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(7):
        await post(client, delivery_of(text_item(n)))
    await forget(pool)
    monkeypatch.setattr(replay_module, "DELIVERIES_AT_ONCE", 2)
    assert await replay(pool, ALL) == Replayed(7, 0, 7, 0)


async def test_a_replay_never_overwrites_what_came_later(client: httpx.AsyncClient, pool: Pool) -> None:
    def reaction(at: int, action: str) -> Any:
        told = {"mid": "m_unit_0001", "action": action, "emoji": "👍", "reaction": "like"}
        return delivery_of({"sender": {"id": PSID}, "recipient": {"id": PAGE}, "timestamp": at, "reaction": told})

    await post(client, delivery_of(text_item(1)))
    await post(client, reaction(SENT_AT + 100, "react"))
    middle = datetime.now(UTC)
    await post(client, reaction(SENT_AT + 200, "unreact"))
    await post(client, delivery_of(text_item(1, is_deleted=True, text=None)))
    await replay(pool, JournalFilter(until=middle))
    row = await pool.fetchrow("SELECT is_deleted, text FROM messages")
    assert tuple(row or ()) == (True, None)
    assert await pool.fetchval("SELECT count(*) FROM message_reactions") == 0


async def test_a_test_of_the_dashboard_stays_one(client: httpx.AsyncClient, pool: Pool) -> None:
    await post(client, BODIES["test_by_dashboard"])
    assert await replay(pool, ALL) == Replayed(1, 0, 0, 0)
    assert await pool.fetchval("SELECT state FROM webhook_deliveries") == "test"


async def test_a_future_range_holds_nothing(client: httpx.AsyncClient, pool: Pool) -> None:
    await post(client, json.dumps(delivery_of(text_item())).encode())
    assert await replay(pool, JournalFilter(since=datetime.now(UTC) + timedelta(days=1))) == Replayed(0, 0, 0, 0)
