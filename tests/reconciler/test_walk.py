from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.reconciler.stage import Stage

    MakeStage = Callable[..., Awaitable[Stage]]


async def test_a_first_sync_stores_all_that_graph_shows(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=25)
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []
