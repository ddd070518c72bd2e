from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulator import serving
from tests.bench.meta import Called, Meta, Size, bench_app
from tests.bench.older import V0, V1, V2
from tests.bench.sync import OURS, bench, check_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.sync import Bench

CONVERSATIONS = 30


@pytest.fixture
async def here(empty_database: str) -> AsyncIterator[Bench]:
    """The bench over a small world, whose Graph answers at once and refuses no call."""
    app = bench_app(Size(pages=3, conversations=CONVERSATIONS, messages=3), latency_seconds=0, calls_per_second=1e6)
    async with serving(app) as url, bench(Meta(url), empty_database, calls_per_second=1e6) as made:
        yield made


@pytest.mark.parametrize(
    ("version", "calls"),
    # the list, 25 a call, and each conversation; the list in one call; the same, and Graph ignores `since`
    [(V0, 2 + CONVERSATIONS), (V1, 1), (V2, 1), (OURS, 1)],
)
async def test_every_algorithm_stores_all_that_graph_shows(here: Bench, version: str, calls: int) -> None:
    pages = await here.meta.pages()
    await here.mirror.add(pages)
    first = await here.measure("first", version, pages[:1])
    assert (first.calls, first.missing) == (calls, 0)
    await here.meta.write(pages[0], 10)
    again = await here.measure("changed", version, pages[:1])
    assert (again.calls, again.missing) == (calls, 0)
    assert (await here.measure("all", version, pages)).missing == 0


async def test_what_was_not_synced_is_missing(here: Bench) -> None:
    page, *_ = await here.meta.pages()
    assert len(await here.meta.shown(page) - await here.mirror.stored(page)) > CONVERSATIONS


async def test_trusting_since_loses_conversations_where_graph_lies_and_the_mirror_loses_none(here: Bench) -> None:
    pages = await here.meta.pages()
    await here.mirror.add(pages)
    for version in (V2, OURS):
        await here.measure("first", version, pages[:1])
    await here.meta.set_since("lying")
    await here.meta.write(pages[0], CONVERSATIONS)
    assert (await here.measure("changed", V2, pages[:1])).missing > 0
    assert (await here.measure("changed", OURS, pages[:1])).missing == 0


async def test_idle_pages_are_synced_by_the_schedule_with_a_call_each(here: Bench) -> None:
    pages = await here.meta.pages()
    await here.mirror.add(pages)
    await here.mirror.sync(pages)
    assert (await here.measure("idle", OURS, pages, is_due=True)).calls == len(pages)


def test_calls_that_graph_refuses_for_their_rate_end_the_bench() -> None:
    with pytest.raises(RuntimeError, match="2 calls were refused"):
        check_calls(Called({"1": 5}, refused=2, most_at_once=1))
