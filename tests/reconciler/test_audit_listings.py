"""What an audit expects of a listing, and what a listing can't tell it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from simulator import Fault
from tests.reconciler.auditing import CONVERSATIONS, LONG, absent, audit, counts, states

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage


async def store(stage: Stage, mid: str, **columns: Any) -> None:
    """A message of the first thread's person, as webhooks alone brought it an hour ago."""
    thread = stage.threads()[0]
    values = {
        "page_id": stage.page.id,
        "mid": mid,
        "psid": thread.psid,
        "direction": "inbound",
        "sent_at": datetime.fromtimestamp(stage.clock().timestamp() - 3600, UTC),
        "sent_at_rank": 0,
        "original": {},
        "seen_batch": 1,
        "changed_batch": 1,
        "updated_at": datetime.now(UTC),
        **columns,
    }
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await stage.do(f"INSERT INTO messages ({names}) VALUES ({places})", *values.values())


async def test_a_message_that_graph_never_listed_is_absent(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync("full")
    await store(stage, "m_unknown")
    await audit(stage)
    assert await absent(stage) == {"m_unknown": False}


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"deleted_at": datetime(2026, 1, 1, tzinfo=UTC), "original": None}, id="unsent"),
        pytest.param({"sent_at": None, "sent_at_rank": 9, "seen_batch": None, "original": None}, id="placeholder"),
        pytest.param({"original": {"hop_context": {"app_id": "1"}}}, id="summary of a lead ad"),
        pytest.param({"original": {"postback": {"payload": "START"}}}, id="tap of a button"),
        pytest.param({"sent_at": datetime(2040, 1, 1, tzinfo=UTC)}, id="newer than the listing"),
    ],
)
async def test_what_graph_need_not_list_is_not_absent(make_stage: MakeStage, columns: dict[str, Any]) -> None:
    stage = await make_stage()
    await stage.sync("full")
    await store(stage, "m_x", **columns)
    for _ in range(2):
        assert counts(await audit(stage), *CONVERSATIONS) == [12, 0, 0]
    assert await absent(stage) == {}


async def test_the_tap_of_a_button_that_graph_did_show_is_looked_for(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync("full")
    await store(stage, "m_x", original={"postback": {"payload": "START"}}, sync_seen_at=datetime.now(UTC))
    await audit(stage)
    assert await absent(stage) == {"m_x": False}


async def test_of_a_person_with_two_threads_only_what_was_told_its_thread_is_looked_for(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await stage.sync("full")
    thread = stage.threads()[0]
    await stage.do(
        """
        INSERT INTO conversation_threads (page_id, thread_id, psid, synced_to, created_at)
        VALUES ($1, 't_old', $2, now(), now())
        """,
        stage.page.id,
        thread.psid,
    )
    await store(stage, "m_somewhere")
    await store(stage, "m_elsewhere", thread_id="t_old")
    await store(stage, "m_here", thread_id=thread.thread_id)
    await audit(stage)
    assert await absent(stage) == {"m_here": False}


async def test_a_listing_with_a_row_that_cannot_be_read_proves_nothing(make_stage: MakeStage) -> None:
    stage = await make_stage()
    thread = stage.threads()[0]
    [mid] = stage.say(thread)
    await stage.sync("full")

    def garble(_path: str, body: dict[str, Any]) -> None:
        for node in body.get("data", []):
            for row in node.get("messages", {}).get("data", []):
                if row["id"] == mid:
                    row["id"] = {"of": "another shape"}

    stage.between.change = garble
    for _ in range(2):
        found = await audit(stage)
        assert counts(found, *CONVERSATIONS) == [11, 0, 1]
    assert await absent(stage) == {}
    assert (await states(stage))[thread.thread_id] == "unverifiable"


async def test_a_conversation_listed_twice_by_one_audit_is_compared_once(make_stage: MakeStage) -> None:
    """It moved up while the list was walked, or the list was walked anew."""
    stage = await make_stage(conversations=9, page_rows=3)
    thread = stage.threads()[0]
    [mid] = stage.say(thread)
    await stage.sync("full")
    stage.clock.advance(3600)
    stage.world.unsend(mid)
    stage.faults.add(Fault("stale_cursor", first=2, times=1, path="/conversations"))
    lists = stage.list_calls()
    found = await audit(stage)
    assert stage.list_calls() > lists + 4
    assert counts(found, *CONVERSATIONS) == [9, 0, 0]
    assert await absent(stage) == {mid: False}


# -- what can't be known --------------------------------------------------------------------------------------


async def test_where_only_the_20_newest_have_details_longer_conversations_are_unverifiable(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(messages=20)
    await stage.sync("full")
    stage.behaviour.twenty_newest = True
    found = await audit(stage)
    shown = {t.thread_id: sum(1 for _ in t.newest_first()) for t in stage.threads()}
    longer = {thread_id for thread_id, n in shown.items() if n > 20}
    assert 0 < len(longer) < 12
    assert {thread_id for thread_id, state in (await states(stage)).items() if state == "unverifiable"} == longer
    assert counts(found, *CONVERSATIONS) == [12 - len(longer), 0, len(longer)]
    assert found["coverage"] == round(1 - len(longer) / 12, 4)
    assert await stage.missing() == []
    assert await absent(stage) == {}


async def test_a_conversation_that_graph_shows_no_more_is_unverifiable_and_nobody_tries_it_again_and_again(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage()
    await stage.sync("full")
    gone = stage.threads()[5]

    def hide(path: str, body: dict[str, Any]) -> None:
        if path.endswith("/conversations"):
            body["data"] = [node for node in body["data"] if node["id"] != gone.thread_id]
        elif gone.thread_id in path:
            body.clear()
            body["error"] = {"code": 100, "error_subcode": 33, "message": "Unsupported get request."}

    stage.between.change = hide
    found = await audit(stage)
    assert counts(found, *CONVERSATIONS) == [11, 0, 1]
    row = await stage.thread_row(gone.thread_id)
    assert (row["audit_state"], row["sync_error"]) == ("unverifiable", None)
    calls = stage.calls()
    await stage.sync()
    assert stage.calls() == calls + 1
    stage.between.change = None
    assert counts(await audit(stage), *CONVERSATIONS) == [12, 0, 0]


async def test_a_conversation_that_cannot_be_read_now_is_neither_verified_nor_forgotten(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=3, messages=LONG)
    await stage.sync("full")
    thread = next(t for t in stage.threads() if t.count() > 21)
    stage.faults.add(Fault("http_500", path=f"{thread.thread_id}/messages"))
    stage.clock.advance(60)
    run = await stage.sync("audit")
    assert run["failed_conversations"] == 1
    assert (await states(stage))[thread.thread_id] is None
    stage.faults.clear()
    await audit(stage)
    assert (await states(stage))[thread.thread_id] == "verified"
