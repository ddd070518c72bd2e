"""The index of the words in messages, kept short of news: a webhook would have to merge them otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.word_index import merge_new_words

if TYPE_CHECKING:
    from sql.pool import Pool

EVERY_SECONDS = 15.0  # merging much at once costs less than little by little


class Words:
    """Merges what is new."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self) -> dict[str, int]:
        """Merge it; returns how many pages of news there were."""
        async with self._pool.acquire() as connection:
            return {"pages": await merge_new_words(connection)}
