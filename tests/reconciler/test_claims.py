"""Which runs are queued by the schedule, and which may be claimed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sql.cooldowns import APP, page_scope
from sql.leases import claim_run, put_off_run, release_page
from sql.pages import put_page
from sql.sync_runs import cancel_runs, enqueue_due, enqueue_run
from tests.reconciler.runs import NOW, SOON, ask, ask_window, claim, cool, end, expire, row, step

if TYPE_CHECKING:
    from sql.pool import Pool
    from sql.upsert import Connection

pytestmark = pytest.mark.usefixtures("two_pages")


# -- the schedule ---------------------------------------------------------------------------------------------


async def test_pages_that_are_due_are_queued_once(connection: Connection) -> None:
    await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 minute' WHERE page_id = '2'")
    assert await enqueue_due(connection, every=SOON) == 1
    assert await enqueue_due(connection, every=SOON) == 0
    run = await claim(connection)
    assert (run.page_id, run.kind) == ("1", "incremental")
    await connection.execute("UPDATE facebook_pages SET next_sync_at = now() WHERE page_id = '1'")
    assert await enqueue_due(connection, every=SOON) == 0


@pytest.mark.parametrize("state", ["paused", "needs_reauth", "removed"])
async def test_pages_that_are_not_active_are_not_queued(connection: Connection, state: str) -> None:
    await connection.execute("UPDATE facebook_pages SET state = $1 WHERE page_id = '1'", state)
    assert await enqueue_due(connection, every=SOON) == 1
    assert (await claim(connection)).page_id == "2"


@pytest.mark.parametrize("kind", ["backfill", "audit"])
async def test_long_runs_do_not_keep_a_page_from_being_due(connection: Connection, kind: str) -> None:
    since = NOW if kind == "backfill" else None
    await enqueue_run(connection, "1", kind, requested_by="api", since=since)
    await claim(connection)
    assert await enqueue_due(connection, every=SOON) == 2


async def test_a_first_load_that_reads_older_messages_does_not_keep_its_page_from_being_due(
    connection: Connection,
) -> None:
    await ask(connection)
    run = await claim(connection)
    await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour' WHERE page_id = '2'")
    assert await enqueue_due(connection, every=SOON) == 0
    await step(connection, run, is_deep=True)
    await connection.execute("UPDATE facebook_pages SET next_sync_at = now() WHERE page_id = '1'")
    assert await enqueue_due(connection, every=SOON) == 1


async def test_a_finished_run_makes_the_page_due_an_interval_later(connection: Connection) -> None:
    await ask(connection)
    await end(connection, await claim(connection))
    page = await connection.fetchrow("SELECT next_sync_at - now() AS wait FROM facebook_pages WHERE page_id = '1'")
    assert page is not None
    assert SOON - timedelta(seconds=30) < page["wait"] <= SOON


# -- claiming -------------------------------------------------------------------------------------------------


async def test_a_page_is_worked_on_by_one_worker_at_a_time(connection: Connection) -> None:
    await ask(connection)
    await ask(connection, page_id="2")
    assert {(await claim(connection, "a")).page_id, (await claim(connection, "b")).page_id} == {"1", "2"}
    await ask(connection)
    assert await claim_run(connection, "c") is None


async def test_many_workers_claim_each_run_once(pool: Pool, connection: Connection) -> None:
    for n in range(20):
        await put_page(connection, f"9{n}", "sealed", None, now=NOW)
        await ask(connection, page_id=f"9{n}")

    async def worker(name: str) -> list[int]:
        claimed = []
        async with pool.acquire() as own:
            while (run := await claim_run(own, name)) is not None:
                claimed.append(run.id)
        return claimed

    lists = await asyncio.gather(*(worker(f"worker {n}") for n in range(5)))
    claimed = [run_id for each in lists for run_id in each]
    assert len(claimed) == len(set(claimed)) == 20


async def test_what_is_new_goes_before_what_is_old(connection: Connection) -> None:
    for n, kind in enumerate(["audit", "backfill", "full", "incremental"]):
        await put_page(connection, f"9{n}", "sealed", None, now=NOW)
        since = NOW if kind == "backfill" else None
        await enqueue_run(connection, f"9{n}", kind, requested_by="api", since=since)
    assert [(await claim(connection)).kind for _ in range(4)] == ["incremental", "full", "backfill", "audit"]


async def test_a_first_load_that_was_put_off_goes_behind_its_pages_incremental_and_before_a_backfill(
    connection: Connection,
) -> None:
    load = await ask(connection)
    run = await claim(connection)
    await step(connection, run, is_deep=True)
    await put_off_run(connection, run, None, api_calls=0)
    new = await ask(connection)
    backfill = await ask_window(connection, NOW, None)
    order = []
    while (claimed := await claim_run(connection, "worker")) is not None:
        order.append(claimed.id)
        await end(connection, claimed)
    assert order == [new, load, backfill]


async def test_a_run_put_off_in_its_list_goes_before_its_follow_up(connection: Connection) -> None:
    first = await ask(connection)
    run = await claim(connection)
    await step(connection, run)
    await put_off_run(connection, run, "waits", api_calls=2)
    await ask(connection)
    again = await claim(connection)
    assert (again.id, again.checkpoint, again.error) == (first, {"list": {}}, "waits")
    assert (await row(connection, first))["api_calls"] == 2


async def test_an_abandoned_run_is_claimed_again_once_its_lease_ran_out(connection: Connection) -> None:
    first = await claim(connection) if await ask(connection) else None
    assert first is not None
    await step(connection, first)
    assert await claim_run(connection, "other") is None
    await expire(connection)
    again = await claim(connection, "other")
    assert (again.id, again.term, again.holder) == (first.id, first.term + 1, "other")
    assert again.checkpoint == {"list": {}}
    assert (await row(connection, first.id))["state"] == "running"


async def test_an_abandoned_run_goes_before_its_pages_next(connection: Connection) -> None:
    first = await ask(connection, "audit")
    await claim(connection)
    await ask(connection)
    await expire(connection)
    assert (await claim(connection)).id == first


async def test_a_run_cancelled_while_it_is_claimed_is_not_claimed(pool: Pool, connection: Connection) -> None:
    run_id = await ask(connection)
    async with pool.acquire() as other, other.transaction():
        await cancel_runs(other, [run_id])
        assert await claim_run(connection, "worker") is None
    assert await claim_run(connection, "worker") is None
    assert (await row(connection, run_id))["state"] == "cancelled"
    assert await connection.fetchval("SELECT lease_holder FROM facebook_pages WHERE page_id = '1'") is None


async def test_attempts_count_until_a_step_is_stored(connection: Connection) -> None:
    await ask(connection)
    attempts = []
    for _ in range(3):
        attempts.append((await claim(connection)).attempts)
        await expire(connection)
    await step(connection, await claim(connection))
    await expire(connection)
    attempts.append((await claim(connection)).attempts)
    assert attempts == [1, 2, 3, 1]


async def test_a_page_let_go_for_a_while_is_claimed_after_it(connection: Connection) -> None:
    await ask(connection)
    run = await claim(connection)
    await release_page(connection, run, after=timedelta(seconds=20), reason="interrupted by a bug")
    assert await claim_run(connection, "other") is None
    await expire(connection)
    assert (await claim(connection)).error == "interrupted by a bug"


# -- cooldowns ------------------------------------------------------------------------------------------------


async def test_a_page_that_cools_down_is_not_claimed_and_others_are(connection: Connection) -> None:
    await ask(connection)
    await ask(connection, page_id="2")
    await cool(connection, page_scope("1"))
    assert (await claim(connection)).page_id == "2"
    assert await claim_run(connection, "worker") is None
    await connection.execute("UPDATE cooldowns SET until = now()")
    assert (await claim(connection)).page_id == "1"


async def test_while_the_app_cools_down_no_page_is_claimed(connection: Connection) -> None:
    await ask(connection)
    await cool(connection, APP)
    assert await claim_run(connection, "worker") is None


async def seconds_left(connection: Connection) -> float:
    return float(await connection.fetchval("SELECT extract(epoch FROM until - now()) FROM cooldowns"))


async def test_pauses_in_a_row_double_up_to_the_longest_and_begin_anew_after_some_quiet(
    connection: Connection,
) -> None:
    lasted = []
    for _ in range(5):
        await cool(connection, APP, None)
        lasted.append(round(await seconds_left(connection)))
        await connection.execute("UPDATE cooldowns SET until = now()")
    assert lasted == [5, 10, 20, 30, 30]
    await connection.execute("UPDATE cooldowns SET until = now() - interval '11 minutes'")
    await cool(connection, APP, None)
    assert round(await seconds_left(connection)) == 5


async def test_a_pause_is_as_long_as_meta_says_and_never_cut_short(connection: Connection) -> None:
    await cool(connection, APP, timedelta(hours=2))
    assert round(await seconds_left(connection)) == 7200
    await cool(connection, APP, None)
    assert round(await seconds_left(connection)) == 7200
