"""The rule that tells when a Page is due next: its claims, for any facts."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.budget import SHARE, Budget, learnt
from reconciler.due import (
    JITTER,
    PER_PAGE,
    Facts,
    after_downtime,
    longest,
    next_due,
    phase,
    shortest,
    soon,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
BASE = timedelta(seconds=300)
DAY = timedelta(days=1)
PLENTY = Budget(10**15, is_learnt=True)

seconds = st.floats(min_value=0.01, max_value=86_400)
bases = seconds.map(lambda s: timedelta(seconds=s))
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)
budgets = st.builds(
    Budget,
    calls=st.integers(200, 10**6),
    used=st.integers(0, 10**6),
    percent=st.floats(0, 150),
    is_learnt=st.booleans(),
)
facts = st.builds(
    Facts,
    page_id=st.text(min_size=1),
    base=bases,
    interval=st.none() | bases,
    has_repaired=st.none() | st.booleans(),
    is_silent=st.booleans(),
    budget=budgets,
    cost=st.floats(1, 1000),
    at_least=st.just(timedelta(0)),
)


def interval(**known: Any) -> timedelta:
    return next_due(Facts("1", **{"base": BASE, "budget": PLENTY, **known}), now=NOW, jitter=0).interval


# -- for any facts ----------------------------------------------------------------------------------------------


@given(facts, jitters, st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_page_is_due_between_about_half_an_interval_and_a_whole_one_from_now(
    known: Facts, jitter: float, now: datetime
) -> None:
    due = next_due(known, now=now, jitter=jitter)
    assert 0.45 * due.interval <= due.at - now <= due.interval


@given(facts)
def test_no_interval_is_shorter_than_the_shortest(known: Facts) -> None:
    assert next_due(known, now=NOW, jitter=0).interval >= shortest(known.base)


@given(facts)
def test_only_its_budget_lengthens_a_pages_interval_beyond_the_longest(known: Facts) -> None:
    found = next_due(known._replace(budget=PLENTY), now=NOW, jitter=0).interval
    assert found <= longest(known.base)
    assert longest(known.base) <= max(known.base, min(8 * known.base, timedelta(hours=1)))


@given(facts)
def test_a_budget_never_shortens_and_one_that_is_only_assumed_never_lengthens_beyond_the_configured_interval(
    known: Facts,
) -> None:
    found = next_due(known, now=NOW, jitter=0).interval
    free = next_due(known._replace(budget=PLENTY), now=NOW, jitter=0).interval
    assert found >= free
    if not known.budget.is_learnt:
        assert found <= max(free, known.base)


@given(facts)
def test_a_repair_never_leads_to_a_longer_interval_than_none(known: Facts) -> None:
    repaired, told_nothing, idle = (
        next_due(known._replace(has_repaired=has), now=NOW, jitter=0).interval for has in (True, None, False)
    )
    assert repaired <= told_nothing <= idle


@given(facts, st.integers(0, 10**6))
def test_the_fewer_calls_are_left_the_longer_the_interval(known: Facts, more: int) -> None:
    busier = known.budget._replace(used=known.budget.used + more)
    found = next_due(known._replace(budget=busier), now=NOW, jitter=0).interval
    assert found >= next_due(known, now=NOW, jitter=0).interval


@given(facts, jitters, bases)
def test_a_page_is_not_due_before_what_it_has_to_wait(known: Facts, jitter: float, wait: timedelta) -> None:
    assert next_due(known._replace(at_least=wait), now=NOW, jitter=jitter).at >= NOW + wait


# -- longer and shorter -----------------------------------------------------------------------------------------


def test_the_first_run_leaves_the_configured_interval() -> None:
    assert interval(has_repaired=False) == BASE


def test_runs_that_repair_nothing_lengthen_it_step_by_step_up_to_eight_times() -> None:
    found = [BASE]
    while len(found) < 10:
        found.append(interval(interval=found[-1], has_repaired=False))
    assert [f / BASE for f in found[:4]] == [1, 1.5, 2.25, 3.375]
    assert found[-2:] == [8 * BASE, 8 * BASE]


def test_a_repair_brings_the_longest_interval_to_half_the_configured_one_at_once() -> None:
    assert interval(interval=8 * BASE, has_repaired=True) == BASE / 2


def test_repairs_shorten_it_down_to_a_fifth() -> None:
    assert interval(interval=BASE / 2, has_repaired=True) == BASE / 4
    assert interval(interval=BASE / 4, has_repaired=True) == BASE / 5


def test_a_run_that_failed_leaves_it() -> None:
    assert interval(interval=2 * BASE, has_repaired=None) == 2 * BASE


def test_silent_webhooks_keep_it_short_though_nothing_is_repaired() -> None:
    assert interval(interval=8 * BASE, has_repaired=False, is_silent=True) == BASE / 2


@pytest.mark.parametrize(
    ("base", "from_", "to"),
    [(3, 3, 24), (60, 60, 480), (300, 60, 2400), (1000, 200, 3600), (3600, 720, 3600), (86_400, 17_280, 86_400)],
)
def test_the_bounds_follow_the_configured_interval(base: int, from_: int, to: int) -> None:
    bounds = (shortest(timedelta(seconds=base)), longest(timedelta(seconds=base)))
    assert bounds == (timedelta(seconds=from_), timedelta(seconds=to))


# -- spreading --------------------------------------------------------------------------------------------------


def most_in_a_slice(times: list[datetime], slices: int) -> float:
    """How many times as many as the mean the fullest slice of their span holds."""
    first, span = min(times), max(times) - min(times) + timedelta.resolution
    counts = Counter((at - first) * slices // span for at in times)
    return max(counts.values()) * slices / len(times)


def test_a_thousand_pages_whose_runs_end_together_are_due_one_after_the_other() -> None:
    dice = Random(1)
    due = [next_due(Facts(f"10{n}", BASE, budget=PLENTY), now=NOW, jitter=dice.random()).at for n in range(1000)]
    assert max(due) - min(due) > 0.45 * BASE
    assert most_in_a_slice(due, 15) < 1.6


@given(st.text(min_size=1), jitters, st.floats(0.001, 0.35))
def test_a_page_keeps_its_place_while_its_interval_stays(page_id: str, jitter: float, took: float) -> None:
    known = Facts(page_id, BASE, interval=BASE, budget=PLENTY)
    first = next_due(known, now=NOW, jitter=0).at
    at = first
    for _ in range(5):
        at = next_due(known, now=at + took * BASE, jitter=jitter).at
    moved = at - first - 5 * BASE / (1 + JITTER)
    assert -timedelta(milliseconds=1) <= moved <= JITTER * BASE


@given(st.text())
def test_a_phase_is_a_share_and_always_the_same(page_id: str) -> None:
    assert 0 <= phase(page_id) < 1
    assert phase(page_id) == phase(page_id)


def test_after_downtime_all_pages_are_due_soon_and_one_after_the_other() -> None:
    was_due = {f"20{n}": NOW + timedelta(seconds=n - 500) for n in range(1000)}
    due = after_downtime(was_due, base=BASE, now=NOW, lost_webhooks=True)
    assert {p for p, at in was_due.items() if at <= NOW} <= due.keys()
    assert all(NOW <= at < NOW + 1000 * PER_PAGE for at in due.values())
    assert all(due[p] < was_due[p] for p in due if was_due[p] > NOW)
    assert all(was_due[p] <= NOW + 1000 * PER_PAGE for p in was_due.keys() - due.keys())
    assert most_in_a_slice([due.get(p, at) for p, at in was_due.items()], 10) < 1.6


def test_when_no_webhook_was_lost_only_pages_whose_time_has_passed_are_moved() -> None:
    was_due = {f"20{n}": NOW + timedelta(seconds=n - 500) for n in range(1000)}
    due = after_downtime(was_due, base=BASE, now=NOW, lost_webhooks=False)
    assert due.keys() == {p for p, at in was_due.items() if at <= NOW}


@given(st.sets(st.text(min_size=1), max_size=50), bases)
def test_pages_to_be_synced_soon_are_within_the_configured_interval(page_ids: set[str], base: timedelta) -> None:
    due = soon(page_ids, base=base, now=NOW)
    assert due.keys() == page_ids
    assert all(NOW <= at <= NOW + min(base, len(page_ids) * PER_PAGE) for at in due.values())


# -- a day's calls ----------------------------------------------------------------------------------------------


@given(
    st.integers(200, 20_000),
    st.sampled_from([3, 60, 300, 1800]),
    st.lists(st.tuples(st.integers(1, 2), st.booleans(), jitters), min_size=1, max_size=20),
)
def test_whatever_runs_find_no_page_makes_more_calls_in_24_hours_than_its_budget(
    truly: int, base: int, rounds: list[tuple[int, bool, float]]
) -> None:
    """Two days of a Page, whose budget the schedule learns from Meta's percentages as it goes."""
    at, end = NOW, NOW + 2 * DAY
    made: list[tuple[datetime, int]] = []
    known: int | None = None
    before: timedelta | None = None
    first = used = total = 0
    while at < end:
        cost, has_repaired, jitter = rounds[total % len(rounds)]
        made.append((at, cost))
        total += 1
        used += cost
        while made[first][0] <= at - DAY:
            used -= made[first][1]
            first += 1
        assert used <= truly
        percent = used * 100 // truly
        known = learnt(known, used, percent)
        budget = Budget(used=used, percent=percent) if known is None else Budget(known, used, percent, is_learnt=True)
        mean = sum(c for _, c in made[first:]) / len(made[first:]) if total < 50 else 1.5
        page = Facts("1", timedelta(seconds=base), before, has_repaired=has_repaired, budget=budget, cost=mean)
        at, before = next_due(page, now=at, jitter=jitter)
    assert used >= min(SHARE / 3 * truly, DAY / max(longest(timedelta(seconds=base)), timedelta(seconds=1)) / 2)
