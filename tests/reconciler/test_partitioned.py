"""The reconciler on tables that are partitioned by Page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from simulator import Fault
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage


@pytest.fixture
def tables() -> str:
    return "hash-partitioned"


async def test_loads_failures_news_backfills_and_audits_end_right(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=4, conversations=8, messages=40, behaviour=behaviour(max_limit=6))
    thread = next(thread for thread in stage.threads() if thread.count() > 21)
    stage.faults.add(Fault("not_found", path=f"{thread.thread_id}/messages"))

    async def something_new() -> None:
        for page in stage.world.pages:
            stage.say(stage.threads(page)[-1], 2)
            await stage.ask(page=page)

    for page in stage.world.pages:
        await stage.ask(page=page)
    stage.after_call(12, something_new)
    await stage.work()
    assert (await stage.thread_row(thread.thread_id))["sync_error"] is not None
    stage.faults.clear()
    stage.clock.advance(3600)
    await something_new()
    await stage.work()
    await stage.sync("audit")
    await stage.sync("backfill", since=datetime(2000, 1, 1, tzinfo=UTC))
    assert {r["state"] for r in await stage.rows("SELECT state FROM sync_runs")} == {"succeeded"}
    for page in stage.world.pages:
        assert await stage.missing(page) == []
        assert (await stage.page_row(page))["watermark"] == stage.updated(stage.threads(page)[0])
    assert await stage.rows("SELECT * FROM unfinished_threads") == []
    assert await stage.rows("SELECT * FROM conversation_threads WHERE sync_error IS NOT NULL") == []


async def test_audits_compare_long_conversations_and_find_what_is_missing(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=2, conversations=5, messages=40, behaviour=behaviour(max_limit=15))
    page = stage.world.pages[1]
    [mid] = stage.say(stage.threads(page)[0])
    await stage.sync("full", page)
    stage.world.unsend(mid)
    for _ in range(2):
        stage.clock.advance(60)
        run = await stage.sync("audit", page)
        assert (run["state"], run["audit"]["coverage"]) == ("succeeded", 1.0)
    assert run["audit"]["messages_missing"] == 1
    assert await stage.rows("SELECT * FROM audit_listings") == []
