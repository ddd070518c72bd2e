from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.goal import Goal
from reconciler.graph.payload import MessageNode
from reconciler.reading import reaches
from sql.threads import Known

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OVERLAP = timedelta(minutes=10)
SECOND = timedelta(seconds=1)


def goal(kind: str = "incremental", listed_to: datetime | None = NOON, since: datetime | None = None) -> Goal:
    return Goal(kind, since, None, listed_to, OVERLAP)


def message(at: datetime | None) -> MessageNode:
    return MessageNode.model_validate({"id": "m_1", "created_time": at})


BACKFILL = goal("backfill", since=NOON - timedelta(days=3))


def test_an_incremental_run_stops_an_overlap_behind_the_watermark() -> None:
    assert goal().stop == NOON - OVERLAP


@pytest.mark.parametrize("run", [goal(listed_to=None), goal("full"), goal("audit")])
def test_a_run_without_a_watermark_or_of_everything_does_not_stop(run: Goal) -> None:
    assert run.stop is None


def test_a_backfill_stops_at_its_beginning_whatever_the_watermark() -> None:
    assert BACKFILL.stop == NOON - timedelta(days=3)


def test_a_thread_is_read_down_to_what_is_stored_however_far_behind_the_stop_time() -> None:
    stored = NOON - timedelta(days=30)
    assert goal().target(stored) == stored - OVERLAP
    assert goal().target(NOON + timedelta(hours=1)) == NOON - OVERLAP
    assert goal().target(None) is None
    assert goal("full").target(stored) is None
    assert BACKFILL.target(stored) == BACKFILL.target(None) == BACKFILL.since


def test_a_backfill_promises_nothing_of_a_thread() -> None:
    assert BACKFILL.reached(NOON) is None
    assert goal().reached(NOON) == NOON


@pytest.mark.parametrize(
    ("updated", "known", "settled"),
    [
        (NOON, Known(NOON), False),
        (NOON - OVERLAP, Known(NOON), False),
        (NOON - OVERLAP - SECOND, Known(NOON), True),
        (NOON - OVERLAP - SECOND, Known(NOON - OVERLAP - SECOND), True),
        (NOON - OVERLAP - SECOND, Known(NOON - OVERLAP - 2 * SECOND), False),
        (NOON - OVERLAP - SECOND, Known(None), False),
        (NOON - OVERLAP - SECOND, Known(NOON, has_failed=True), False),
    ],
)
def test_a_listed_thread_is_done_with_only_when_it_is_old_and_was_read_to_its_end(
    updated: datetime, known: Known, *, settled: bool
) -> None:
    assert goal().is_settled(updated, known) is settled


def test_nothing_is_settled_for_a_run_of_everything() -> None:
    assert not goal("full").is_settled(NOON - timedelta(days=900), Known(NOON))


def test_a_backfill_takes_every_conversation_active_since_its_beginning_and_no_other() -> None:
    since = NOON - timedelta(days=3)
    assert not BACKFILL.is_settled(since, Known(NOON))
    assert BACKFILL.is_settled(since - SECOND, Known(None, has_failed=True))


def test_a_backfill_reports_what_is_in_its_window_only() -> None:
    run = Goal("backfill", NOON, NOON + 2 * SECOND, None, OVERLAP)
    times = [NOON + 3 * SECOND, NOON + 2 * SECOND, NOON + SECOND, NOON, NOON - SECOND, None]
    assert run.counted([message(at) for at in times]) == 2
    assert goal().counted([message(at) for at in times]) == 6


@pytest.mark.parametrize(
    ("ages", "reached"),
    [
        ([1, 2, 3], True),
        ([1, 1, 3], True),
        ([1, 2, 2], False),
        ([1, 2], False),
        ([3], True),
        ([], False),
        ([None], False),
        ([1, 3, None], True),
        ([3, 1, 4], False),  # out of order: the next page may hold newer ones
    ],
)
def test_a_page_of_messages_reaches_beyond_a_time_when_its_last_is_older_and_it_is_in_order(
    ages: list[int | None], *, reached: bool
) -> None:
    messages = [message(NOON - age * SECOND if age is not None else None) for age in ages]
    assert reaches(messages, NOON - 2 * SECOND) is reached


def test_no_page_reaches_the_beginning() -> None:
    assert not reaches([message(NOON)], None)
