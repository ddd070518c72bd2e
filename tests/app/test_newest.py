"""Looking for the newest change, for many who wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app import newest as newest_module
from app.newest import LOOK_EVERY_SECONDS, Newest
from sql.changes import BEGINNING, Change, newest_place, note_changes
from tests.horizon import all_is_told

if TYPE_CHECKING:
    import pytest

    from sql.changes import Place
    from sql.pool import Pool
    from sql.upsert import Connection


async def note_a_change(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await note_changes(connection, [Change("message", "101", "m", None)])
    await all_is_told(pool)


async def test_two_hundred_who_wait_ask_the_database_once_a_while(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    now = [1000.0]

    async def count(connection: Connection) -> Place:
        asked.append(now[0])
        return await newest_place(connection)

    monkeypatch.setattr(newest_module, "newest_place", count)
    newest = Newest(pool, clock=lambda: now[0])
    for _ in range(3):
        assert not any(await asyncio.gather(*(newest.is_beyond(BEGINNING) for _ in range(200))))
        now[0] += 2 * LOOK_EVERY_SECONDS
    assert len(asked) == 3
    await note_a_change(pool)
    assert all(await asyncio.gather(*(newest.is_beyond(BEGINNING) for _ in range(200))))
    assert len(asked) == 4
