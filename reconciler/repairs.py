"""Decides, once that can be known, whether what syncs brought had been missed by webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.repairs import decide_brought

if TYPE_CHECKING:
    from collections.abc import Callable

    from sql.pool import Pool

EVERY_SECONDS = 15.0


class Repairs:
    """`on_missed` is told how many messages turned out to be missed and repaired."""

    def __init__(self, pool: Pool, *, on_missed: Callable[[int], None]) -> None:
        self._pool, self._on_missed = pool, on_missed

    async def run_once(self) -> dict[str, int]:
        """Decide what can be decided; returns how many messages were missed."""
        async with self._pool.acquire() as connection, connection.transaction():
            missed = await decide_brought(connection)
        self._on_missed(missed)
        return {"missed": missed}
