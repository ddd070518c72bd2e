from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from reconciler.repairs import Repairs
from sql.json_values import dumps
from sql.loss import MISSED_AFTER
from sql.pages import pause_page
from sql.rows import Event, Rows
from sql.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sql.rows import Row
    from tests.reconciler.stage import Stage

MINUTE = timedelta(minutes=1)


async def decide(stage: Stage, *, after: timedelta = MISSED_AFTER) -> int:
    """Decide what can be decided `after` a while; returns how many messages were told of as missed."""
    await stage.do("UPDATE brought_messages SET decided_at = decided_at - $1::interval", after)
    told: list[int] = []
    found = await Repairs(stage.pool, on_missed=told.append).run_once()
    assert told == [found["missed"]]
    return found["missed"]


async def store(stage: Stage, *rows: Row) -> None:
    these = Rows()
    these.add(rows)
    async with stage.pool.acquire() as connection, connection.transaction():
        await upsert(connection, these)


def brought(stage: Stage, thread: Any, mid: str, *, after: timedelta = timedelta(0)) -> Row:
    """A message as a webhook brings it, `after` a while from now."""
    return stage.webhook_row(thread, mid)._replace(webhook_seen_at=stage.clock() + after)


async def repaired(stage: Stage) -> list[int]:
    return [run["repaired"] for run in await stage.rows("SELECT repaired FROM sync_runs ORDER BY id")]


@pytest.fixture
async def stage(make_stage: Callable[..., Awaitable[Stage]]) -> Stage:
    """A Page that was loaded before webhooks were expected of it."""
    stage = await make_stage()
    await stage.do("UPDATE webhook_expectations SET started_at = $1", stage.clock())
    await stage.sync()
    stage.clock.advance(60)
    return stage


async def test_history_is_not_repaired(stage: Stage) -> None:
    assert await repaired(stage) == [0]
    assert await decide(stage) == 0


async def test_what_no_webhook_brought_is_repaired_at_once_and_missed_once_its_time_is_over(stage: Stage) -> None:
    stage.say(stage.threads()[0], 2)
    assert (await stage.sync())["repaired"] == 2
    assert await decide(stage, after=MISSED_AFTER - MINUTE) == 0
    assert await decide(stage, after=MINUTE) == 2
    assert await repaired(stage) == [0, 2]
    assert await decide(stage) == 0


async def test_a_webhook_that_was_only_on_its_way_takes_it_back(stage: Stage) -> None:
    thread = stage.threads()[0]
    _lost, on_its_way = stage.say(thread, 2)
    await stage.sync()
    await store(stage, brought(stage, thread, on_its_way))
    assert await decide(stage) == 1
    assert await repaired(stage) == [0, 1]


async def test_a_webhook_that_comes_too_late_takes_nothing_back(stage: Stage) -> None:
    thread = stage.threads()[0]
    (late,) = stage.say(thread)
    await stage.sync()
    await store(stage, brought(stage, thread, late, after=MISSED_AFTER + MINUTE))
    assert await decide(stage) == 1
    assert await repaired(stage) == [0, 1]


async def test_what_waited_in_a_spool_while_a_sync_brought_it_was_not_missed(stage: Stage) -> None:
    thread = stage.threads()[0]
    (spooled,) = stage.say(thread)
    row = brought(stage, thread, spooled)
    stage.clock.advance(3600)
    assert (await stage.sync())["repaired"] == 1
    assert await decide(stage, after=timedelta(0)) == 0  # long ago as it was sent
    await store(stage, row)
    assert await decide(stage) == 0
    assert await repaired(stage) == [0, 0]


async def test_what_a_webhook_brought_first_is_not_repaired(stage: Stage) -> None:
    thread = stage.threads()[0]
    (mid,) = stage.say(thread)
    await store(stage, brought(stage, thread, mid))
    assert (await stage.sync())["repaired"] == 0
    assert await decide(stage) == 0


async def test_nothing_is_repaired_of_what_was_sent_while_its_page_was_paused(stage: Stage) -> None:
    await stage.do("UPDATE webhook_expectations SET ended_at = $1", stage.clock() - MINUTE)
    stage.say(stage.threads()[0])
    assert (await stage.sync())["repaired"] == 0
    async with stage.pool.acquire() as connection:
        await pause_page(connection, stage.page.id, now=stage.clock())
    assert await decide(stage) == 0


async def test_each_direction_is_expected_by_its_own_field(stage: Stage) -> None:
    await stage.do("UPDATE webhook_expectations SET ended_at = started_at WHERE field = 'messages'")
    thread = stage.threads()[0]
    stage.say(thread)
    stage.world.page_sends(stage.page.id, thread.psid)
    run = await stage.sync()
    assert (run["inserted"], run["repaired"]) == (2, 1)
    assert await decide(stage) == 1


async def test_a_postback_that_came_without_mid_was_not_missed(stage: Stage) -> None:
    thread = stage.threads()[0]
    first, second = stage.say(thread, 2, each_seconds=30)
    texts = {m.mid: m.text for m in stage.world.true_messages(stage.page.id)}

    async def tap(mid: str, at: timedelta) -> None:
        now = stage.clock()
        payload = dumps({"postback": {"title": texts[mid], "payload": "GO"}})
        event = (stage.page.id, f"postback:{mid}", thread.psid, "postback", "messaging", None, now - at, False)
        await store(stage, Event(*event, payload, now, now.date(), UUID(int=1)))

    await tap(first, timedelta(seconds=30))
    assert (await stage.sync())["repaired"] == 1
    await tap(second, timedelta(0))
    assert await decide(stage) == 0
    assert await repaired(stage) == [0, 0]


async def test_what_a_later_run_reads_again_is_repaired_by_the_first_alone(stage: Stage) -> None:
    stage.say(stage.threads()[0])
    await stage.sync()
    await decide(stage)
    assert (await stage.sync("full"))["repaired"] == 0
    assert await decide(stage) == 0
    assert await repaired(stage) == [0, 1, 0]


async def test_several_who_decide_at_once_decide_each_message_once(stage: Stage) -> None:
    for thread in stage.threads()[:6]:
        (mid, _) = stage.say(thread, 2)
        await stage.sync()
        await store(stage, brought(stage, thread, mid))
    await stage.do("UPDATE brought_messages SET decided_at = now()")
    missed: list[int] = []
    await asyncio.gather(*(Repairs(stage.pool, on_missed=missed.append).run_once() for _ in range(5)))
    assert sum(missed) == 6
    assert await repaired(stage) == [0, *[1] * 6]


async def test_of_an_erased_message_nothing_is_decided(stage: Stage) -> None:
    thread = stage.threads()[0]
    stage.say(thread)
    await stage.sync()
    await stage.do(
        """
        UPDATE messages SET is_erased = true, direction = NULL, sent_at = NULL, sent_at_rank = 9, seen_batch = NULL,
            original = NULL, edits = NULL, graph = NULL, links = NULL, webhook_seen_at = NULL, sync_seen_at = NULL
        """
    )
    assert await decide(stage) == 0
    assert await repaired(stage) == [0, 1]
