from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from sql.pages import put_page
from sql.threads import (
    ALWAYS_TRIED,
    Known,
    Reached,
    Unfinished,
    failed_threads,
    known_threads,
    list_unfinished,
    mark_failed,
    put_unfinished,
    remove_unfinished,
    set_synced_to,
)

if TYPE_CHECKING:
    import asyncpg

    from sql.upsert import Connection

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAGE, THREAD, RUN, OTHER_RUN = "1", "t_1", 7, 8


async def add(connection: Connection, synced_to: datetime | None, *, error: str | None = "failed") -> None:
    await connection.execute(
        """
        INSERT INTO conversation_threads (page_id, thread_id, psid, synced_to, sync_error, failures, created_at)
        VALUES ($1, $2, 'p', $3, $4, 1, now())
        """,
        PAGE,
        THREAD,
        synced_to,
        error,
    )


async def thread(connection: Connection) -> asyncpg.Record:
    row = await connection.fetchrow("SELECT * FROM conversation_threads")
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("before", "target", "after"),
    [
        (None, None, NOON),
        (NOON - HOUR, None, NOON),
        (NOON - HOUR, NOON - 2 * HOUR, NOON),
        (NOON - HOUR, NOON - HOUR, NOON),
        (NOON + HOUR, None, NOON + HOUR),
    ],
)
async def test_a_thread_read_down_to_what_is_stored_is_stored_up_to_there_and_has_no_error(
    connection: Connection, before: datetime | None, target: datetime | None, after: datetime
) -> None:
    await add(connection, before)
    await set_synced_to(connection, PAGE, RUN, [Reached(THREAD, target, NOON)])
    row = await thread(connection)
    assert (row["synced_to"], row["sync_error"], row["failures"]) == (after, None, 0)


@pytest.mark.parametrize(("before", "target"), [(None, NOON - HOUR), (NOON - 2 * HOUR, NOON - HOUR)])
async def test_a_reading_that_leaves_a_gap_changes_nothing(
    connection: Connection, before: datetime | None, target: datetime
) -> None:
    await add(connection, before)
    row = await thread(connection)
    await set_synced_to(connection, PAGE, RUN, [Reached(THREAD, target, NOON)])
    assert await thread(connection) == row


async def test_what_another_run_has_taken_over_is_raised_in_place_of_the_thread(connection: Connection) -> None:
    await add(connection, None)
    await put_unfinished(connection, PAGE, OTHER_RUN, [Unfinished(THREAD, "p", "cursor", None, NOON - HOUR)])
    known = await known_threads(connection, PAGE, RUN, [THREAD, "t_unknown"])
    assert known == {THREAD: Known(NOON - HOUR, has_failed=True)}
    await set_synced_to(connection, PAGE, RUN, [Reached(THREAD, NOON - 2 * HOUR, NOON)])
    row = await thread(connection)
    assert (row["synced_to"], row["sync_error"]) == (None, None)
    assert await list_unfinished(connection, PAGE, OTHER_RUN, limit=9) == [
        Unfinished(THREAD, "p", "cursor", None, NOON)
    ]
    # read to its beginning by that one, it is stored up to where this one came
    await set_synced_to(connection, PAGE, OTHER_RUN, [Reached(THREAD, None, NOON)])
    assert (await thread(connection))["synced_to"] == NOON


@pytest.mark.parametrize(
    "taken_over",
    [
        Unfinished(THREAD, "p", "cursor", None, NOON - 3 * HOUR),  # not up to where this one read down
        Unfinished(THREAD, "p", "cursor", NOON - 9 * HOUR, NOON - HOUR),  # not to the beginning
        Unfinished(THREAD, "p", "cursor", None, None),  # a backfill
    ],
)
async def test_what_another_run_has_not_taken_over_is_not_raised(
    connection: Connection, taken_over: Unfinished
) -> None:
    await add(connection, None)
    await put_unfinished(connection, PAGE, OTHER_RUN, [taken_over])
    row = await thread(connection)
    await set_synced_to(connection, PAGE, RUN, [Reached(THREAD, NOON - 2 * HOUR, NOON)])
    assert await thread(connection) == row
    assert await list_unfinished(connection, PAGE, OTHER_RUN, limit=9) == [taken_over]


