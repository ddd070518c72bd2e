from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from reconciler.watchdog import WANTED_FIELDS, Watchdog
from simulator import parse_fault
from sql.subscriptions import note_webhooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from simulator import Page
    from tests.reconciler.stage import Stage

NOW = datetime.now(UTC)


def watchdog(stage: Stage, **options: object) -> Watchdog:
    return Watchdog(stage.pool, stage.client(), stage.tokens, app_id=stage.graph.app_id, **options)  # type: ignore[arg-type]


def subscribe(page: Page, fields: set[str] | None) -> None:
    """Let Meta have these fields of a Page, None: no subscription."""
    page.subscribed_fields = fields


async def make_due(stage: Stage) -> None:
    await stage.do("UPDATE page_subscriptions SET next_check_at = now()")


def calls(stage: Stage, page: Page, method: str) -> int:
    return sum(c.method == method and c.path.endswith("subscribed_apps") for c in stage.graph.calls_of(page.id))


async def test_a_new_page_is_subscribed_and_that_is_no_repair(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage()
    subscribe(stage.page, None)
    assert await watchdog(stage).run_once() == {"checked": 1, "repaired": 1}
    assert stage.page.subscribed_fields == set(WANTED_FIELDS)
    assert await stage.rows("SELECT * FROM subscription_repairs") == []


async def test_a_page_that_lost_nothing_costs_one_call_in_six_hours(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage()
    subscribe(stage.page, {*WANTED_FIELDS, "feed"})
    dog = watchdog(stage)
    assert await dog.run_once() == {"checked": 1, "repaired": 0}
    assert await dog.run_once() == {"checked": 0, "repaired": 0}
    assert (calls(stage, stage.page, "GET"), calls(stage, stage.page, "POST")) == (1, 0)
    await stage.do("UPDATE page_subscriptions SET next_check_at = next_check_at - interval '6 hours'")
    assert await dog.run_once() == {"checked": 1, "repaired": 0}


async def test_what_meta_dropped_is_subscribed_again_recorded_and_told(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage()
    told: list[str] = []
    dog = watchdog(stage, on_repair=told.append)
    subscribe(stage.page, {*WANTED_FIELDS, "feed"})
    await dog.run_once()
    subscribe(stage.page, {"messages", "feed"})
    await make_due(stage)
    assert await dog.run_once() == {"checked": 1, "repaired": 1}
    assert stage.page.subscribed_fields == {*WANTED_FIELDS, "feed"}  # what the owner had besides stays
    repair = await stage.one("SELECT * FROM subscription_repairs WHERE page_id = $1", stage.page.id)
    missing = sorted(set(WANTED_FIELDS) - {"messages"})
    assert (repair["missing_fields"], repair["restored_fields"], repair["error"]) == (missing, missing, None)
    assert told == [stage.page.id]


async def test_after_a_refusal_each_field_is_asked_for_alone_and_a_refused_one_is_expected_no_more(
    make_stage: Callable[..., Awaitable[Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage()
    monkeypatch.setattr("simulator.accounts.ALL_FIELDS", sorted(set(WANTED_FIELDS) - {"message_echoes", "standby"}))
    subscribe(stage.page, None)
    dog = watchdog(stage)
    found = await dog.check(stage.page.id)
    assert found is not None
    assert found.refused == {"message_echoes", "standby"}
    assert stage.page.subscribed_fields == set(WANTED_FIELDS) - {"message_echoes", "standby"}
    open_spans = await stage.rows("SELECT field FROM webhook_expectations WHERE ended_at IS NULL ORDER BY field")
    assert {"messages", "messaging_postbacks"} <= {r["field"] for r in open_spans}
    assert "message_echoes" not in {r["field"] for r in open_spans}


async def test_a_field_refused_before_costs_one_more_call_and_is_taken_once_it_is_allowed(
    make_stage: Callable[..., Awaitable[Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage()
    subscribe(stage.page, None)
    dog = watchdog(stage)
    with monkeypatch.context() as patch:
        patch.setattr("simulator.accounts.ALL_FIELDS", sorted(set(WANTED_FIELDS) - {"message_echoes"}))
        await dog.run_once()
        before = calls(stage, stage.page, "POST")
        await make_due(stage)
        assert await dog.run_once() == {"checked": 1, "repaired": 0}
        assert calls(stage, stage.page, "POST") == before + 1
    await make_due(stage)
    await dog.run_once()
    assert stage.page.subscribed_fields == set(WANTED_FIELDS)
    row = await stage.one("SELECT * FROM page_subscriptions")
    assert (row["refused_fields"], row["error"]) == ([], None)


async def test_a_check_that_fails_keeps_why_and_what_was_known_and_leaves_other_pages_alone(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage(pages=2)
    dead, alive = stage.world.pages
    dog = watchdog(stage)
    await dog.run_once()
    dead.kill_token()
    subscribe(alive, None)
    await make_due(stage)
    assert await dog.run_once() == {"checked": 2, "repaired": 1}
    assert alive.subscribed_fields == set(WANTED_FIELDS)
    row = await stage.one("SELECT * FROM page_subscriptions WHERE page_id = $1", dead.id)
    assert "190" in row["error"]
    assert set(WANTED_FIELDS) <= set(row["subscribed_fields"])
    assert dead.access_token not in row["error"]


async def test_a_limit_ends_the_check_without_calling_fields_refused(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage()
    subscribe(stage.page, None)
    stage.faults.add(parse_fault("throttled#2"))
    found = await watchdog(stage).check(stage.page.id)
    assert found is None
    assert (await stage.one("SELECT * FROM page_subscriptions"))["refused_fields"] == []


async def test_silence_against_habit_brings_the_next_check_forward(
    make_stage: Callable[..., Awaitable[Stage]],
) -> None:
    stage = await make_stage(pages=2)
    busy, quiet = (page.id for page in stage.world.pages)
    dog = watchdog(stage)
    await dog.run_once()
    async with stage.pool.acquire() as connection:
        for minutes in range(180, 60, -1):  # a webhook a minute, until an hour ago
            await note_webhooks(connection, {busy: NOW - timedelta(minutes=minutes)})
        for hours in range(90, 0, -6):  # one in six hours
            await note_webhooks(connection, {quiet: NOW - timedelta(hours=hours)})
    assert await dog.run_once() == {"checked": 0, "repaired": 0}  # both were checked just now
    await stage.do(
        "UPDATE page_subscriptions SET checked_at = now() - interval '31 minutes', "
        "next_check_at = next_check_at - interval '31 minutes'"
    )
    assert await dog.run_once() == {"checked": 1, "repaired": 0}
    rows = await stage.rows("SELECT page_id FROM page_subscriptions WHERE checked_at > now() - interval '1 minute'")
    assert [r["page_id"] for r in rows] == [busy]
    assert await dog.run_once() == {"checked": 0, "repaired": 0}  # and not again at once


async def test_webhooks_of_pages_that_are_not_ours_are_not_noted(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage()
    async with stage.pool.acquire() as connection:
        await note_webhooks(connection, {"999": NOW, stage.page.id: NOW})
        await note_webhooks(connection, {stage.page.id: NOW - timedelta(hours=1)})  # late: changes nothing
    (row,) = await stage.rows("SELECT page_id, last_webhook_at, webhook_gap_seconds FROM page_subscriptions")
    assert (row["page_id"], row["last_webhook_at"], row["webhook_gap_seconds"]) == (stage.page.id, NOW, None)


async def test_two_watchdogs_check_each_page_once(make_stage: Callable[..., Awaitable[Stage]]) -> None:
    stage = await make_stage(pages=4)
    one, other = watchdog(stage), watchdog(stage)
    counts = [await one.run_once(), await other.run_once()]
    assert sum(count["checked"] for count in counts) == 4
    assert all(calls(stage, page, "GET") == 1 for page in stage.world.pages)
