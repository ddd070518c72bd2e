"""The messages of single threads: how far back they are read, and what becomes of one that can't be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from simulator import Fault
from sql.rows import Rows
from sql.sync_runs import enqueue_run
from sql.threads import ALWAYS_TRIED, mark_failed
from sql.upsert import upsert
from tests.reconciler.stage import behaviour

if TYPE_CHECKING:
    from tests.reconciler.stage import MakeStage, Stage


def long_thread(stage: Stage) -> Any:
    """The first thread that needs more than its nested messages."""
    return next(thread for thread in stage.threads() if thread.count() > 21)


def in_thread(stage: Stage, thread: Any) -> set[str]:
    true = stage.world.true_messages(stage.page.id)
    return {m.mid for m in true if m.thread_id == thread.thread_id and m.in_graph}


async def missing_mids(stage: Stage) -> set[str]:
    return {line.split()[0] for line in await stage.missing()}


async def test_a_first_sync_reads_every_thread_to_its_beginning(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=30, messages=60, behaviour=behaviour(max_limit=50))
    run = await stage.sync()
    assert (run["state"], run["error"], run["failed_conversations"]) == ("succeeded", None, 0)
    assert await stage.missing() == []
    assert await stage.rows("SELECT * FROM unfinished_threads") == []
    shown = [m for m in stage.world.true_messages(stage.page.id) if m.in_graph]
    assert run["conversations"] == 30
    assert run["messages"] == run["inserted"] == len(shown)
    assert run["api_calls"] == stage.calls()


async def test_only_messages_sent_since_webhooks_are_expected_count_as_repaired(make_stage: MakeStage) -> None:
    stage = await make_stage()
    recent = stage.clock() - timedelta(days=1)
    await stage.do("UPDATE webhook_expectations SET started_at = $1", recent)
    run = await stage.sync()
    shown = [m for m in stage.world.true_messages(stage.page.id) if m.in_graph]
    expected = [m for m in shown if m.graph_sent_at_ms >= recent.timestamp() * 1000]
    assert 0 < run["repaired"] == len(expected) < run["inserted"] == len(shown)


async def test_a_message_older_than_the_newest_stored_one_is_not_taken_for_known(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.sync()
    stage.clock.advance(3600)
    thread = stage.threads()[5]
    missed = stage.say(thread, 2, each_seconds=1)
    stage.clock.advance(5)
    (seen,) = stage.say(thread)
    rows = Rows()
    rows.add([stage.webhook_row(thread, seen)])
    async with stage.pool.acquire() as connection, connection.transaction():
        await upsert(connection, rows)
    assert await missing_mids(stage) >= set(missed)
    run = await stage.sync()
    assert await stage.missing() == []
    assert run["inserted"] == 2


async def test_a_burst_longer_than_what_is_nested_is_read_down_to_what_is_stored_and_no_further(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=4, messages=400, behaviour=behaviour(max_limit=25))
    await stage.sync()
    thread = max(stage.threads(), key=lambda t: t.count())
    stage.clock.advance(86400)
    stage.say(thread, 60, each_seconds=1)
    calls = stage.calls("/messages")
    run = await stage.sync()
    assert await stage.missing() == []
    assert run["inserted"] == 60
    assert stage.calls("/messages") - calls <= 3


async def test_stubs_never_overwrite_what_is_known(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=4, messages=40)
    await stage.sync()
    # links are signed anew at each reading
    shown = """
        SELECT mid, text, jsonb_path_query_array(attachments, '$[*].graph_id') AS attachments, direction, is_deleted
        FROM messages ORDER BY mid
    """
    before = await stage.rows(shown)
    stage.behaviour.twenty_newest = True
    run = await stage.sync("full")
    assert run["state"] == "succeeded"
    assert await stage.rows(shown) == before


async def test_what_graph_shows_as_stubs_only_is_stored_as_such(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=4, messages=40, behaviour=behaviour(twenty_newest=True))
    run = await stage.sync()
    assert run["state"] == "succeeded"
    shown = [m for m in stage.world.true_messages(stage.page.id) if m.in_graph]
    stored = await stage.rows("SELECT * FROM messages WHERE sent_at IS NOT NULL")
    assert {m.mid for m in shown} == {r["mid"] for r in stored}
    stubs = [r for r in stored if r["direction"] is None]
    assert stubs
    assert all(r["text"] is r["attachments"] is None and not r["is_deleted"] for r in stubs)
    assert {r["psid"] for r in stubs} <= {m.psid for m in shown}


async def test_old_messages_whose_details_are_refused_as_deleted_are_stored_as_stubs(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=4, messages=40)
    stage.refuse_details_of_old_ones()
    thread = long_thread(stage)
    run = await stage.sync()
    assert (run["state"], run["error"], run["failed_conversations"]) == ("succeeded", None, 0)
    rows = await stage.rows("SELECT * FROM messages WHERE thread_id = $1", thread.thread_id)
    assert {row["mid"] for row in rows} == in_thread(stage, thread)
    assert all(row["sent_at"] is not None and not row["is_deleted"] for row in rows)
    assert 0 < len([row for row in rows if row["direction"] is None]) < len(rows)


async def test_a_thread_that_cannot_be_read_does_not_hold_back_the_page_and_is_tried_by_id(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=12, messages=40)
    thread = long_thread(stage)
    stage.faults.add(Fault("not_found", path=f"{thread.thread_id}/messages"))
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert run["error"] == "1 conversations could not be read: tried again next time"
    assert run["failed_conversations"] == 1
    assert (await stage.page_row())["watermark"] == stage.updated(stage.threads()[0])
    row = await stage.thread_row(thread.thread_id)
    assert (row["synced_to"], row["failures"], row["failed_in"]) == (None, 1, run["id"])
    assert "100/33" in row["sync_error"]
    missing = await missing_mids(stage)
    assert missing
    assert missing < in_thread(stage, thread)
    stage.faults.clear()
    # far down the list by now
    stage.clock.advance(86400)
    for other in stage.threads():
        if other.thread_id != thread.thread_id:
            stage.say(other)
    stage.graph.calls.clear()
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    row = await stage.thread_row(thread.thread_id)
    assert row["synced_to"] == stage.updated(thread)
    assert (row["sync_error"], row["failures"], row["failed_in"], row["failed_at"]) == (None, 0, None, None)


async def test_a_failed_thread_that_is_not_listed_is_asked_for_by_its_id_once(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=60, messages=40, page_rows=30)
    thread = next(t for t in stage.threads()[40:] if t.count() > 21)
    stage.faults.add(Fault("not_found", path=f"{thread.thread_id}/messages"))
    await stage.sync()
    stage.faults.clear()
    stage.graph.calls.clear()
    await stage.sync()
    assert stage.list_calls() == 1
    assert [call.path for call in stage.graph.calls if call.path == thread.thread_id] == [thread.thread_id]
    assert await stage.missing() == []


async def test_a_thread_that_keeps_failing_is_tried_by_its_id_in_every_run_and_read_once_graph_shows_it(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=60, messages=40, page_rows=30)
    thread = next(t for t in stage.threads()[40:] if t.count() > 21)
    stage.faults.add(Fault("not_found", path=thread.thread_id))
    tries = []
    for _ in range(5):
        before = stage.calls(thread.thread_id)
        run = await stage.sync()
        assert run["state"] == "succeeded"
        tries.append(stage.calls(thread.thread_id) - before)
    # at first by its cursor and once more from its newest message; then by id
    assert tries == [2, 1, 1, 1, 1]
    assert (await stage.thread_row(thread.thread_id))["failures"] == 5
    stage.faults.clear()
    await stage.sync()
    assert (await stage.thread_row(thread.thread_id))["sync_error"] is None
    assert await stage.missing() == []


async def test_a_run_tells_how_many_keep_failing_and_which_of_them_it_did_not_try(make_stage: MakeStage) -> None:
    stage = await make_stage()
    run = await stage.sync()
    assert (run["failing_conversations"], run["untried_conversations"], run["error"]) == (0, 0, None)
    gone = [(f"t_gone_{n}", "no") for n in range(ALWAYS_TRIED + 3)]
    async with stage.pool.acquire() as connection:
        for _ in range(9):
            await mark_failed(connection, stage.page.id, run["id"], gone, now=datetime.now(UTC))
        run_id = await enqueue_run(connection, stage.page.id, "incremental", requested_by="schedule")
    await stage.work()
    run = await stage.run(run_id)
    assert (run["state"], run["failed_conversations"]) == ("succeeded", ALWAYS_TRIED)
    assert (run["failing_conversations"], run["untried_conversations"]) == (ALWAYS_TRIED + 3, 3)
    assert (await stage.page_row())["failing_conversations"] == ALWAYS_TRIED + 3
    run = await stage.sync()
    assert (run["failed_conversations"], run["untried_conversations"]) == (ALWAYS_TRIED + 3, 0)
    assert run["error"] == f"{ALWAYS_TRIED + 3} conversations could not be read: tried again next time"
    await stage.do("DELETE FROM conversation_threads WHERE sync_error IS NOT NULL")
    await stage.sync()
    assert (await stage.page_row())["failing_conversations"] == 0


async def test_what_a_failed_run_did_not_come_to_is_not_told_as_failing(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=20, messages=60)
    async with stage.pool.acquire() as connection:
        await mark_failed(connection, stage.page.id, 0, [("t_gone", "no")], now=datetime.now(UTC))
    stage.faults.add(Fault("html", path="/messages"))
    run = await stage.sync()
    assert (run["state"], run["failing_conversations"]) == ("failed", 1)
    assert len(await stage.rows("SELECT * FROM conversation_threads WHERE sync_error IS NOT NULL")) > 1


async def test_a_stale_cursor_reads_the_thread_anew_from_its_newest_message(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, messages=60, behaviour=behaviour(max_limit=25))
    thread = max(stage.threads(), key=lambda t: t.count())
    stage.faults.add(Fault("stale_cursor", path=f"{thread.thread_id}/messages", first=2, times=1))
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    assert await stage.missing() == []
    asked = [call.params.get("after") for call in stage.graph.calls if call.path == f"{thread.thread_id}/messages"]
    assert None in asked[1:]


async def test_cursors_of_a_thread_that_lead_back_give_it_up(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, messages=60)
    thread = long_thread(stage)
    ends: list[str] = []

    def circle(path: str, body: dict[str, Any]) -> None:
        if path.endswith(f"{thread.thread_id}/messages"):
            ends.append(body["paging"]["cursors"]["after"] if "paging" in body else "")
            body["paging"] = {"cursors": {"after": ends[0]}, "next": "https://graph.test/round"}

    stage.between.change = circle
    run = await stage.sync()
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    assert "leads back" in (await stage.thread_row(thread.thread_id))["sync_error"]


async def test_a_graph_that_answers_for_no_thread_is_away_and_the_run_fails(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=20, messages=60)
    stage.faults.add(Fault("html", path="/messages"))
    run = await stage.sync()
    assert run["state"] == "failed"
    assert "HTTP 502" in run["error"]
    assert (await stage.page_row())["watermark"] is None
    assert await stage.rows("SELECT * FROM unfinished_threads") == []
    stage.faults.clear()
    await stage.sync()
    assert await stage.missing() == []


async def test_a_message_page_without_rows_is_the_threads_own_trouble(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=12, messages=40)
    thread = long_thread(stage)

    def empty(path: str, body: dict[str, Any]) -> None:
        if path.endswith(f"{thread.thread_id}/messages"):
            body.clear()

    stage.between.change = empty
    run = await stage.sync()
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    assert (await stage.thread_row(thread.thread_id))["synced_to"] is None


async def test_messages_out_of_order_are_read_on(make_stage: MakeStage) -> None:
    """The last of a page being old proves nothing when the page is mixed."""
    stage = await make_stage(conversations=4, messages=30)
    await stage.sync()
    thread = stage.threads()[0]
    stage.clock.advance(86400)
    stage.say(thread, 30, each_seconds=1)

    def mixed(path: str, body: dict[str, Any]) -> None:
        for node in body["data"] if path.endswith("/conversations") else []:
            nested = node["messages"]["data"]
            if node["id"] == thread.thread_id:
                nested.append({"id": "m_misplaced", "created_time": "2019-01-01T00:00:00+0000"})
                nested.reverse()
                nested.append({"id": "m_misplaced_too", "created_time": "2019-01-01T00:00:00+0000"})

    stage.between.change = mixed
    await stage.sync()
    assert await stage.missing() == []


async def test_without_participants_the_person_is_found_in_the_messages(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=6, messages=30)
    stage.refuse_field("participants")
    run = await stage.sync()
    assert run["state"] == "succeeded"
    assert await stage.missing() == []


async def test_while_nobody_knows_the_person_the_threads_id_stands_in(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=3, messages=30)

    def nobody(path: str, body: dict[str, Any]) -> None:
        for node in body["data"] if path.endswith("/conversations") else []:
            node.pop("participants", None)
            for message in node["messages"]["data"]:
                message.pop("from", None)
                message.pop("to", None)
        if path.endswith("/messages"):
            for message in body["data"]:
                message.pop("from", None)
                message.pop("to", None)

    stage.between.change = nobody
    assert (await stage.sync())["state"] == "succeeded"
    threads = {thread.thread_id for thread in stage.threads()}
    assert {r["psid"] for r in await stage.rows("SELECT psid FROM conversations")} == threads
    assert {r["psid"] for r in await stage.rows("SELECT psid FROM messages")} == threads
    stage.between.change = None
    await stage.sync("full")
    assert await stage.missing() == []
    persons = {thread.psid for thread in stage.threads()}
    assert {r["psid"] for r in await stage.rows("SELECT psid FROM conversations")} == persons
    assert {r["psid"] for r in await stage.rows("SELECT psid FROM conversation_threads")} == persons


async def test_a_backfill_reads_down_to_its_beginning_and_stores_all_that_it_reads(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=40, messages=30)
    since = stage.clock() - timedelta(days=4)
    until = stage.clock() - timedelta(days=2)
    run = await stage.sync("backfill", since=since, until=until)
    assert (run["state"], run["error"]) == ("succeeded", None)
    shown = [m for m in stage.world.true_messages(stage.page.id) if m.in_graph]
    times = {m.mid: datetime.fromtimestamp(m.graph_sent_at_ms // 1000, UTC) for m in shown}
    stored = {r["mid"] for r in await stage.rows("SELECT mid FROM messages")}
    # a conversation that is active has old messages too, so there is no upper bound
    assert stored >= {mid for mid, at in times.items() if at >= since}
    assert run["messages"] == sum(since <= at < until for at in times.values())
    active = {t.thread_id for t in stage.threads() if stage.updated(t) >= since}
    listed = {r["thread_id"] for r in await stage.rows("SELECT thread_id FROM conversation_threads")}
    assert listed == active
    assert len(active) < 40


async def test_a_backfill_that_could_not_read_all_fails_and_says_what_to_do(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=12, messages=60)
    thread = long_thread(stage)
    stage.faults.add(Fault("not_found", path=f"{thread.thread_id}/messages"))
    run = await stage.sync("backfill", since=datetime(2000, 1, 1, tzinfo=UTC))
    assert (run["state"], run["error"]) == (
        "failed",
        "1 conversations could not be read: ask for the backfill again",
    )
    assert (await stage.thread_row(thread.thread_id))["sync_error"] is None


async def test_a_full_run_reads_everything_again(make_stage: MakeStage) -> None:
    stage = await make_stage(conversations=12, messages=30)
    await stage.sync()
    await stage.do("DELETE FROM messages WHERE mid IN (SELECT mid FROM messages ORDER BY mid LIMIT 50)")
    assert len(await stage.missing()) > 0
    run = await stage.sync()
    assert len(await stage.missing()) > 0
    run = await stage.sync("full")
    assert run["state"] == "succeeded"
    assert await stage.missing() == []


@pytest.mark.parametrize("since", ["ignored", "honoured", "refused", "lying"])
async def test_it_does_not_matter_what_graph_makes_of_since(make_stage: MakeStage, since: Any) -> None:
    stage = await make_stage(conversations=60, behaviour=behaviour(since=since))
    await stage.sync()
    stage.clock.advance(3600)
    for thread in stage.threads()[5:30:3]:
        stage.say(thread, 2)
    await stage.sync()
    assert await stage.missing() == []


async def test_a_message_too_heavy_for_its_attachments_is_stored_without_and_read_again_next_time(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(conversations=12, messages=60)
    thread = long_thread(stage)
    # all six steps down, then the least of what there is to ask for
    stage.faults.add(Fault("too_heavy", path=f"{thread.thread_id}/messages", times=6))
    run = await stage.sync()
    assert (run["state"], run["failed_conversations"]) == ("succeeded", 1)
    row = await stage.thread_row(thread.thread_id)
    assert row["synced_to"] is None
    assert row["sync_error"] == "some of its messages are too heavy for Graph: read without attachments"
    stored = {r["mid"] for r in await stage.rows("SELECT mid FROM messages")}
    assert stored >= in_thread(stage, thread)
    run = await stage.sync()
    assert (run["state"], run["error"]) == ("succeeded", None)
    row = await stage.thread_row(thread.thread_id)
    assert (row["synced_to"], row["sync_error"]) == (stage.updated(thread), None)
    assert await stage.missing() == []
