"""Runs as rows: who joins which, who may claim, who may write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from sql import sync_runs
from sql.backfills import cancel_backfill, create_backfill, show_backfill
from sql.cooldowns import APP, cool_down, page_scope
from sql.errors import StaleLease
from sql.leases import LEASE, Progress, checkpoint, claim_run, finish_run, put_off_run, release_page, renew_lease
from sql.pace import NextSync
from sql.pages import put_page, remove_page
from sql.sync_runs import cancel_runs, enqueue_due, enqueue_run, prune_runs
from sql.threads import Unfinished, put_unfinished

if TYPE_CHECKING:
    import asyncpg

    from sql.leases import Run
    from sql.pool import Pool
    from sql.upsert import Connection

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOON = timedelta(seconds=300)
BACKFILLS = [UUID(int=n) for n in range(3)]


@pytest.fixture(autouse=True)
async def pages(connection: Connection) -> None:
    for page_id in ("1", "2"):
        await put_page(connection, page_id, "sealed", None, now=NOW)


async def ask(connection: Connection, kind: str = "incremental", page_id: str = "1") -> int:
    return await enqueue_run(connection, page_id, kind, requested_by="api")


async def ask_window(connection: Connection, since: datetime, until: datetime | None) -> int:
    return await enqueue_run(connection, "1", "backfill", requested_by="api", since=since, until=until)


async def claim(connection: Connection, holder: str = "worker") -> Run:
    run = await claim_run(connection, holder)
    assert run is not None
    return run


async def step(connection: Connection, run: Run, *, is_crowded: bool = False, **progress: object) -> bool:
    made = Progress(**progress)  # type: ignore[arg-type]
    return await checkpoint(connection, run, {"list": {}}, made, is_crowded=is_crowded)


async def end(connection: Connection, run: Run, state: str = "succeeded") -> None:
    await finish_run(connection, run, state, error=None, api_calls=0, next_sync=NextSync(SOON))


async def row(connection: Connection, run_id: int) -> asyncpg.Record:
    found = await connection.fetchrow("SELECT * FROM sync_runs WHERE id = $1", run_id)
    assert found is not None
    return found


async def expire(connection: Connection) -> None:
    await connection.execute(
        "UPDATE facebook_pages SET lease_until = now() - interval '1 second' WHERE lease_until > now()"
    )


# -- asking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queued", "asked", "joins"),
    [
        ("incremental", "incremental", True),
        ("full", "incremental", True),
        ("audit", "incremental", True),
        ("full", "full", True),
        ("audit", "full", True),
        ("incremental", "full", False),
        ("full", "audit", False),
    ],
)
async def test_a_request_joins_a_queued_run_that_does_at_least_as_much(
    connection: Connection, queued: str, asked: str, *, joins: bool
) -> None:
    first = await ask(connection, queued)
    assert (await ask(connection, asked) == first) is joins


async def test_a_request_joins_the_run_that_does_the_least_of_what_is_enough(connection: Connection) -> None:
    await ask(connection, "audit")
    full = await ask(connection, "full", "2")
    assert full != await ask(connection, "audit", "2")
    assert await ask(connection, "incremental", "2") == full


async def test_a_request_never_joins_another_pages_run(connection: Connection) -> None:
    assert await ask(connection) != await ask(connection, page_id="2")


async def test_beside_a_running_run_one_follow_up_is_queued_that_later_requests_join(connection: Connection) -> None:
    first = await ask(connection)
    run = await claim(connection)
    second = await ask(connection)
    assert second != first
    assert await ask(connection) == second
    await end(connection, run)
    assert (await claim(connection)).id == second
    assert await ask(connection) not in (first, second)


async def test_a_run_that_began_and_was_put_off_is_not_joined(connection: Connection) -> None:
    first = await ask(connection)
    await put_off_run(connection, await claim(connection), "waits", api_calls=1)
    assert (await row(connection, first))["state"] == "queued"
    second = await ask(connection)
    assert second != first
    assert await ask(connection) == second


async def test_an_ended_run_is_not_joined(connection: Connection) -> None:
    first = await ask(connection)
    await end(connection, await claim(connection), "failed")
    assert await ask(connection) != first


@pytest.mark.parametrize(
    ("since", "until", "joins"),
    [(0, 10, True), (2, 8, True), (0, 11, False), (0, None, False), (-1, 10, False)],
)
async def test_a_backfill_joins_one_whose_window_holds_its_own(
    connection: Connection, since: int, until: int | None, *, joins: bool
) -> None:
    hour = timedelta(hours=1)
    first = await ask_window(connection, NOW, NOW + 10 * hour)
    asked = await ask_window(connection, NOW + since * hour, None if until is None else NOW + until * hour)
    assert (asked == first) is joins


async def test_a_backfill_without_end_holds_every_later_one(connection: Connection) -> None:
    first = await ask_window(connection, NOW, None)
    assert await ask_window(connection, NOW + timedelta(days=1), NOW + timedelta(days=2)) == first
    assert await ask_window(connection, NOW, None) == first


async def test_requests_at_the_same_moment_end_in_one_run(pool: Pool) -> None:
    async def at_once() -> int:
        async with pool.acquire() as connection:
            return await ask(connection)

    assert len(set(await asyncio.gather(*(at_once() for _ in range(8))))) == 1


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


async def cool(connection: Connection, scope: str, wait: timedelta | None = timedelta(minutes=1)) -> datetime:
    first, longest = timedelta(seconds=5), timedelta(seconds=30)
    return await cool_down(connection, scope, "a reason", wait=wait, first=first, longest=longest)


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


# -- fences ---------------------------------------------------------------------------------------------------


async def test_who_was_stopped_past_the_lease_writes_nothing(connection: Connection) -> None:
    await ask(connection)
    stopped = await claim(connection, "a")
    await expire(connection)
    other = await claim(connection, "b")
    with pytest.raises(StaleLease):
        await renew_lease(connection, stopped)
    with pytest.raises(StaleLease):
        await step(connection, stopped, messages=7)
    with pytest.raises(StaleLease):
        await end(connection, stopped)
    await put_off_run(connection, stopped, "late", api_calls=9)
    await release_page(connection, stopped, reason="late")
    await renew_lease(connection, other)
    found = await row(connection, other.id)
    assert (found["state"], found["holder"], found["messages"], found["api_calls"], found["error"]) == (
        "running",
        "b",
        0,
        0,
        None,
    )
    assert await connection.fetchval("SELECT lease_holder FROM facebook_pages WHERE page_id = '1'") == "b"


async def test_the_same_worker_under_an_earlier_term_is_a_stranger(connection: Connection) -> None:
    await ask(connection)
    before = await claim(connection, "a")
    await expire(connection)
    await claim(connection, "a")
    with pytest.raises(StaleLease):
        await step(connection, before)


async def test_a_renewed_lease_lasts_by_postgres_clock(connection: Connection) -> None:
    await ask(connection)
    run = await claim(connection)
    await expire(connection)
    await renew_lease(connection, run)
    left = await connection.fetchval("SELECT lease_until - now() FROM facebook_pages WHERE page_id = '1'")
    assert LEASE - timedelta(seconds=5) < left <= LEASE


async def test_a_cancelled_run_can_neither_step_nor_end_nor_be_renewed_and_its_page_is_let_go(
    connection: Connection,
) -> None:
    run_id = await ask(connection)
    run = await claim(connection)
    assert await cancel_runs(connection, [run_id]) == 1
    assert await cancel_runs(connection, [run_id]) == 0
    with pytest.raises(StaleLease):
        await step(connection, run)
    with pytest.raises(StaleLease):
        await renew_lease(connection, run)
    with pytest.raises(StaleLease):
        await end(connection, run)
    assert (await row(connection, run_id))["error"] == "cancelled by an operator"
    assert await connection.fetchval("SELECT lease_holder FROM facebook_pages WHERE page_id = '1'") is None


async def test_a_removed_page_stops_its_run(connection: Connection) -> None:
    run_id = await ask(connection)
    run = await claim(connection)
    assert await remove_page(connection, "1")
    with pytest.raises(StaleLease):
        await step(connection, run)
    found = await row(connection, run_id)
    assert (found["state"], found["error"]) == ("cancelled", "the Page was removed")


# -- giving way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "is_deep", "gives_way"),
    [
        ("incremental", False, False),
        ("incremental", True, True),
        ("full", False, False),
        ("full", True, True),
        ("audit", False, True),
        ("backfill", False, True),
    ],
)
async def test_long_runs_give_way_to_an_incremental_of_their_page(
    connection: Connection, kind: str, *, is_deep: bool, gives_way: bool
) -> None:
    since = NOW if kind == "backfill" else None
    await enqueue_run(connection, "1", kind, requested_by="api", since=since)
    run = await claim(connection)
    assert await step(connection, run, is_deep=is_deep) is False
    await ask(connection, "full", "2")
    assert await step(connection, run, is_deep=is_deep) is False
    await ask(connection)
    assert await step(connection, run, is_deep=is_deep) is gives_way


async def test_long_runs_give_way_to_another_pages_incremental_only_when_there_is_no_free_place(
    connection: Connection,
) -> None:
    await ask(connection, "audit")
    run = await claim(connection)
    await ask(connection, page_id="2")
    assert await step(connection, run, is_crowded=False) is False
    assert await step(connection, run, is_crowded=True) is True


async def test_nobody_gives_way_to_what_cannot_be_claimed(connection: Connection) -> None:
    await ask(connection, "audit")
    run = await claim(connection)
    await ask(connection, page_id="2")
    await cool(connection, page_scope("2"))
    assert await step(connection, run, is_crowded=True) is False
    await connection.execute("DELETE FROM cooldowns")
    await claim(connection)
    await ask(connection, page_id="2")
    assert await step(connection, run, is_crowded=True) is False


async def test_everybody_stops_when_the_app_cools_down(connection: Connection) -> None:
    await ask(connection)
    run = await claim(connection)
    await cool(connection, page_scope("2"))
    assert await step(connection, run) is False
    await cool(connection, APP)
    assert await step(connection, run) is True


# -- what ends early leaves nothing behind --------------------------------------------------------------------


async def unfinished(connection: Connection, run: Run, *, reached: datetime | None = NOW) -> None:
    await connection.execute(
        "INSERT INTO conversation_threads (page_id, thread_id, psid, created_at) VALUES ('1', 't_1', 'p', now())"
    )
    await put_unfinished(connection, "1", run.id, [Unfinished("t_1", "p", "cursor", None, reached)])


@pytest.mark.parametrize("how", ["failed", "cancelled", "removed"])
async def test_threads_that_a_run_leaves_unread_are_tried_by_the_next(connection: Connection, how: str) -> None:
    run_id = await ask(connection)
    run = await claim(connection)
    await unfinished(connection, run)
    if how == "failed":
        await end(connection, run, "failed")
    elif how == "cancelled":
        await cancel_runs(connection, [run_id])
    else:
        await remove_page(connection, "1")
    assert await connection.fetchval("SELECT count(*) FROM unfinished_threads") == 0
    error = await connection.fetchval("SELECT sync_error FROM conversation_threads")
    assert error.startswith("not read to its end: ")


async def test_a_cancelled_backfill_leaves_threads_as_they_were(connection: Connection) -> None:
    await create_backfill(connection, BACKFILLS[0], ["1"], since=NOW, until=None, requested_by="api")
    await unfinished(connection, await claim(connection), reached=None)
    assert await cancel_backfill(connection, BACKFILLS[0]) == 1
    assert await connection.fetchval("SELECT count(*) FROM unfinished_threads") == 0
    assert await connection.fetchval("SELECT sync_error FROM conversation_threads") is None


async def test_a_run_for_two_backfills_goes_on_when_one_of_them_is_cancelled(connection: Connection) -> None:
    for backfill in BACKFILLS[:2]:
        await create_backfill(connection, backfill, ["1"], since=NOW, until=None, requested_by="api")
    run = await claim(connection)
    await unfinished(connection, run, reached=None)
    assert await cancel_backfill(connection, BACKFILLS[0]) == 1
    assert await connection.fetchval("SELECT count(*) FROM unfinished_threads") == 1
    await step(connection, run)
    shown = await show_backfill(connection, BACKFILLS[1])
    assert shown is not None
    assert shown["state"] == "running"


# -- what is forgotten ----------------------------------------------------------------------------------------


async def ended(connection: Connection, days_ago: int, **changes: object) -> int:
    """A scheduled run that found nothing, but for the changes."""
    columns = {"kind": "incremental", "state": "succeeded", "requested_by": "schedule", "inserted": 0, **changes}
    names, values = ", ".join(columns), ", ".join(f"${n}" for n in range(2, len(columns) + 2))
    return int(
        await connection.fetchval(
            f"""
            INSERT INTO sync_runs (page_id, started_at, finished_at, {names})
            VALUES ('1', $1, $1, {values}) RETURNING id
            """,
            NOW - timedelta(days=days_ago),
            *columns.values(),
        )
    )


async def test_runs_that_found_nothing_are_kept_for_two_days_and_others_for_the_retention(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_runs, "PRUNED_AT_ONCE", 2)
    kept = [
        await ended(connection, 1),
        await ended(connection, 5, inserted=1),
        await ended(connection, 5, error="1 conversations could not be read"),
        await ended(connection, 5, state="failed", error="no"),
        await ended(connection, 5, requested_by="api"),
        await ended(connection, 5, kind="full"),
        await ended(connection, 400, kind="backfill", since=NOW, backfill_ids=BACKFILLS[:1]),
        await ask(connection),
    ]
    for days in (3, 3, 3, 400):
        await ended(connection, days)
    await ended(connection, 91, inserted=7)
    assert await prune_runs(connection, keep_days=90, now=NOW) == 5
    left = await connection.fetch("SELECT id FROM sync_runs ORDER BY id")
    assert [r["id"] for r in left] == kept
