"""The worker: many Pages at once, each alone with its trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from reconciler import steps as steps_module
from reconciler import worker as worker_module
from reconciler.tokens import TokenBox
from sql.leases import checkpoint, claim_run, renew_lease
from sql.pages import put_page, remove_page
from sql.sync_runs import cancel_runs
from sql.upsert import upsert

if TYPE_CHECKING:
    import httpx

    from tests.reconciler.stage import MakeStage, Stage


async def ask_all(stage: Stage, kind: str = "incremental") -> dict[str, int]:
    return {page.id: await stage.ask(kind, page) for page in stage.world.pages}


async def states(stage: Stage) -> dict[str, str]:
    return {r["page_id"]: r["state"] for r in await stage.rows("SELECT page_id, state FROM sync_runs")}


async def test_all_pages_are_synced_side_by_side(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=4)
    await ask_all(stage)
    ended: list[tuple[str, str]] = []
    async with stage.worker(on_end=lambda kind, state: ended.append((kind, state))) as worker:
        assert await worker.run_once() == 4
        assert await worker.run_once() == 0
    assert ended == [("incremental", "succeeded")] * 4
    for page in stage.world.pages:
        assert await stage.missing(page) == []
    leases = await stage.rows("SELECT lease_holder, lease_until FROM facebook_pages")
    assert {tuple(lease) for lease in leases} == {(None, None)}


async def test_no_more_pages_than_allowed_are_worked_on_at_once_and_a_free_place_takes_the_next(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(pages=7)
    await ask_all(stage)
    inside: set[str] = set()
    most: list[int] = []
    full = asyncio.Event()

    async def hold(request: httpx.Request) -> None:
        inside.add(request.url.path.split("/")[2])
        most.append(len(inside))
        if len(inside) == 3:
            full.set()
        await full.wait()
        inside.discard(request.url.path.split("/")[2])

    stage.between.before = hold
    async with stage.worker(concurrency=3) as worker:
        assert await worker.wake() == 3
        assert await worker.wake() == 0
        await worker.run_once()
    assert max(most) == 3
    assert set((await states(stage)).values()) == {"succeeded"}


async def test_a_single_place_works_through_all_that_is_queued(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=4)
    await ask_all(stage)
    async with stage.worker(concurrency=1) as worker:
        assert await worker.wake() == 1
        (place,) = worker._places
        await place
    assert set((await states(stage)).values()) == {"succeeded"}


async def test_those_who_wake_a_worker_at_once_do_not_overfill_it(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=6)
    await ask_all(stage)
    async with stage.worker(concurrency=2) as worker:
        assert sum(await asyncio.gather(*(worker.wake() for _ in range(6)))) == 2
        assert len(worker._places) == 2
        await worker.run_once()


@pytest.mark.parametrize("fault", ["token_dead", "no_permission", "http_500", "html", "cut_body", "timeout", "blocked"])
async def test_one_pages_trouble_is_its_own(make_stage: MakeStage, fault: str) -> None:
    stage = await make_stage(pages=3)
    sick = stage.world.pages[1]
    stage.trouble(fault, sick)
    await ask_all(stage)
    await stage.work()
    assert await states(stage) == {page.id: "failed" if page is sick else "succeeded" for page in stage.world.pages}
    for page in stage.world.pages:
        assert (await stage.missing(page) == []) is (page is not sick)
        row = await stage.page_row(page)
        assert (row["watermark"] is None) is (page is sick)
        assert row["lease_holder"] is None


@pytest.mark.parametrize("subcode", [458, 459, 460, 463, 464, 467, 492])
async def test_a_dead_token_stops_its_page_and_says_what_to_do(make_stage: MakeStage, subcode: int) -> None:
    stage = await make_stage(pages=2)
    sick = stage.page
    sick.kill_token(subcode)
    run = await stage.sync()
    assert run["state"] == "failed"
    assert f"190/{subcode}" in run["error"]
    assert "add the Page again with a new one" in run["error"]
    assert stage.calls() == 1
    page = await stage.page_row()
    assert page["state"] == "needs_reauth"
    assert f"190/{subcode}" in page["state_reason"]
    assert (await stage.page_row(stage.world.pages[1]))["state"] == "active"
    # a new token makes it active again
    stage.tokens = TokenBox([stage.key])
    async with stage.pool.acquire() as connection:
        await put_page(connection, sick.id, stage.tokens.seal(sick.renew_token()), None, now=stage.clock())
    assert (await stage.sync())["state"] == "succeeded"
    assert (await stage.page_row())["state"] == "active"


async def test_a_token_that_works_after_all_makes_its_page_active_again(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.page.kill_token(459)  # until the person has passed a checkpoint
    await stage.sync()
    stage.page.dead_token = None
    assert (await stage.sync())["state"] == "succeeded"
    assert (await stage.page_row())["state"] == "active"


async def test_a_token_that_dies_after_it_was_replaced_does_not_stop_the_page(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)

    async def replace() -> None:
        async with stage.pool.acquire() as connection:
            sealed = stage.tokens.seal(stage.page.renew_token())
            await put_page(connection, stage.page.id, sealed, None, now=stage.clock())

    stage.after_call(1, replace)
    assert (await stage.sync())["state"] == "failed"
    assert (await stage.page_row())["state"] == "active"
    assert (await stage.sync())["state"] == "succeeded"


async def test_a_page_that_meta_blocks_is_paused_until_a_person_has_looked(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.faults.add("blocked")
    run = await stage.sync()
    assert "368" in run["error"]
    page = await stage.page_row()
    assert page["state"] == "paused"
    stage.faults.clear()
    calls = stage.calls()
    run = await stage.sync()
    assert (run["state"], stage.calls()) == ("failed", calls)
    assert run["error"].startswith("the Page is paused (Graph error 368")


async def test_a_missing_permission_fails_the_run_and_is_not_asked_for_again_within_minutes(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    stage.faults.add("no_permission")
    run = await stage.sync()
    assert (run["state"], stage.calls()) == ("failed", 1)
    page = await stage.one("SELECT state, next_sync_at - now() AS wait FROM facebook_pages")
    assert page["state"] == "active"
    assert page["wait"].total_seconds() > 3000


async def test_a_token_stored_with_a_lost_key_fails_with_the_remedy_and_without_a_call(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.forget_key()
    run = await stage.sync()
    assert run["state"] == "failed"
    assert "TOKEN_ENCRYPTION_KEY" in run["error"]
    assert stage.calls() == 0


async def test_a_page_removed_while_its_run_goes_on_stops_it_and_stores_nothing_more(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    run_id = await stage.ask()

    async def remove() -> None:
        async with stage.pool.acquire() as connection:
            await remove_page(connection, stage.page.id)

    stage.after_call(2, remove)
    await stage.work()
    assert stage.calls() == 2
    assert len(await stage.rows("SELECT * FROM conversation_threads")) == 2
    assert (await stage.run(run_id))["state"] == "cancelled"
    assert (await stage.page_row())["lease_holder"] is None


async def test_a_run_of_a_page_that_was_removed_meanwhile_fails(make_stage: MakeStage) -> None:
    stage = await make_stage()
    async with stage.pool.acquire() as connection:
        await remove_page(connection, stage.page.id)
    run = await stage.sync()
    assert (run["state"], run["error"], stage.calls()) == ("failed", "the Page was removed", 0)


async def test_a_run_cancelled_in_a_long_wait_is_noticed_by_its_heartbeat(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RENEW_EVERY_SECONDS", 0.01)
    stage = await make_stage()
    run_id = await stage.ask()
    waiting = asyncio.Event()

    async def hang(_request: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    stage.between.before = hang
    async with stage.worker(concurrency=1) as worker:
        await worker.wake()
        (place,) = worker._places
        await waiting.wait()
        async with stage.pool.acquire() as connection:
            await cancel_runs(connection, [run_id])
        await place
    assert (await stage.page_row())["lease_holder"] is None


async def test_a_lease_that_cannot_be_renewed_for_a_moment_is_renewed_the_next_time(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RENEW_EVERY_SECONDS", 0.01)
    stage = await make_stage()
    await stage.ask()
    renewals: list[str] = []
    renewed = asyncio.Event()

    async def unsteady(connection: Any, run: Any) -> None:
        renewals.append("asked")
        if len(renewals) < 3:
            raise OSError("the database is away")
        await renew_lease(connection, run)
        renewed.set()

    async def until_renewed(_request: object) -> None:
        await renewed.wait()

    monkeypatch.setattr(worker_module, "renew_lease", unsteady)
    stage.between.before = until_renewed
    await stage.work()
    assert set((await states(stage)).values()) == {"succeeded"}


async def test_a_run_that_cannot_let_its_page_go_keeps_no_worker_from_closing(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database stands still."""
    monkeypatch.setattr(worker_module, "LET_GO_WITHIN_SECONDS", 0.01)
    stage = await make_stage()
    await ask_all(stage)
    began, answered, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(_request: httpx.Request) -> None:
        began.set()
        await asyncio.Event().wait()

    async def stand_still(*_: object, **__: object) -> None:
        await answered.wait()
        ended.set()

    stage.between.before = hold
    monkeypatch.setattr(worker_module, "release_page", stand_still)
    async with stage.worker() as worker:
        await worker.wake()
        await began.wait()
    assert not ended.is_set()
    answered.set()
    await ended.wait()