async def test_a_run_whose_calls_are_counted_takes_nothing_over_for_it_may_leave_it_again(
    connection: Connection,
) -> None:
    await put_page(connection, PAGE, "token", None, now=NOON)
    await add(connection, None, error=None)
    audit = await connection.fetchval(
        """
        INSERT INTO sync_runs (page_id, kind, requested_by, call_budget) VALUES ($1, 'audit', 'schedule', 6)
        RETURNING id
        """,
        PAGE,
    )
    taken_on = Unfinished(THREAD, "p", "cursor", None, NOON - HOUR)
    await put_unfinished(connection, PAGE, audit, [taken_on])
    assert await known_threads(connection, PAGE, audit + 1, [THREAD]) == {THREAD: Known(None, has_failed=False)}
    row = await thread(connection)
    await set_synced_to(connection, PAGE, audit + 1, [Reached(THREAD, NOON - 2 * HOUR, NOON)])
    assert await thread(connection) == row
    assert await list_unfinished(connection, PAGE, audit, limit=9) == [taken_on]


async def test_a_runs_own_unfinished_threads_are_no_promise_to_itself(connection: Connection) -> None:
    await add(connection, None, error=None)
    await put_unfinished(connection, PAGE, RUN, [Unfinished(THREAD, "p", "cursor", None, NOON)])
    assert await known_threads(connection, PAGE, RUN, [THREAD]) == {THREAD: Known(None, has_failed=False)}


async def test_unfinished_threads_are_listed_by_activity_and_put_anew_where_they_stand(connection: Connection) -> None:
    threads = [Unfinished(f"t_{n}", None, None, None, NOON + n * HOUR) for n in range(4)]
    await put_unfinished(connection, PAGE, RUN, [*threads, Unfinished("t_b", None, None, NOON, None)])
    await put_unfinished(connection, PAGE, RUN, [threads[1]._replace(cursor="c", psid="p")])
    await remove_unfinished(connection, PAGE, RUN, ["t_3", "t_unknown"])
    listed = await list_unfinished(connection, PAGE, RUN, limit=3)
    assert listed == [threads[2], threads[1]._replace(cursor="c", psid="p"), threads[0]]


async def test_failed_threads_are_for_other_runs_and_not_while_these_read_them(connection: Connection) -> None:
    await mark_failed(connection, PAGE, RUN, [("t_1", "no"), ("t_2", "no")], now=NOON)
    assert await failed_threads(connection, PAGE, RUN, now=NOON) == []
    assert await failed_threads(connection, PAGE, OTHER_RUN, now=NOON) == ["t_1", "t_2"]
    await put_unfinished(connection, PAGE, OTHER_RUN, [Unfinished("t_2", None, None, None, NOON)])
    assert await failed_threads(connection, PAGE, OTHER_RUN, now=NOON) == ["t_1"]


async def fail_others(connection: Connection) -> list[str]:
    others = [f"t_other_{n}" for n in range(ALWAYS_TRIED)]
    await mark_failed(connection, PAGE, RUN, [(other, "no") for other in others], now=NOON)
    return others


async def test_where_many_fail_who_keeps_failing_is_tried_at_growing_distances_up_to_a_day(
    connection: Connection,
) -> None:
    await fail_others(connection)
    waits = []
    for _ in range(12):
        await mark_failed(connection, PAGE, RUN, [(THREAD, "no")], now=NOON)
        for minute in range(0, 2000, 40):
            if THREAD in await failed_threads(connection, PAGE, OTHER_RUN, now=NOON + timedelta(minutes=minute)):
                waits.append(minute)
                break
    assert waits == [0, 0, 40, 80, 160, 320, 640, 1280, *[1440] * 4]


async def test_the_few_that_failed_the_least_often_are_tried_however_often_they_have_failed(
    connection: Connection,
) -> None:
    others = await fail_others(connection)
    for _ in range(9):
        await mark_failed(connection, PAGE, RUN, [(other, "no") for other in others], now=NOON)
    for _ in range(11):
        await mark_failed(connection, PAGE, RUN, [(THREAD, "no")], now=NOON)
    assert await failed_threads(connection, PAGE, OTHER_RUN, now=NOON) == others


@pytest.mark.parametrize(("requested_by", "tries"), [("schedule", False), ("api", True), ("cli", True)])
async def test_a_run_that_somebody_asked_for_tries_all_that_fail(
    connection: Connection,
    requested_by: str,
    tries: bool,  # noqa: FBT001
) -> None:
    await put_page(connection, PAGE, "sealed", None, now=NOON)
    run_id = await connection.fetchval(
        "INSERT INTO sync_runs (page_id, kind, requested_by) VALUES ($1, 'incremental', $2) RETURNING id",
        PAGE,
        requested_by,
    )
    others = await fail_others(connection)
    for _ in range(11):
        await mark_failed(connection, PAGE, RUN - 100, [(THREAD, "no")], now=NOON)
    found = await failed_threads(connection, PAGE, run_id, now=NOON)
    assert found == sorted([*others, *([THREAD] if tries else [])])
