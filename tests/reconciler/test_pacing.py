"""When Pages are due: what runs, webhooks, our own downtime and Meta's limits do to it, against a simulated Graph."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.downtime import DOWN_AFTER, Heartbeat
from reconciler.due import PER_PAGE, longest
from reconciler.schedule import Schedule
from reconciler.watchdog import Watchdog
from simulator import Limits
from sql.pages import put_page
from sql.rows import Rows
from sql.subscriptions import note_webhooks
from sql.upsert import upsert

if TYPE_CHECKING:
    from reconciler.downtime import Name
    from reconciler.worker import Worker
    from simulator import Page
    from sql.pool import Pool
    from tests.reconciler.stage import MakeStage, Stage

BASE = timedelta(seconds=300)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


async def subscribed(stage: Stage) -> Stage:
    """Expect webhooks from now on: what the first load brings is history."""
    await stage.do("UPDATE webhook_expectations SET started_at = $1", stage.clock())
    return stage


async def interval_of(stage: Stage, page: Page | None = None) -> timedelta:
    return timedelta(seconds=(await stage.page_row(page))["sync_interval_seconds"])


async def wait_of(stage: Stage, page: Page | None = None) -> timedelta:
    page_id = (page or stage.page).id
    row = await stage.one("SELECT next_sync_at - now() AS wait FROM facebook_pages WHERE page_id = $1", page_id)
    wait: timedelta = row["wait"]
    return wait


async def idle_worker(stage: Stage) -> Worker:
    """A worker that starts nothing."""
    async with stage.worker() as worker:
        return worker


async def schedule(stage: Stage) -> Schedule:
    """A schedule that only queues."""
    return Schedule(stage.pool, await idle_worker(stage), interval=BASE)


async def turn(stage: Stage, by: timedelta) -> None:
    """Turn the clock: the world's forward, and what is stored back."""
    stage.clock.advance(by.total_seconds())
    await stage.do("UPDATE facebook_pages SET next_sync_at = next_sync_at - $1::interval", by)
    await stage.do("UPDATE sync_runs SET finished_at = finished_at - $1::interval", by)
    await stage.do("UPDATE heartbeats SET at = at - $1::interval", by)
    await stage.do("UPDATE cooldowns SET until = until - $1::interval", by)


# -- runs -------------------------------------------------------------------------------------------------------


async def test_a_repair_shortens_a_pages_interval_and_runs_that_repair_nothing_lengthen_it(
    make_stage: MakeStage,
) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    assert await interval_of(stage) == BASE
    await stage.sync()
    assert await interval_of(stage) == 1.5 * BASE
    stage.clock.advance(60)
    stage.say(stage.threads()[0])
    stage.clock.advance(120)  # longer than any call takes: it is not just sent
    assert (await stage.sync())["repaired"] == 1
    assert await interval_of(stage) == BASE / 2
    assert BASE / 5 < await wait_of(stage) <= BASE / 2
    for _ in range(12):
        await stage.sync()
    assert await interval_of(stage) == longest(BASE)


async def test_one_pages_repairs_leave_the_others_intervals(make_stage: MakeStage) -> None:
    stage = await subscribed(await make_stage(pages=2))
    first, second = stage.world.pages
    for page in (first, second):
        await stage.sync(page=page)
    stage.clock.advance(60)
    stage.say(stage.threads(first)[0])
    stage.clock.advance(120)  # longer than any call takes: it is not just sent
    for page in (first, second):
        await stage.sync(page=page)
    assert (await interval_of(stage, first), await interval_of(stage, second)) == (BASE / 2, 1.5 * BASE)


async def test_what_a_webhook_may_still_bring_or_has_brought_meanwhile_shortens_no_interval(
    make_stage: MakeStage,
) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    stage.clock.advance(60)
    (late,) = stage.say(thread := stage.threads()[0])
    stage.clock.advance(120)  # longer than any call takes: it is not just sent
    stage.say(stage.threads()[1])  # just as the list is read

    async def come_late() -> None:
        rows = Rows()
        rows.add([stage.webhook_row(thread, late)])
        async with stage.pool.acquire() as connection, connection.transaction():
            await upsert(connection, rows)

    async with stage.worker() as worker:
        plan = worker._planner.plan

        async def plan_later(*values: Any, **more: Any) -> Any:
            await come_late()
            return await plan(*values, **more)

        worker._planner.plan = plan_later  # type: ignore[method-assign]
        run_id = await stage.ask()
        await worker.run_once()
    assert (await stage.run(run_id))["repaired"] == 2
    assert await interval_of(stage) == 1.5 * BASE


async def test_a_run_that_failed_leaves_the_interval_and_a_refusal_waits_an_hour(make_stage: MakeStage) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    stage.trouble("no_permission", stage.page)
    assert (await stage.sync())["state"] == "failed"
    assert await interval_of(stage) == BASE
    assert HOUR - SECOND < await wait_of(stage) <= HOUR + BASE


