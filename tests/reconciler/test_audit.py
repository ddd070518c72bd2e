"""Audits of a whole Page: what they repair, what they say of each conversation, and what they can't know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from reconciler import threads as threads_module
from reconciler.audit import is_same
from simulator import Fault
from sql.audit_threads import Seen
from tests.reconciler.stage import Killed, behaviour

if TYPE_CHECKING:
    import asyncpg

    from tests.reconciler.stage import MakeStage, Stage

LONG = 60  # messages: more than are nested in a list


async def states(stage: Stage) -> dict[str, str | None]:
    rows = await stage.rows("SELECT thread_id, audit_state FROM conversation_threads")
    return {r["thread_id"]: r["audit_state"] for r in rows}


async def message(stage: Stage, mid: str) -> asyncpg.Record:
    return await stage.one("SELECT * FROM messages WHERE mid = $1", mid)


async def audit(stage: Stage) -> Any:
    """Audit the Page some time later; returns what was found."""
    stage.clock.advance(60)
    run = await stage.sync("audit")
    assert (run["state"], run["error"]) == ("succeeded", None)
    return run["audit"]


def counts(found: Any, *names: str) -> list[int]:
    return [found[name] for name in names]


CONVERSATIONS = ("conversations_verified", "conversations_repaired", "conversations_unverifiable")
MESSAGES = ("messages_restored", "messages_changed", "messages_missing")


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


# -- what Graph lists no more ---------------------------------------------------------------------------------


async def absent(stage: Stage) -> dict[str, bool]:
    """The messages that were absent, and whether they are missing by now."""
    rows = await stage.rows("SELECT mid, missing_in_graph_since FROM messages WHERE absent_since IS NOT NULL")
    return {r["mid"]: r["missing_in_graph_since"] is not None for r in rows}


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


# -- as a run -------------------------------------------------------------------------------------------------


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
