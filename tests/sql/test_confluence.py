"""Any order, repetition and batching of what both doors tell, by one writer or two, ends in the same rows."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.sql.doors import write
from tests.sql.mirrored import Mirror, empty, mirrored, outcome
from tests.sql.stepping import Writer, race
from tests.sql.universe import facts

if TYPE_CHECKING:
    import asyncpg
    from hypothesis.strategies import DrawFn

    from sql.rows import Row
    from sql.upsert import Connection

EXAMPLES = int(os.environ.get("MIRROR_EXAMPLES", "0"))


def examples(few: int) -> settings:
    """Few and always the same, or as many as MIRROR_EXAMPLES says, by chance."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@st.composite
def arrangements(draw: DrawFn, count: int) -> list[list[int]]:
    """An order of `count` facts, some of them repeated, cut into batches."""
    order = draw(st.permutations(range(count)))
    order += draw(st.lists(st.integers(0, count - 1), max_size=3))
    ends = draw(st.lists(st.integers(1, len(order)), max_size=4))
    cuts = sorted({0, len(order), *ends})
    return [order[start:end] for start, end in pairwise(cuts)]


@examples(100)
@given(told=st.lists(facts(), min_size=1, max_size=8), data=st.data())
async def test_any_order_repetition_and_batching_ends_in_the_same_rows(
    mirror: Connection, told: list[list[Row]], data: st.DataObject
) -> None:
    expected = await outcome(mirror, told, [[n] for n in range(len(told))])
    for _ in range(2):
        batches = data.draw(arrangements(len(told)))
        note(f"batches: {batches}")
        assert await outcome(mirror, told, batches) == expected


class Two:
    """Two writers, and a connection that watches them and compares."""

    def __init__(self, first: Writer, second: Writer, watcher: Connection) -> None:
        self.first, self.second, self.watcher = first, second, watcher

    async def outcome(
        self, before: list[list[Row]], groups: list[list[list[Row]]], turns: list[bool], in_one_call: tuple[bool, bool]
    ) -> Mirror:
        """What is stored after `before`, and after both groups at once, by turns."""
        try:
            for fact in before:
                await write(self.watcher, fact)
            await self.first.start(groups[0], in_one_call=in_one_call[0])
            await self.second.start(groups[1], in_one_call=in_one_call[1])
            await race(self.first, self.second, turns)
            return await mirrored(self.watcher)
        finally:
            await self.first.abandon()
            await self.second.abandon()
            await empty(self.watcher)


@pytest.fixture
def two(writers: list[asyncpg.Connection[asyncpg.Record]]) -> Two:
    return Two(Writer(writers[1], writers[0]), Writer(writers[2], writers[0]), writers[0])


groups = st.lists(facts(), min_size=1, max_size=4)


@examples(60)
@given(
    before=st.lists(facts(), max_size=3),
    both=st.tuples(groups, groups),
    turns=st.lists(st.booleans(), max_size=24),
    in_one_call=st.tuples(st.booleans(), st.booleans()),
)
async def test_two_writers_at_once_end_in_the_same_rows_and_in_no_deadlock(
    two: Two,
    before: list[list[Row]],
    both: tuple[list[list[Row]], list[list[Row]]],
    turns: list[bool],
    in_one_call: tuple[bool, bool],
) -> None:
    told = [*before, *both[0], *both[1]]
    expected = await outcome(two.watcher, told, [[n] for n in range(len(told))])
    assert await two.outcome(before, [*both], turns, in_one_call) == expected
