from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.budget import SHARE, SMALLEST, Budget, learnt


@given(st.integers(SMALLEST, 10**7), st.data())
def test_what_is_learnt_of_a_budget_is_never_more_than_it_is_and_soon_nearly_all_of_it(
    truly: int, data: st.DataObject
) -> None:
    calls = data.draw(st.integers(50, truly))
    known = learnt(None, calls, calls * 100 // truly)
    if calls * 100 // truly == 0:  # Meta tells nothing yet
        assert known is None
        return
    assert known is not None
    assert known <= truly
    if calls * 10 >= truly:
        assert known >= truly * 0.9 - 1


@pytest.mark.parametrize(("calls", "percent"), [(49, 60), (500, 0), (0, 100)])
def test_few_calls_or_no_percentage_teach_nothing(calls: int, percent: float) -> None:
    assert learnt(None, calls, percent) is None
    assert learnt(5_000, calls, percent) == 5_000


def test_a_small_percentage_tells_only_what_is_there_at_least() -> None:
    assert learnt(50_000, 300, 2) == 50_000
    assert learnt(5_000, 300, 2) == 10_000


def test_a_greater_percentage_replaces_what_was_known() -> None:
    assert learnt(50_000, 1_000, 49) == 2_000


def test_no_budget_is_smaller_than_that_of_a_page_with_one_person() -> None:
    assert learnt(None, 50, 99) == SMALLEST


def test_others_calls_count_by_metas_percentage() -> None:
    assert Budget(1_000, used=10, percent=50).left == 1_000 * SHARE - 500


def test_the_less_is_left_the_farther_apart_syncs_are_and_at_most_an_hour_a_call() -> None:
    waits = [Budget(1_000, used=used).apart(1) for used in range(0, 1_500, 50)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)
    assert Budget(1_000, used=2_000).apart(3) == timedelta(hours=3)