async def test_a_worker_that_closes_lets_its_pages_go_at_once(make_stage: MakeStage) -> None:
    stage = await make_stage(pages=2)
    await ask_all(stage)
    waiting = asyncio.Semaphore(0)

    async def hang(_request: object) -> None:
        waiting.release()
        await asyncio.Event().wait()

    stage.between.before = hang
    async with stage.worker() as worker:
        await worker.wake()
        for _ in range(2):
            await waiting.acquire()
    assert await worker.wake() == 0
    assert {r["lease_holder"] for r in await stage.rows("SELECT lease_holder FROM facebook_pages")} == {None}
    assert set((await states(stage)).values()) == {"running"}
    stage.between.before = None
    await stage.work()
    assert set((await states(stage)).values()) == {"succeeded"}


async def test_a_bug_interrupts_a_run_five_times_and_then_fails_it(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(pages=2)
    sick, well = stage.world.pages
    runs = await ask_all(stage)

    async def broken(connection: Any, run: Any, *values: Any, **options: Any) -> bool:
        if run.page_id == sick.id:
            raise KeyError("what people wrote")
        return await checkpoint(connection, run, *values, **options)

    monkeypatch.setattr(steps_module, "checkpoint", broken)
    with capture_logs():
        for attempt in range(1, 7):
            await stage.work()
            run = await stage.run(runs[sick.id])
            assert run["attempts"] == attempt
            if attempt < 6:
                assert (run["state"], run["error"]) == ("running", "interrupted by KeyError")
                wait = await stage.one(
                    "SELECT lease_until - now() AS left FROM facebook_pages WHERE page_id = $1", sick.id
                )
                assert wait["left"].total_seconds() > 2**attempt
            await stage.expire_leases()
    assert (run["state"], run["error"]) == (
        "failed",
        "given up after 5 attempts in a row; the last was interrupted by KeyError",
    )
    assert (await stage.run(runs[well.id]))["state"] == "succeeded"
    assert await stage.rows("SELECT * FROM messages WHERE page_id = $1", sick.id) == []


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.SerializationError("could not serialize"),
        asyncpg.LockNotAvailableError("lock not available"),
    ],
)
async def test_what_other_writers_cause_is_written_again_without_another_call(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stage = await make_stage()
    tries: list[int] = []

    async def contended(*values: Any, **options: Any) -> Any:
        tries.append(1)
        if len(tries) <= 3:
            raise error
        return await upsert(*values, **options)

    monkeypatch.setattr(steps_module, "upsert", contended)
    run = await stage.sync()
    assert (run["state"], stage.calls(), len(tries)) == ("succeeded", 1, 4)
    assert await stage.missing() == []


async def test_a_database_that_goes_away_in_the_middle_interrupts_the_run_and_it_is_resumed(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(conversations=6, page_rows=2)
    run_id = await stage.ask()
    is_away = [False, True]

    async def away(*values: Any, **options: Any) -> Any:
        if is_away and is_away.pop(0):
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return await upsert(*values, **options)

    monkeypatch.setattr(steps_module, "upsert", away)
    with capture_logs() as lines:
        await stage.work()
    assert [line["log_level"] for line in lines if line["event"] == "run_interrupted"] == ["warning"]
    run = await stage.run(run_id)
    assert (run["state"], run["error"]) == ("running", "interrupted by ConnectionDoesNotExistError (08003)")
    await stage.expire_leases()
    await stage.work()
    run = await stage.run(run_id)
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []


async def test_a_worker_whose_database_is_away_after_a_run_stays_alive(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(pages=2)
    await ask_all(stage)
    claims: list[int] = []

    async def away_once(*values: Any) -> Any:
        claims.append(1)
        if len(claims) == 2:
            raise OSError("the database is away")
        return await claim_run(*values)

    monkeypatch.setattr(worker_module, "claim_run", away_once)
    async with stage.worker(concurrency=1) as worker:
        await worker.run_once()
    assert set((await states(stage)).values()) == {"succeeded"}
