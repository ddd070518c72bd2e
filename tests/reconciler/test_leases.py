"""Who holds a Page may write, nobody else; who holds it long gives way."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from sql.cooldowns import APP, page_scope
from sql.errors import StaleLease
from sql.leases import LEASE, put_off_run, release_page, renew_lease
from sql.pages import remove_page
from sql.sync_runs import cancel_runs, enqueue_run
from tests.reconciler.runs import NOW, ask, claim, cool, end, expire, row, step

if TYPE_CHECKING:
    from sql.upsert import Connection

pytestmark = pytest.mark.usefixtures("two_pages")


# -- fences ---------------------------------------------------------------------------------------------------


async def test_who_was_stopped_past_the_lease_writes_nothing(connection: Connection) -> None:
    await ask(connection)
    stopped = await claim(connection, "a")
    await expire(connection)
    other = await claim(connection, "b")
    with pytest.raises(StaleLease):
        await renew_lease(connection, stopped)
    with pytest.raises(StaleLease):
        await step(connection, stopped, messages=7)
    with pytest.raises(StaleLease):
        await end(connection, stopped)
    await put_off_run(connection, stopped, "late", api_calls=9)
    await release_page(connection, stopped, reason="late")
    await renew_lease(connection, other)
    found = await row(connection, other.id)
    assert (found["state"], found["holder"], found["messages"], found["api_calls"], found["error"]) == (
        "running",
        "b",
        0,
        0,
        None,
    )
    assert await connection.fetchval("SELECT lease_holder FROM facebook_pages WHERE page_id = '1'") == "b"


async def test_the_same_worker_under_an_earlier_term_is_a_stranger(connection: Connection) -> None:
    await ask(connection)
    before = await claim(connection, "a")
    await expire(connection)
    await claim(connection, "a")
    with pytest.raises(StaleLease):
        await step(connection, before)


async def test_a_renewed_lease_lasts_by_postgres_clock(connection: Connection) -> None:
    await ask(connection)
    run = await claim(connection)
    await expire(connection)
    await renew_lease(connection, run)
    left = await connection.fetchval("SELECT lease_until - now() FROM facebook_pages WHERE page_id = '1'")
    assert LEASE - timedelta(seconds=5) < left <= LEASE


async def test_a_cancelled_run_can_neither_step_nor_end_nor_be_renewed_and_its_page_is_let_go(
    connection: Connection,
) -> None:
    run_id = await ask(connection)
    run = await claim(connection)
    assert await cancel_runs(connection, [run_id]) == 1
    assert await cancel_runs(connection, [run_id]) == 0
    with pytest.raises(StaleLease):
        await step(connection, run)
    with pytest.raises(StaleLease):
        await renew_lease(connection, run)
    with pytest.raises(StaleLease):
        await end(connection, run)
    assert (await row(connection, run_id))["error"] == "cancelled by an operator"
    assert await connection.fetchval("SELECT lease_holder FROM facebook_pages WHERE page_id = '1'") is None


async def test_a_removed_page_stops_its_run(connection: Connection) -> None:
    run_id = await ask(connection)
    run = await claim(connection)
    assert await remove_page(connection, "1")
    with pytest.raises(StaleLease):
        await step(connection, run)
    found = await row(connection, run_id)
    assert (found["state"], found["error"]) == ("cancelled", "the Page was removed")


# -- giving way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "is_deep", "gives_way"),
    [
        ("incremental", False, False),
        ("incremental", True, True),
        ("full", False, False),
        ("full", True, True),
        ("audit", False, True),
        ("backfill", False, True),
    ],
)
async def test_long_runs_give_way_to_an_incremental_of_their_page(
    connection: Connection, kind: str, *, is_deep: bool, gives_way: bool
) -> None:
    since = NOW if kind == "backfill" else None
    await enqueue_run(connection, "1", kind, requested_by="api", since=since)
    run = await claim(connection)
    assert await step(connection, run, is_deep=is_deep) is False
    await ask(connection, "full", "2")
    assert await step(connection, run, is_deep=is_deep) is False
    await ask(connection)
    assert await step(connection, run, is_deep=is_deep) is gives_way


async def test_long_runs_give_way_to_another_pages_incremental_only_when_there_is_no_free_place(
    connection: Connection,
) -> None:
    await ask(connection, "audit")
    run = await claim(connection)
    await ask(connection, page_id="2")
    assert await step(connection, run, is_crowded=False) is False
    assert await step(connection, run, is_crowded=True) is True


async def test_nobody_gives_way_to_what_cannot_be_claimed(connection: Connection) -> None:
    await ask(connection, "audit")
    run = await claim(connection)
    await ask(connection, page_id="2")
    await cool(connection, page_scope("2"))
    assert await step(connection, run, is_crowded=True) is False
    await connection.execute("DELETE FROM cooldowns")
    await claim(connection)
    await ask(connection, page_id="2")
    assert await step(connection, run, is_crowded=True) is False


async def test_everybody_stops_when_the_app_cools_down(connection: Connection) -> None:
    await ask(connection)
    run = await claim(connection)
    await cool(connection, page_scope("2"))
    assert await step(connection, run) is False
    await cool(connection, APP)
    assert await step(connection, run) is True