@pytest.mark.parametrize("kind", ["audit", "backfill"])
async def test_what_looks_for_the_old_does_not_move_when_a_page_is_due(make_stage: MakeStage, kind: str) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    before = await stage.page_row()
    window: dict[str, Any] = {"since": stage.clock() - DAY} if kind == "backfill" else {}
    assert (await stage.sync(kind, **window))["state"] == "succeeded"
    after = await stage.page_row()
    assert (after["next_sync_at"], after["sync_interval_seconds"]) == (
        before["next_sync_at"],
        before["sync_interval_seconds"],
    )


# -- silence and downtime ---------------------------------------------------------------------------------------


async def fall_silent(stage: Stage, page: Page, *, since: timedelta = HOUR) -> None:
    """Let a Page's webhooks have come every ten seconds until a while ago."""
    last = datetime.now(UTC) - since
    async with stage.pool.acquire() as connection:
        for n in range(20, -1, -1):
            await note_webhooks(connection, {page.id: last - n * timedelta(seconds=10)})


async def test_a_page_whose_webhooks_fall_silent_is_brought_forward_once(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=2)
    await stage.do("UPDATE facebook_pages SET sync_interval_seconds = 2400")
    silent, other = stage.world.pages
    await fall_silent(stage, silent)
    await fall_silent(stage, other, since=timedelta(minutes=5))
    ticking = await schedule(stage)
    await ticking.run_once()
    assert await wait_of(stage, silent) <= PER_PAGE
    assert await interval_of(stage, silent) == BASE
    assert await wait_of(stage, other) > HOUR / 2
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour'")
    await ticking.run_once()
    assert await wait_of(stage, silent) > HOUR / 2


async def test_a_page_that_falls_silent_again_is_brought_forward_again(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await fall_silent(stage, stage.page, since=2 * HOUR)
    ticking = await schedule(stage)
    await ticking.run_once()
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour', brought_forward_at = $1", NOON)
    await fall_silent(stage, stage.page)
    await ticking.run_once()
    assert await wait_of(stage) <= PER_PAGE


NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)


async def test_while_webhooks_are_silent_a_page_is_synced_twice_as_often_though_nothing_is_repaired(
    make_stage: MakeStage,
) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    await fall_silent(stage, stage.page)
    for _ in range(3):
        await stage.sync()
        assert await interval_of(stage) == BASE / 2


async def beat_after(stage: Stage, name: Name, gap: timedelta | None) -> int:
    """Beat with the last beat so long ago, None: never; returns how many Pages were given another time."""
    await stage.do("DELETE FROM heartbeats")
    if gap is not None:
        await stage.do("INSERT INTO heartbeats (name, at) VALUES ($1, now() - $2::interval)", name, gap)
    return (await Heartbeat(stage.pool, name, interval=BASE).run_once())["moved"]


async def test_after_a_time_without_receiver_every_page_is_due_soon(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=5, conversations=1)
    await stage.do("UPDATE facebook_pages SET sync_interval_seconds = 2400")
    assert await beat_after(stage, "receiver", 2 * DOWN_AFTER) == 5
    for page in stage.world.pages:
        assert await wait_of(stage, page) <= 5 * PER_PAGE
        assert await interval_of(stage, page) == BASE


@pytest.mark.parametrize("gap", [None, timedelta(0), DOWN_AFTER - SECOND])
async def test_a_first_start_and_a_quick_restart_move_no_page(make_stage: MakeStage, gap: timedelta | None) -> None:
    stage = await make_stage(pages=2, conversations=1)
    assert await beat_after(stage, "receiver", gap) == 0
    assert await wait_of(stage) > HOUR / 2
    beats = await stage.rows("SELECT name, now() - at AS ago FROM heartbeats")
    assert [(b["name"], b["ago"] < DOWN_AFTER) for b in beats] == [("receiver", True)]


async def test_a_time_without_schedule_moves_only_pages_that_are_overdue(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=2, conversations=1)
    first, second = stage.world.pages
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() - interval '1 hour' WHERE page_id = $1", first.id)
    assert await beat_after(stage, "schedule", 2 * DOWN_AFTER) == 1
    assert timedelta(seconds=-5) < await wait_of(stage, first) <= 2 * PER_PAGE
    assert await wait_of(stage, second) > HOUR / 2


async def test_pages_that_are_not_active_stay_as_they_are(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=1)
    await stage.do("UPDATE facebook_pages SET state = 'paused'")
    assert await beat_after(stage, "receiver", DAY) == 0


