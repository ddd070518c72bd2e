"""Audits of a whole Page: what they repair, and what they find missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.audit import is_same
from sql.audit_threads import Seen
from sql.rows import Message, Rows
from sql.upsert import upsert
from tests.reconciler.auditing import (
    CONVERSATIONS,
    LONG,
    MESSAGES,
    absent,
    audit,
    changed_by_audit,
    counts,
    message,
    states,
)
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage


# -- what is repaired -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, LONG])
async def test_what_is_right_is_verified(make_stage: MakeStage, length: int) -> None:
    stage = await make_stage(messages=length)
    await stage.sync("full")
    found = await audit(stage)
    assert counts(found, *CONVERSATIONS) == [12, 0, 0]
    assert counts(found, *MESSAGES) == [0, 0, 0]
    assert set((await states(stage)).values()) == {"verified"}
    assert found["coverage"] == 1.0


@pytest.mark.parametrize("depth", [0, -1], ids=["the newest", "the oldest"])
@pytest.mark.parametrize("length", [6, LONG])
async def test_a_message_that_vanished_from_postgres_comes_back(make_stage: MakeStage, length: int, depth: int) -> None:
    stage = await make_stage(messages=length)
    await stage.sync("full")
    thread = max(stage.threads(), key=lambda t: t.count())
    lost = [state.message.mid for state in thread.newest_first()][depth]
    await stage.do("DELETE FROM messages WHERE mid = $1", lost)
    await stage.sync()
    assert await stage.missing() == [f"{lost} is missing"]
    found = await audit(stage)
    assert await stage.missing() == []
    assert counts(found, *CONVERSATIONS) == [11, 1, 0]
    assert counts(found, *MESSAGES) == [1, 0, 0]
    assert (await states(stage))[thread.thread_id] == "repaired"
    assert counts(await audit(stage), *CONVERSATIONS) == [12, 0, 0]


async def test_as_many_messages_with_other_ids_are_no_match(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=1)
    await stage.sync("full")
    first = await stage.one("SELECT mid FROM messages ORDER BY mid LIMIT 1")
    await stage.do("UPDATE messages SET mid = 'm_another' WHERE mid = $1", first["mid"])
    assert counts(await audit(stage), *MESSAGES) == [1, 0, 0]
    assert (await message(stage, first["mid"]))["sent_at"] is not None
    assert (await message(stage, "m_another"))["absent_since"] is not None


async def test_a_lost_edit_is_repaired_by_one_audit(make_stage: MakeStage) -> None:
    stage = await make_stage(messages=30)
    [mid] = stage.say(stage.threads()[3])
    stage.clock.advance(3600)
    stage.say(stage.threads()[3])
    await stage.sync("full")
    stage.world.edit(mid, "what I meant")
    await stage.sync()
    assert (await message(stage, mid))["text"] != "what I meant"
    found = await audit(stage)
    assert (await message(stage, mid))["text"] == "what I meant"
    assert counts(found, *MESSAGES) == [0, 1, 0]


async def test_lost_reactions_are_repaired_by_one_audit(make_stage: MakeStage) -> None:
    stage = await make_stage()
    thread = stage.threads()[2]
    [loved, unloved] = stage.say(thread, 2)
    stage.world.react(unloved, "love")
    await stage.sync("full")
    stage.clock.advance(3600)
    stage.world.react(loved, "wow")
    stage.world.unreact(unloved)
    await stage.sync()
    found = await audit(stage)
    rows = await stage.rows("SELECT mid, reaction FROM message_reactions WHERE NOT is_removed AND mid = $1", loved)
    assert [(r["mid"], r["reaction"]) for r in rows] == [(loved, "wow")]
    assert await stage.rows("SELECT * FROM message_reactions WHERE NOT is_removed AND mid = $1", unloved) == []
    assert counts(found, *MESSAGES) == [0, 2, 0]
    assert (await states(stage))[thread.thread_id] == "repaired"


async def test_a_conversation_that_was_never_seen_is_found(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=40, page_rows=10)
    await stage.sync("full")
    gone = stage.threads()[-1]
    for table in ("conversation_threads", "conversations", "messages"):
        await stage.do(f"DELETE FROM {table} WHERE psid = $1", gone.psid)
    await stage.sync()
    assert await stage.missing() != []
    await audit(stage)
    assert await stage.missing() == []
    assert (await states(stage))[gone.thread_id] == "repaired"


async def test_what_was_just_sent_is_no_finding_for_its_webhook_may_be_on_the_way(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync("full")
    stage.clock.advance(60)
    [mid] = stage.say(stage.threads()[0])
    run = await stage.sync("audit")
    assert (await message(stage, mid))["first_seen_via"] == "sync"
    assert counts(run["audit"], *CONVERSATIONS, *MESSAGES) == [12, 0, 0, 0, 0, 0]


def test_readings_of_both_doors_say_the_same_of_a_reaction_by_name_or_by_emoji() -> None:
    def seen(*reaction: str | None, text: str = "a") -> Seen:
        return Seen(text, None, [], [list(reaction)])

    assert is_same(seen("p", "love", "❤"), seen("p", "love", None))
    assert is_same(seen("p", "other", "🎉"), seen("p", None, "🎉"))
    assert not is_same(seen("p", "love", "❤"), seen("p", "wow", None))
    assert not is_same(seen("p", "love", None), seen("q", "love", None))
    assert not is_same(seen("p", "love", None), seen("p", "love", None, text="b"))
    assert not is_same(seen("p", "love", None), Seen("a", None, [], []))


async def test_every_way_of_losing_is_repaired_at_once(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=20, messages=25, behaviour=behaviour(max_limit=7))
    mids = [mid for thread in stage.threads() for mid in stage.say(thread, 2)]
    await stage.sync("full")
    stage.clock.advance(3600)
    for n, mid in enumerate(mids):
        if n % 3 == 0:
            stage.world.edit(mid, f"edited {n}")
        elif n % 3 == 1:
            await stage.do("DELETE FROM messages WHERE mid = $1", mid)
        else:
            stage.world.react(mid, "sad")
    await audit(stage)
    assert await stage.missing() == []
    sad = {r["mid"] for r in await stage.rows("SELECT mid FROM message_reactions WHERE reaction = 'sad'")}
    assert sad >= set(mids[2::3])


# -- what Graph lists no more ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, LONG])
async def test_only_what_two_audits_did_not_find_is_missing_and_it_stays(make_stage: MakeStage, length: int) -> None:
    stage = await make_stage(messages=length)
    thread = stage.threads()[4]
    [mid] = stage.say(thread)
    await stage.sync("full")
    stage.clock.advance(3600)
    stage.world.unsend(mid)  # and its webhook is lost
    first = stage.clock()
    found = await audit(stage)
    assert await absent(stage) == {mid: False}
    assert counts(found, *CONVERSATIONS, *MESSAGES) == [12, 0, 0, 0, 0, 0]
    found = await audit(stage)
    assert await absent(stage) == {mid: True}
    assert found["messages_missing"] == 1
    row = await message(stage, mid)
    assert 0 < (row["missing_in_graph_since"] - first).total_seconds() <= 60
    assert row["text"] is not None
    assert not row["is_deleted"]


async def test_what_turns_out_to_be_unsent_is_missing_no_more(make_stage: MakeStage) -> None:
    stage = await make_stage()
    thread = stage.threads()[4]
    [mid] = stage.say(thread)
    await stage.sync("full")
    stage.clock.advance(3600)
    stage.world.unsend(mid)
    await audit(stage)
    await audit(stage)
    assert await absent(stage) == {mid: True}
    rows = Rows()
    rows.add([Message(stage.page.id, mid, thread.psid, deleted_at=stage.clock())])  # the webhook comes late
    async with stage.pool.acquire() as connection, connection.transaction():
        await upsert(connection, rows)
    assert await absent(stage) == {}
    found = await audit(stage)
    assert found["messages_missing"] == 0
    assert (await message(stage, mid))["is_deleted"]


async def test_what_is_listed_again_by_whatever_run_is_missing_no_more(make_stage: MakeStage) -> None:
    stage = await make_stage()
    thread = stage.threads()[0]
    mids = stage.say(thread, 3)
    await stage.sync("full")

    def hide(_path: str, body: dict[str, Any]) -> None:
        for node in body.get("data", []):
            nested = node.get("messages")
            if nested:
                nested["data"] = [m for m in nested["data"] if m["id"] not in mids[:2]]

    stage.between.change = hide
    await audit(stage)
    await audit(stage)
    assert await absent(stage) == dict.fromkeys(mids[:2], True)
    stage.between.change = None
    stage.clock.advance(60)
    stage.say(thread)
    await stage.sync()
    assert await absent(stage) == {}


async def test_what_turns_out_to_be_missing_and_what_is_listed_again_are_changes_of_those_messages(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=1)
    [mid] = stage.say(stage.threads()[0])
    await stage.sync("full")

    def hide(_path: str, body: dict[str, Any]) -> None:
        for node in body.get("data", []):
            nested = node.get("messages")
            if nested:
                nested["data"] = [m for m in nested["data"] if m["id"] != mid]

    stage.between.change = hide
    assert [mid in await changed_by_audit(stage) for _ in range(2)] == [False, True]
    stage.between.change = None
    assert mid in await changed_by_audit(stage)


async def test_absent_once_and_then_listed_and_then_absent_is_once(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=1)
    [mid] = stage.say(stage.threads()[0])
    await stage.sync("full")
    is_hidden = True

    def hide(_path: str, body: dict[str, Any]) -> None:
        for node in body["data"] if is_hidden else []:
            if "messages" in node:
                node["messages"]["data"] = [m for m in node["messages"]["data"] if m["id"] != mid]

    stage.between.change = hide
    for is_hidden in (True, False, True):  # noqa: B007 - read by `hide`
        await audit(stage)
    assert await absent(stage) == {mid: False}
