"""Any order, repetition and batching of what both doors tell ends in the same rows, field by field."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.sql.doors import write
from tests.sql.mirrored import Mirror, mirrored
from tests.sql.universe import facts

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from sql.rows import Row
    from sql.upsert import Connection

EXAMPLES = int(os.environ.get("MIRROR_EXAMPLES", "0"))


@pytest.fixture(params=["plain", "hash-partitioned"])
def tables(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


async def outcome(connection: Connection, told: list[list[Row]], batches: list[list[int]]) -> Mirror:
    """What is stored after these batches, each a transaction as far as the others can see; nothing is kept."""
    whole = connection.transaction()
    await whole.start()
    try:
        for batch in batches:
            await write(connection, *[told[n] for n in batch])
        return await mirrored(connection)
    finally:
        await whole.rollback()


@examples(100)
@given(told=st.lists(facts(), min_size=1, max_size=8), data=st.data())
async def test_any_order_repetition_and_batching_ends_in_the_same_rows(
    connection: Connection, told: list[list[Row]], data: st.DataObject
) -> None:
    expected = await outcome(connection, told, [[n] for n in range(len(told))])
    for _ in range(2):
        batches = data.draw(arrangements(len(told)))
        note(f"batches: {batches}")
        assert await outcome(connection, told, batches) == expected
