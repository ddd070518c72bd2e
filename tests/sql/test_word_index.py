"""New words are found at once, and merged into their index by the side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sql.conversation_lists import Wanted, list_conversations
from sql.word_index import merge_new_words
from tests.sql.doors import delivered, item, write

if TYPE_CHECKING:
    from sql.pool import Pool
    from sql.upsert import Connection


async def tell(connection: Connection, person: str, text: str) -> None:
    await write(connection, delivered(item("message", {"mid": f"m_{person}", "text": text}, person=person)))


async def found(connection: Connection, words: str) -> list[str]:
    rows, _ = await list_conversations(connection, Wanted(search=words), after=None, limit=9)
    return [row["psid"] for row in rows]


@pytest.mark.parametrize("tables", ["plain", "hash-partitioned"])
async def test_words_are_found_before_and_after_they_are_merged(connection: Connection) -> None:
    await tell(connection, "p1", "something blue")
    assert await found(connection, "blue") == ["p1"]
    assert await merge_new_words(connection) > 0
    assert await merge_new_words(connection) == 0
    assert await found(connection, "blue") == ["p1"]


async def test_one_process_merges_and_others_go_on(pool: Pool) -> None:
    async with pool.acquire() as one, pool.acquire() as other:
        await tell(one, "p1", "something blue")
        async with one.transaction():
            assert await merge_new_words(one) > 0
            await tell(other, "p2", "something blue")
            assert await merge_new_words(other) == 0
            assert await found(other, "blue") == ["p2", "p1"]
        assert await merge_new_words(other) > 0
