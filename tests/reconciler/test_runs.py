"""Runs as rows: who joins which, what ends early, what is forgotten."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from sql import sync_runs
from sql.backfills import cancel_backfill, create_backfill, show_backfill
from sql.leases import put_off_run
from sql.pages import remove_page
from sql.sync_runs import cancel_runs, prune_runs
from sql.threads import Unfinished, put_unfinished
from tests.reconciler.runs import NOW, ask, ask_window, claim, end, row, step

if TYPE_CHECKING:
    from sql.leases import Run
    from sql.pool import Pool
    from sql.upsert import Connection

pytestmark = pytest.mark.usefixtures("two_pages")
BACKFILLS = [UUID(int=n) for n in range(3)]


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
