"""Any interleaving of webhooks, syncs and crashes ends in the truth.

`./run chaos --examples 2000` tries more of them, none twice.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sql.pool import Pool, open_pool
from tests.chaos import verdict
from tests.chaos.figures import note_figures
from tests.chaos.known_plays import KNOWN
from tests.chaos.play import play
from tests.chaos.steps import BEHAVIOURS, STEPS, SYNCS
from tests.conftest import new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.chaos.steps import Step

Test = TypeVar("Test", bound="Callable[..., Any]")
EXAMPLES = int(os.environ.get("MIRROR_EXAMPLES", "0"))
# Of a Page: few that meet often, or more than a walk reads before it stops; where there is time, as many as in earnest.
CONVERSATIONS = st.sampled_from((4, 4, 12, 40) if EXAMPLES else (4, 4, 12))
MESSAGES = st.sampled_from((3, 12))  # of a conversation: all nested in a list's answer, or more
EMPTIED = """
    SELECT string_agg(format('DELETE FROM %I', relname), '; ') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
        AND relname <> 'schema_migrations'
"""


@pytest.fixture(scope="session")
async def pools(server: str, templates: dict[str, str]) -> AsyncIterator[tuple[Pool, Pool]]:
    """Two pools on one database for all plays: there are many, and a database takes its time."""
    async with new_database(server, templates, "plain") as dsn, AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(open_pool(dsn, min_size=1, max_size=6)) for _ in range(2)]
        yield one, two


async def empty(pool: Pool) -> None:
    """Empty every table; TRUNCATE takes a hundred times as long."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # whatever refers to whatever
        await connection.execute(await connection.fetchval(EMPTIED))


def known(test: Test) -> Test:
    """Try the known plays first."""
    for play_ in KNOWN.values():
        test = example(**play_._asdict())(test)
    return test


@pytest.mark.timeout(0 if EXAMPLES else 900)  # nothing in it waits for a clock: it takes what a loaded machine takes
@given(steps=STEPS, seed=st.integers(0, 10**6), behaviour=BEHAVIOURS, conversations=CONVERSATIONS, messages=MESSAGES)
@known
@settings(
    max_examples=EXAMPLES or 30,
    derandomize=not EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_any_interleaving_of_webhooks_syncs_and_crashes_ends_in_the_truth(
    pools: tuple[Pool, Pool], steps: list[Step], seed: int, behaviour: dict[str, Any], conversations: int, messages: int
) -> None:
    await empty(pools[0])
    with TemporaryDirectory() as folder:
        async with play(
            pools, Path(folder), seed, behaviour, conversations=conversations, messages=messages
        ) as playing:
            for step in steps:
                await playing.step(step)
                if step[0] in SYNCS and not playing.is_spooling:
                    assert await verdict.of_what_was_wholly_told(playing.mirror) == []
            await playing.settle()
            assert await verdict.of_what_was_wholly_told(playing.mirror) == []
            await playing.sync("incremental")
            assert await verdict.after_a_sync(playing.mirror) == []
            await playing.sync("audit")
            assert await verdict.after_an_audit(playing.mirror) == []
            assert await verdict.of_what_was_told(playing.mirror) == []
            note_figures(interleavings=1, **playing.done)
