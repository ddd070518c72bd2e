"""Looking for what is new, for many who wait: who need not ask is not woken, and nobody misses anything."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from app import newest as newest_module
from app.newest import LOOK_EVERY_SECONDS, Newest
from sql import changes as changes_module
from sql.changes import BEGINNING, Change, feed, keep_changes, newest_place, note_changes, read_changes
from tests.horizon import LONGEST_SECONDS, all_is_told

if TYPE_CHECKING:
    from uuid import UUID

    from sql.changes import Place
    from sql.pool import Pool
    from sql.upsert import Connection

BUSY, QUIET = "101", "202"


async def note_a_change(pool: Pool, page_id: str = BUSY, mid: str = "m") -> None:
    async with pool.acquire() as connection:
        await note_changes(connection, [Change("message", page_id, mid, None)])
    await all_is_told(pool)


async def epoch_of(pool: Pool) -> UUID:
    async with pool.acquire() as connection:
        return (await feed(connection)).epoch


async def end_of(pool: Pool) -> Place:
    """The place of who has read all there is."""
    async with pool.acquire() as connection:
        return (await read_changes(connection, BEGINNING, limit=100_000)).place


async def test_two_hundred_who_wait_ask_the_database_once_a_while(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    now = [1000.0]

    async def count(connection: Connection) -> Place:
        asked.append(now[0])
        return await newest_place(connection)

    monkeypatch.setattr(newest_module, "newest_place", count)
    newest, epoch = Newest(pool, clock=lambda: now[0]), await epoch_of(pool)

    async def ask() -> set[bool]:
        answers = await asyncio.gather(*(newest.quiet_until(epoch, BEGINNING, None) for _ in range(200)))
        return {answer is None for answer in answers}

    await ask()
    for _ in range(3):
        now[0] += 2 * LOOK_EVERY_SECONDS
        assert await ask() == {False}
    assert len(asked) == 3
    await note_a_change(pool)
    now[0] += 2 * LOOK_EVERY_SECONDS
    assert await ask() == {True}
    assert len(asked) == 4


async def test_a_change_is_for_who_reads_its_page_or_all_and_others_are_moved_beyond_it(pool: Pool) -> None:
    newest, epoch = Newest(pool, every=0), await epoch_of(pool)
    start = await end_of(pool)
    for page_id in (BUSY, QUIET, None):
        assert await newest.quiet_until(epoch, start, page_id) is not None
    await note_a_change(pool)
    quiet_until = await newest.quiet_until(epoch, start, QUIET)
    assert quiet_until is not None
    async with pool.acquire() as connection:
        assert quiet_until > await newest_place(connection)
    assert await newest.quiet_until(epoch, start, BUSY) is None
    assert await newest.quiet_until(epoch, start, None) is None
    end = await end_of(pool)
    for page_id in (BUSY, QUIET, None):
        assert await newest.quiet_until(epoch, end, page_id) is not None
    await note_a_change(pool, QUIET)
    assert await newest.quiet_until(epoch, end, BUSY) is not None
    await note_a_change(pool)
    assert await newest.quiet_until(epoch, end, BUSY) is None
    for place in (end, quiet_until):  # what others saw before is not forgotten
        assert await newest.quiet_until(epoch, place, QUIET) is None


async def test_who_stands_before_more_than_is_looked_through_reads_for_itself(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, epoch = Newest(pool, every=0), await epoch_of(pool)
    start = await end_of(pool)
    await newest.quiet_until(epoch, start, QUIET)
    monkeypatch.setattr(changes_module, "SCANNED_AT_ONCE", 2)
    for n in range(3):
        await note_a_change(pool, BUSY, f"m_{n}")
    assert await newest.quiet_until(epoch, start, QUIET) is None
    assert await newest.quiet_until(epoch, await end_of(pool), QUIET) is not None


async def test_what_is_dropped_before_anybody_looked_is_not_called_quiet(pool: Pool) -> None:
    newest, epoch = Newest(pool, every=0), await epoch_of(pool)
    start = await end_of(pool)
    await newest.quiet_until(epoch, start, QUIET)
    await note_a_change(pool, QUIET)
    later = datetime.now(UTC).date() + timedelta(days=20)
    async with pool.acquire() as connection, asyncio.timeout(LONGEST_SECONDS):
        while not await keep_changes(connection, today=later, retention_days=14):
            pass
    await note_a_change(pool)
    assert await newest.quiet_until(epoch, start, QUIET) is None


async def test_after_a_restore_readers_of_the_old_feed_read_and_those_of_the_new_one_wait(pool: Pool) -> None:
    newest, old = Newest(pool, every=0), await epoch_of(pool)
    await note_a_change(pool)
    end = await end_of(pool)
    assert await newest.quiet_until(old, end, None) is not None
    newest._seen = newest._seen._replace(until=(2**60, 0))  # type: ignore[union-attr] # far beyond what was restored
    await pool.execute("UPDATE changes_feed SET identity = 'another'")
    new = await epoch_of(pool)
    assert new != old
    end = await end_of(pool)
    await note_a_change(pool)
    assert await newest.quiet_until(new, end, None) is None
    end = await end_of(pool)
    assert await newest.quiet_until(new, end, None) is not None
    assert await newest.quiet_until(old, end, None) is None
    await note_a_change(pool)
    for _ in range(2):
        assert await newest.quiet_until(new, end, None) is None
        assert await newest.quiet_until(old, end, None) is None


@pytest.mark.parametrize("seed", range(4))
async def test_readers_that_ask_only_when_told_to_miss_nothing_beside_many_writers(
    pool: Pool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "SCANNED_AT_ONCE", 12)
    async with pool.acquire() as connection:
        await keep_changes(connection, today=datetime.now(UTC).date(), retention_days=14)
    dice = Random(seed)
    newest, epoch = Newest(pool, every=0), await epoch_of(pool)
    pages = (BUSY, QUIET, None)
    places: dict[str | None, Place] = dict.fromkeys(pages, BEGINNING)
    read: dict[str | None, list[str]] = {page_id: [] for page_id in pages}
    written: list[tuple[str, str]] = []
    open_ones: dict[int, tuple[Any, Any, list[tuple[str, str]]]] = {}

    async def go_on(page_id: str | None) -> bool:
        quiet_until = await newest.quiet_until(epoch, places[page_id], page_id)
        if quiet_until is not None:
            places[page_id] = quiet_until
            return False
        async with pool.acquire() as connection:
            told = await read_changes(connection, places[page_id], limit=5, page_id=page_id)
        places[page_id] = told.place
        read[page_id] += [one.change.key for one in told.changes]
        return True

    for n in range(120):
        slot, what = dice.randrange(5), dice.random()
        if what < 0.4:
            await go_on(dice.choice(pages))
        elif slot not in open_ones:
            connection = await pool.acquire()
            whole = connection.transaction()
            await whole.start()
            open_ones[slot] = (connection, whole, [])
        elif what < 0.75:
            of = BUSY if dice.random() < 0.8 else QUIET
            await note_changes(open_ones[slot][0], [Change("message", of, f"m_{n}", None)])
            open_ones[slot][2].append((of, f"m_{n}"))
        else:
            connection, whole, keys = open_ones.pop(slot)
            await whole.commit()
            written += keys
            await pool.release(connection)
    for connection, whole, keys in open_ones.values():
        await whole.commit()
        written += keys
        await pool.release(connection)
    await all_is_told(pool)
    for page_id in pages:
        while await go_on(page_id):
            pass
        assert sorted(read[page_id]) == sorted(key for page, key in written if page_id in {None, page})
