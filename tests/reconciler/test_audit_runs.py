"""Audits as runs: interrupted, giving way, cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler import threads as threads_module
from simulator import Fault
from tests.reconciler.auditing import CONVERSATIONS, LONG, MESSAGES, absent, audit, counts, states
from tests.reconciler.stage import Killed

if TYPE_CHECKING:
    import pytest

    from tests.reconciler.stage import MakeStage


async def test_nothing_of_a_listing_is_left_when_an_audit_ends(make_stage: MakeStage) -> None:
    stage = await make_stage(messages=LONG, page_rows=10)
    await stage.sync("full")
    await audit(stage)
    stage.faults.add(Fault("no_permission", first=6))
    stage.clock.advance(60)
    assert (await stage.sync("audit"))["state"] == "failed"
    for table in ("audit_listings", "unfinished_threads"):
        assert await stage.rows(f"SELECT * FROM {table}") == []


async def test_an_interrupted_audit_goes_on_and_counts_everything_once(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "AT_A_TIME", 1)
    stage = await make_stage(conversations=6, messages=LONG, page_rows=10)
    mids = [stage.say(thread)[0] for thread in stage.threads()]
    await stage.sync("full")
    stage.clock.advance(3600)
    for mid in mids[:2]:
        stage.world.edit(mid, "what I meant")
    stage.world.unsend(mids[2])
    longest = max(stage.threads(), key=lambda t: t.count())
    oldest = list(longest.newest_first())[-1].message.mid
    await stage.do("DELETE FROM messages WHERE mid = $1", oldest)
    for _ in range(2):
        stage.clock.advance(60)
        run_id = await stage.ask("audit")
        kills = 0
        while (await stage.run(run_id))["state"] in {"queued", "running"}:
            await stage.expire_leases()
            stage.kill_before_call(3)
            async with stage.worker(concurrency=1) as worker:
                await worker.wake()
                for place in list(worker._places):
                    try:
                        await place
                    except Killed:
                        kills += 1
            stage.between.before = None
        assert kills > 5
    first, second = await stage.rows("SELECT * FROM sync_runs WHERE kind = 'audit' ORDER BY id")
    assert counts(first["audit"], *MESSAGES) == [1, 2, 0]
    assert sum(counts(first["audit"], *CONVERSATIONS)) == 6
    assert counts(second["audit"], *CONVERSATIONS, *MESSAGES) == [6, 0, 0, 0, 0, 1]
    assert await absent(stage) == {mids[2]: True}
    assert await stage.missing() == []


async def test_an_audit_gives_way_in_the_midst_of_a_conversation_and_still_knows_what_it_listed(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=1, messages=LONG, page_rows=10)
    thread = stage.threads()[0]
    await stage.sync("full")
    audited = await stage.ask("audit")
    asked: list[int] = []

    async def something_new() -> None:
        stage.clock.advance(60)
        stage.say(thread)
        [(queued,)] = await stage.rows(
            """
            INSERT INTO sync_runs (page_id, kind, requested_by) VALUES ($1, 'incremental', 'schedule') RETURNING id
            """,
            stage.page.id,
        )
        asked.append(queued)

    stage.after_call(4, something_new)
    await stage.work()
    ends = [r["id"] for r in await stage.rows("SELECT id FROM sync_runs ORDER BY finished_at")]
    assert ends[1:] == [*asked, audited]
    assert (await states(stage))[thread.thread_id] == "verified"
    assert await absent(stage) == {}
    deep = [(c.path, c.params.get("after")) for c in stage.graph.calls if c.path.endswith("/messages")]
    assert len(deep) - len(set(deep)) <= 5  # the first sync's and the audit's, none of the audit's twice


async def test_a_cancelled_audit_leaves_nothing_and_the_next_one_does_it_all(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=4, messages=LONG, page_rows=10)
    await stage.sync("full")
    run_id = await stage.ask("audit")
    stage.after_call(
        3, lambda: stage.do("UPDATE sync_runs SET state = 'cancelled', finished_at = now() WHERE id = " + str(run_id))
    )
    await stage.work()
    await stage.do("DELETE FROM unfinished_threads")
    assert (await stage.run(run_id))["state"] == "cancelled"
    found = await audit(stage)
    assert counts(found, *CONVERSATIONS) == [4, 0, 0]
