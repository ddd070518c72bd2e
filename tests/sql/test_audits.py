"""When audits are due, what they may cost, who joins them, and how much of a Page they cover."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sql.audits import NIGHT, SMALLEST_BUDGET, UNKNOWN_BUDGET, Coverage, coverage_of, enqueue_audits
from sql.leases import claim_run
from sql.pages import put_page
from sql.sync_runs import enqueue_run

if TYPE_CHECKING:
    import asyncpg

    from sql.upsert import Connection

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAGES = [str(n) for n in range(1, 41)]


@pytest.fixture(autouse=True)
async def pages(connection: Connection) -> None:
    for page_id in PAGES:
        await put_page(connection, page_id, "sealed", None, now=NOW)


async def runs(connection: Connection) -> list[asyncpg.Record]:
    return await connection.fetch("SELECT * FROM sync_runs ORDER BY id")


async def due(connection: Connection, page_id: str, ago: timedelta = timedelta(minutes=1)) -> None:
    await connection.execute(
        "UPDATE facebook_pages SET next_audit_at = now() - $2::interval WHERE page_id = $1", page_id, ago
    )


async def next_times(connection: Connection) -> dict[str, datetime]:
    return {r["page_id"]: r["next_audit_at"] for r in await connection.fetch("SELECT * FROM facebook_pages")}


# -- when -----------------------------------------------------------------------------------------------------


async def test_pages_get_their_moment_of_the_coming_night_spread_over_it(connection: Connection) -> None:
    assert await enqueue_audits(connection, share=0.25) == 0
    now = await connection.fetchval("SELECT now()")
    times = await next_times(connection)
    assert all(now < at <= now + timedelta(hours=24) for at in times.values())
    into_the_night = sorted(at - at.replace(hour=0, minute=0, second=0, microsecond=0) for at in times.values())
    assert all(timedelta(0) <= moment < NIGHT for moment in into_the_night)
    assert len(set(into_the_night)) == len(PAGES)
    assert into_the_night[10] < NIGHT / 2 < into_the_night[30]


async def test_a_page_that_is_due_gets_one_audit_and_the_next_one_a_night_later(connection: Connection) -> None:
    await enqueue_audits(connection, share=0.25)
    moment = (await next_times(connection))["7"]
    await due(connection, "7")
    assert await enqueue_audits(connection, share=0.25) == 1
    assert await enqueue_audits(connection, share=0.25) == 0
    [run] = await runs(connection)
    assert (run["page_id"], run["kind"], run["requested_by"], run["state"]) == ("7", "audit", "schedule", "queued")
    assert (await next_times(connection))["7"] == moment


async def test_a_night_that_passed_while_nobody_worked_is_left_out(connection: Connection) -> None:
    await due(connection, "7", NIGHT + timedelta(minutes=1))
    assert await enqueue_audits(connection, share=0.25) == 0
    assert (await next_times(connection))["7"] > await connection.fetchval("SELECT now()")


async def test_an_audit_that_goes_on_is_enough(connection: Connection) -> None:
    await enqueue_run(connection, "7", "audit", requested_by="api")
    await due(connection, "7")
    assert await enqueue_audits(connection, share=0.25) == 0
    assert await claim_run(connection, "worker") is not None
    await due(connection, "7")
    assert await enqueue_audits(connection, share=0.25) == 0


@pytest.mark.parametrize("state", ["paused", "needs_reauth", "removed"])
async def test_only_active_pages_are_audited(connection: Connection, state: str) -> None:
    await connection.execute("UPDATE facebook_pages SET state = $1 WHERE page_id = '7'", state)
    await due(connection, "7")
    assert await enqueue_audits(connection, share=0.25) == 0


# -- how much -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("daily", "share", "budget"),
    [
        (2000, 0.25, 500),
        (2000, 1.0, 2000),
        (10, 0.25, SMALLEST_BUDGET),
        (None, 0.25, UNKNOWN_BUDGET),
    ],
)
async def test_it_may_make_its_share_of_the_days_calls(
    connection: Connection, daily: int | None, share: float, budget: int
) -> None:
    await connection.execute("UPDATE facebook_pages SET daily_call_budget = $1", daily)
    await due(connection, "7")
    await enqueue_audits(connection, share=share)
    [run] = await runs(connection)
    assert run["call_budget"] == budget


# -- who joins it ---------------------------------------------------------------------------------------------


async def rolling(connection: Connection) -> int:
    await due(connection, "7")
    await enqueue_audits(connection, share=0.25)
    [run] = await runs(connection)
    return int(run["id"])


@pytest.mark.parametrize("kind", ["incremental", "full"])
async def test_who_asks_for_a_sync_does_not_join_a_rolling_audit(connection: Connection, kind: str) -> None:
    run_id = await rolling(connection)
    assert await enqueue_run(connection, "7", kind, requested_by="api") != run_id


async def test_who_asks_for_an_audit_joins_a_queued_rolling_one_which_then_does_it_all(
    connection: Connection,
) -> None:
    run_id = await rolling(connection)
    assert await enqueue_run(connection, "7", "audit", requested_by="api") == run_id
    [run] = await runs(connection)
    assert run["call_budget"] is None


async def test_beside_a_rolling_audit_that_has_begun_another_one_is_queued(connection: Connection) -> None:
    run_id = await rolling(connection)
    run = await claim_run(connection, "worker")
    assert run is not None
    assert run.is_partial
    assert await enqueue_run(connection, "7", "audit", requested_by="api") != run_id
    assert [r["call_budget"] for r in await runs(connection)] == [UNKNOWN_BUDGET, None]


# -- coverage -------------------------------------------------------------------------------------------------


async def conversation(
    connection: Connection, psid: str, *threads: tuple[str, str | None, float | None], **columns: Any
) -> None:
    """A conversation with its threads: (id, audit_state, days since)."""
    values = {"page_id": "1", "psid": psid, "platform": "messenger", "last_message_at": NOW, **columns}
    values |= {"created_at": NOW, "updated_at": NOW}
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO conversations ({', '.join(values)}) VALUES ({places})", *values.values())
    for thread_id, state, days in threads:
        await connection.execute(
            """
            INSERT INTO conversation_threads (page_id, thread_id, psid, created_at, audit_state, audited_at)
            VALUES ('1', $1, $2, $3, $4, now() - $5 * interval '1 day')
            """,
            thread_id,
            psid,
            NOW,
            state,
            days,
        )


async def coverage(connection: Connection) -> Coverage:
    found = await coverage_of(connection, ["1", "2"])
    assert found["2"] == Coverage()
    return found["1"]


async def test_a_page_without_conversations_has_no_share(connection: Connection) -> None:
    assert (await coverage(connection)).share is None


async def test_coverage_counts_what_was_lately_found_to_be_right_or_made_right(connection: Connection) -> None:
    await conversation(connection, "a", ("t_a", "verified", 1))
    await conversation(connection, "b", ("t_b", "repaired", 6.9))
    await conversation(connection, "c", ("t_c", "verified", 7.1))
    await conversation(connection, "d", ("t_d", "unverifiable", 1))
    await conversation(connection, "e", ("t_e", None, None))
    await conversation(connection, "f")  # only webhooks have told of it
    found = await coverage(connection)
    assert found[:4] == (6, 2, 1, 2)
    assert found.share == round(2 / 6, 4)
    assert found.oldest_audited_at is not None
    age = await connection.fetchval("SELECT now() - $1::timestamptz", found.oldest_audited_at)
    assert timedelta(days=7) < age < timedelta(days=7.2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("t_2", "verified", 1), (1, 1, 0, 0)),
        (("t_2", "unverifiable", 1), (1, 0, 1, 0)),
        (("t_2", "verified", 9), (1, 0, 0, 0)),
        (("t_2", None, None), (1, 0, 0, 1)),
    ],
)
async def test_a_conversation_of_two_threads_is_verified_when_both_are(
    connection: Connection, other: tuple[str, str | None, float | None], expected: tuple[int, ...]
) -> None:
    await conversation(connection, "a", ("t_1", "verified", 1), other)
    assert (await coverage(connection))[:4] == expected


async def test_what_graph_does_not_list_for_messenger_is_not_counted(connection: Connection) -> None:
    await conversation(connection, "a", ("t_a", "verified", 1))
    await conversation(connection, "b", platform="instagram")
    await conversation(connection, "c", last_message_at=None)
    assert (await coverage(connection)).share == 1.0
