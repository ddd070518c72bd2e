from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from reconciler.asking import MOST_ROWS, NESTED
from reconciler.estimate import Estimate, estimate
from sql.backfills import create_backfill
from sql.estimates import Left, left_of_backfill
from tests.reconciler.stage import LONG_AGO

if TYPE_CHECKING:
    from uuid import UUID

    from tests.reconciler.stage import MakeStage, Stage

NONE = timedelta(0)
PAGE = Left("1", True, False, 250, 40, 0, 10_000, 10_000, NONE)


def needed(*pages: Left, concurrency: int = 32) -> Estimate:
    return estimate(pages, rows=100, calls_per_second=2, concurrency=concurrency)


# -- from what is known -------------------------------------------------------------------------------------------


def test_before_its_list_is_read_a_page_needs_that_and_its_older_messages() -> None:
    assert needed(PAGE)[:3] == (43, 1, 21.5)


def test_once_its_list_is_read_it_needs_older_messages_only() -> None:
    assert needed(PAGE._replace(is_listed=True, threads=30))[:3] == (40, 30, 20.0)


def test_a_list_costs_a_call_though_nothing_is_known_to_be_in_it() -> None:
    assert needed(PAGE._replace(threads=0, pages=0))[:3] == (1, 1, 0.5)


def test_of_a_page_that_was_never_listed_only_the_least_is_told() -> None:
    found = needed(PAGE._replace(is_known=False), PAGE)
    assert found[:3] == (None, 2, None)
    assert "how many conversations 1 Pages have" in found.unknown[0]
    assert needed(PAGE._replace(is_known=False, is_listed=True, threads=7, pages=9)).calls == 9


def test_pages_go_side_by_side_as_far_as_there_are_places() -> None:
    assert needed(PAGE, PAGE, PAGE).seconds == 21.5
    assert needed(PAGE, PAGE, PAGE, concurrency=2).seconds == pytest.approx(32.2, abs=0.1)


def test_a_pause_that_meta_asked_for_comes_before() -> None:
    assert needed(PAGE._replace(waits=timedelta(minutes=5))).seconds == 321.5


def test_beyond_what_is_left_of_its_budget_a_page_goes_as_fast_as_that_renews_itself() -> None:
    assert needed(PAGE._replace(daily_calls=200, calls_left=23)).seconds == 20 / 200 * 86_400
    assert needed(PAGE._replace(daily_calls=200, calls_left=43)).seconds == 21.5


def test_what_is_guessed_is_said() -> None:
    told = needed(PAGE).unknown
    guessed = needed(PAGE._replace(unread=3, daily_calls=None, calls_left=None)).unknown
    assert len(told) == 1
    assert guessed[-1:] == told
    assert ["3 conversations" in guessed[0], "1 Pages" in guessed[1]] == [True, True]


def test_what_has_ended_needs_nothing() -> None:
    assert needed() == (0, 0, 0.0, [])


# -- from what is stored ------------------------------------------------------------------------------------------


async def ask(stage: Stage, **window: Any) -> UUID:
    backfill_id = uuid4()
    async with stage.pool.acquire() as connection:
        pages = [page.id for page in stage.world.pages]
        await create_backfill(connection, backfill_id, pages, until=None, requested_by="cli", **window)
    return backfill_id


async def left(stage: Stage, backfill_id: UUID) -> list[Left]:
    async with stage.pool.acquire() as connection:
        return await left_of_backfill(connection, backfill_id, rows=MOST_ROWS, nested=NESTED)


async def calls_needed(stage: Stage, backfill_id: UUID) -> int | None:
    pages = await left(stage, backfill_id)
    return estimate(pages, rows=MOST_ROWS, calls_per_second=2, concurrency=8).calls


async def test_of_what_was_read_before_the_calls_are_known(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=150)
    await stage.sync()
    backfill_id = await ask(stage, since=LONG_AGO)
    before = stage.calls()
    expected = await calls_needed(stage, backfill_id)
    assert expected is not None
    assert expected > 10
    await stage.work()
    assert stage.calls() - before == expected
    assert await left(stage, backfill_id) == []


async def test_once_its_list_is_read_what_was_begun_and_not_ended_is_left(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=150)
    await stage.sync()
    backfill_id = await ask(stage, since=LONG_AGO)
    expected = await calls_needed(stage, backfill_id)
    assert expected is not None
    stage.kill_before_call(2)
    await stage.work_until_killed()
    assert await calls_needed(stage, backfill_id) == expected - 1
    await stage.expire_leases()
    stage.kill_before_call(25)
    await stage.work_until_killed()
    needed_by_now = await calls_needed(stage, backfill_id)
    assert needed_by_now is not None
    assert 0 < needed_by_now < expected - 1


async def test_only_what_was_sent_since_its_beginning_is_left_for_a_backfill(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=150)
    await stage.sync()
    stage.clock.advance(86_400)
    recent = await ask(stage, since=stage.clock() - timedelta(hours=1))
    whole = await ask(stage, since=LONG_AGO)
    (of_whole,), (of_recent,) = await left(stage, whole), await left(stage, recent)
    assert (of_recent.threads, of_recent.pages) == (0, 0)
    assert (of_whole.threads, of_whole.pages > 0) == (30, True)


async def test_a_page_of_which_nothing_was_read_is_not_known(make_stage: MakeStage) -> None:
    stage = await make_stage()
    (page,) = await left(stage, await ask(stage, since=LONG_AGO))
    assert (page.is_known, page.is_listed, page.threads, page.daily_calls) == (False, False, 0, None)


async def test_conversations_that_were_not_read_to_their_beginning_are_as_long_as_graph_estimates(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=4, messages=400)
    await stage.sync()
    backfill_id = await ask(stage, since=LONG_AGO)
    (before,) = await left(stage, backfill_id)
    await stage.do("DELETE FROM messages")
    await stage.do("UPDATE conversation_threads SET synced_to = NULL")
    (page,) = await left(stage, backfill_id)
    assert (page.threads, page.unread) == (4, 4)
    assert page.pages == pytest.approx(before.pages, abs=2)


async def test_the_budget_and_a_pause_are_each_pages_own(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=2)
    first, second = stage.world.pages
    await stage.do(
        "UPDATE facebook_pages SET daily_call_budget = 200, calls_last_day = 150 WHERE page_id = $1", first.id
    )
    await stage.do(
        "INSERT INTO cooldowns (scope, until, reason) VALUES ('page:' || $1, now() + interval '1 hour', 'asked to')",
        second.id,
    )
    found = {page.page_id: page for page in await left(stage, await ask(stage, since=LONG_AGO))}
    assert (found[first.id].daily_calls, found[first.id].calls_left, found[first.id].waits) == (200, 50, NONE)
    assert found[second.id].waits > timedelta(minutes=59)