async def test_of_several_processes_that_start_after_a_downtime_one_moves_the_pages(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=3, conversations=1)
    await stage.do("INSERT INTO heartbeats (name, at) VALUES ('receiver', now() - interval '1 hour')")
    beats = [Heartbeat(stage.pool, "receiver", interval=BASE).run_once() for _ in range(5)]
    assert sorted(b["moved"] for b in await asyncio.gather(*beats)) == [0, 0, 0, 0, 3]


async def test_a_page_that_meta_had_dropped_is_due_at_once_when_it_is_subscribed_again(make_stage: MakeStage) -> None:
    stage = await make_stage()
    dog = Watchdog(stage.pool, stage.client(), stage.tokens, app_id=stage.graph.app_id)
    await dog.check(stage.page.id)
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour'")
    await dog.check(stage.page.id)
    assert await wait_of(stage) > HOUR / 2
    stage.page.subscribed_fields = {"messages"}
    await dog.check(stage.page.id)
    assert await wait_of(stage) <= timedelta(0)


# -- many Pages -------------------------------------------------------------------------------------------------


async def add_pages(pool: Pool, count: int) -> None:
    """Add Pages that are due now."""
    async with pool.acquire() as connection:
        for n in range(count):
            await put_page(connection, f"70{n}", "sealed", None, now=NOON)


async def test_a_thousand_pages_that_became_due_while_nobody_was_there_are_queued_one_after_the_other(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await add_pages(stage.pool, 1000)
    await stage.do("INSERT INTO heartbeats (name, at) VALUES ('schedule', now() - interval '1 hour')")
    ticking = await schedule(stage)
    queued = [(await ticking.run_once())["queued"]]
    tenth = 1000 * PER_PAGE / 10
    for _ in range(11):
        await stage.do("UPDATE facebook_pages SET next_sync_at = next_sync_at - $1::interval", tenth)
        queued.append((await ticking.run_once())["queued"])
    assert sum(queued) == 1000
    assert max(queued) < 150
    assert min(queued[1:10]) > 50


async def test_several_schedulers_on_one_database_queue_each_page_once(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await add_pages(stage.pool, 100)
    tickings = [await schedule(stage) for _ in range(4)]
    ticks = await asyncio.gather(*(each.run_once() for each in tickings for _ in range(3)))
    assert sum(tick["queued"] for tick in ticks) == 100
    runs = await stage.rows("SELECT page_id FROM sync_runs")
    assert len({run["page_id"] for run in runs}) == len(runs) == 100


async def test_pages_that_are_due_longest_go_first(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await add_pages(stage.pool, 5)
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() - interval '1 hour' WHERE page_id = '703'")
    await stage.do("UPDATE facebook_pages SET next_sync_at = now() - interval '1 minute' WHERE page_id <> '703'")
    await (await schedule(stage)).run_once()
    runs = await stage.rows("SELECT page_id FROM sync_runs ORDER BY id LIMIT 1")
    assert runs[0]["page_id"] == "703"


# -- Meta's limits ----------------------------------------------------------------------------------------------


async def test_a_page_that_loses_webhooks_all_day_stays_within_its_budget_which_meta_never_tells(
    make_stage: MakeStage,
) -> None:
    daily_calls = 200  # the least there is
    limits = Limits(calls_per_second=None, daily_calls=daily_calls)
    stage = await subscribed(await make_stage(conversations=2, messages=2, limits=limits))
    end = stage.clock() + 1.2 * DAY
    made: deque[datetime] = deque()
    most = 0
    client = stage.client()
    while stage.clock() < end:
        stage.say(stage.threads()[0])
        await turn(stage, timedelta(minutes=2))
        run_id = await stage.ask()
        before = stage.calls()
        async with stage.worker(client) as worker:
            await worker.run_once()
        assert (await stage.run(run_id))["state"] == "succeeded"
        made.extend([stage.clock()] * (stage.calls() - before))
        while made[0] < stage.clock() - DAY:
            made.popleft()
        most = max(most, len(made))
        await turn(stage, await wait_of(stage))
    assert daily_calls / 3 < most <= daily_calls
    page = await stage.page_row()
    assert daily_calls * 0.85 <= page["daily_call_budget"] <= daily_calls
    assert abs(page["calls_last_day"] - len(made)) <= 1  # one run may be just a day old: two clocks ask
    assert await stage.rows("SELECT * FROM cooldowns") == []


async def test_without_usage_headers_no_budget_is_told_and_the_configured_interval_holds(
    make_stage: MakeStage,
) -> None:
    stage = await subscribed(await make_stage())
    await stage.sync()
    await stage.do("UPDATE sync_runs SET api_calls = 5000, is_deep = false")
    stage.clock.advance(60)
    stage.say(stage.threads()[0])
    stage.clock.advance(120)  # longer than any call takes: it is not just sent
    await stage.sync()
    page = await stage.page_row()
    assert (page["daily_call_budget"], page["usage_percent"]) == (None, None)
    assert page["sync_interval_seconds"] == BASE.total_seconds()
