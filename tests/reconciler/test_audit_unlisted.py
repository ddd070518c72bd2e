"""Conversations that only webhooks told of: what audits make of them when Graph's list does not show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from simulator import Fault
from sql.rows import SENT_BY_WEBHOOK_CLOCK, Conversation, Message, Rows
from sql.upsert import upsert
from tests.reconciler.auditing import changed_by_audit

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage

STRANGER = "7000000000000001"


async def told(
    stage: Stage, mid: str, *, psid: str = STRANGER, platform: str = "messenger", original: str = '{"text": "hello"}'
) -> None:
    """Let a webhook bring a message of somebody whose conversation Graph does not list."""
    rows = Rows()
    at = stage.clock()
    sent = Message(
        stage.page.id,
        mid,
        psid,
        direction="inbound",
        sent_at=at,
        sent_at_rank=SENT_BY_WEBHOOK_CLOCK,
        original=original,
        webhook_seen_at=datetime.now(UTC),
    )
    rows.add([Conversation(stage.page.id, psid, platform=platform), sent])
    async with stage.pool.acquire() as connection, connection.transaction():
        await upsert(connection, rows)


async def audit(stage: Stage, kind: str = "audit") -> int:
    """Audit the Page some time later; returns how many messages are missing."""
    stage.clock.advance(60)
    run = await stage.sync(kind)
    assert (run["state"], run["error"]) == ("succeeded", None)
    return int(run["audit"]["messages_missing"])


async def absent(stage: Stage) -> dict[str, bool]:
    """The messages that were absent, and whether they are missing by now."""
    rows = await stage.rows("SELECT mid, missing_in_graph_since FROM messages WHERE absent_since IS NOT NULL")
    return {r["mid"]: r["missing_in_graph_since"] is not None for r in rows}


async def test_what_two_audits_list_neither_thread_nor_message_of_is_missing_and_it_stays(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await stage.sync("full")
    await told(stage, "m_unsent_unheard")
    first = stage.clock()
    assert await audit(stage) == 0
    assert await absent(stage) == {"m_unsent_unheard": False}
    assert await audit(stage) == 1
    row = await stage.one("SELECT * FROM messages WHERE mid = 'm_unsent_unheard'")
    assert timedelta(0) < row["missing_in_graph_since"] - first <= timedelta(seconds=60)
    assert (row["text"], row["is_deleted"], row["psid"]) == ("hello", False, STRANGER)
    since = row["missing_in_graph_since"]
    await audit(stage)
    row = await stage.one("SELECT * FROM messages WHERE mid = 'm_unsent_unheard'")
    assert row["missing_in_graph_since"] == since


async def test_what_no_list_shows_for_the_second_time_is_told_as_a_change_once(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync("full")
    await told(stage, "m_x")
    assert ["m_x" in await changed_by_audit(stage) for _ in range(3)] == [False, True, False]


async def test_a_new_conversation_whose_only_message_was_unsent_unheard_is_missing_though_graph_lists_it_empty(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await stage.sync("full")
    [item] = stage.world.person_sends(stage.page.id, None)
    assert item.mid is not None
    assert item.psid is not None
    await told(stage, item.mid, psid=item.psid)
    stage.clock.advance(60)
    stage.world.unsend(item.mid)
    await audit(stage)
    await audit(stage)
    assert await absent(stage) == {item.mid: True}


async def test_an_incremental_or_full_sync_concludes_nothing_from_its_list(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await told(stage, "m_x")
    for kind in ("full", "incremental", "full"):
        stage.clock.advance(60)
        await stage.sync(kind)
    assert await absent(stage) == {}


@pytest.mark.parametrize(
    ("platform", "original"),
    [
        pytest.param("instagram", '{"text": "hello"}', id="of a platform that is not listed"),
        pytest.param("messenger", '{"postback": {"payload": "START"}}', id="the tap of a button"),
        pytest.param("messenger", '{"hop_context": []}', id="the summary of a lead ad"),
    ],
)
async def test_what_graph_need_not_list_is_not_looked_for(make_stage: MakeStage, platform: str, original: str) -> None:
    stage = await make_stage()
    await told(stage, "m_x", platform=platform, original=original)
    for _ in range(2):
        await audit(stage)
    assert await absent(stage) == {}


async def test_a_conversation_that_was_active_since_the_list_began_is_left_for_the_next_audit(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await told(stage, "m_old")

    async def write_again() -> None:
        stage.clock.advance(1)
        await told(stage, "m_new")

    stage.after_call(1, write_again)
    await audit(stage)
    assert await absent(stage) == {}
    await audit(stage)
    assert await absent(stage) == {"m_new": False, "m_old": False}


async def test_while_it_is_not_known_whose_an_unreadable_thread_is_nothing_is_concluded(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await told(stage, "m_x")
    hidden = stage.threads()[2].thread_id

    def spoil(path: str, body: dict[str, Any]) -> None:
        for node in body.get("data", []) if path.endswith("/conversations") else []:
            if node["id"] == hidden:
                node["updated_time"] = "soon"

    stage.between.change = spoil
    stage.faults.add(Fault("not_found", path=hidden))
    for _ in range(2):
        stage.clock.advance(60)
        await stage.sync("audit")
    assert await absent(stage) == {}
    stage.between.change = None
    stage.faults.clear()
    await audit(stage)
    assert await absent(stage) == {"m_x": False}


async def test_an_audit_that_does_not_get_to_the_lists_end_concludes_nothing(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await told(stage, "m_x")
    stage.faults.add(Fault("token_dead", first=2))
    for _ in range(2):
        stage.clock.advance(60)
        assert (await stage.sync("audit"))["state"] == "failed"
        await stage.do("UPDATE facebook_pages SET state = 'active', state_reason = NULL")
    assert await absent(stage) == {}


async def night(stage: Stage, budget: int) -> None:
    stage.clock.advance(86400)
    await stage.do(
        "INSERT INTO sync_runs (page_id, kind, requested_by, call_budget) VALUES ($1, 'audit', 'schedule', $2)",
        stage.page.id,
        budget,
    )
    await stage.work()


async def test_a_list_that_takes_several_nights_is_one_list(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=40, page_rows=5)
    await stage.sync("full")
    await told(stage, "m_before")
    listed: list[dict[str, bool]] = []
    while len(listed) < 2:
        await night(stage, 6)
        if not listed and not await absent(stage):
            await told(stage, "m_meanwhile", psid="7000000000000002")
        found = await absent(stage)
        if found and (not listed or listed[-1] != found):
            listed.append(found)
        assert len(await stage.rows("SELECT FROM sync_runs")) < 30, "no night comes to the list's end"
    assert listed[0] == {"m_before": False}
    assert listed[1] == {"m_before": True, "m_meanwhile": False}


async def test_an_audit_that_is_resumed_after_its_last_step_concludes_its_list_once(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await told(stage, "m_x")
    stage.clock.advance(60)
    run_id = await stage.ask("audit")
    await stage.work()
    await stage.do(
        "UPDATE sync_runs SET state = 'queued', finished_at = NULL, holder = NULL, term = NULL WHERE id = $1", run_id
    )
    await stage.work()
    assert (await stage.run(run_id))["state"] == "succeeded"
    assert await absent(stage) == {"m_x": False}


async def test_a_conversation_that_turns_up_again_is_missing_no_more(make_stage: MakeStage) -> None:
    stage = await make_stage()
    thread = stage.threads()[3]
    mids = stage.say(thread)

    def hide(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            body["data"] = [node for node in body["data"] if node["id"] != thread.thread_id]

    stage.between.change = hide
    await told(stage, mids[0], psid=thread.psid)
    await audit(stage)
    await audit(stage)
    assert await absent(stage) == {mids[0]: True}
    stage.between.change = None
    await audit(stage)
    assert await absent(stage) == {}
