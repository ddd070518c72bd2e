"""A few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

Item = TypeVar("Item")


async def in_parallel(
    items: Iterable[Item], do: Callable[[Item], Awaitable[None]], *, at_a_time: int, stop: Callable[[], bool]
) -> None:
    """Do all items, `at_a_time` at once, until all are done or `stop` says so: what was begun is then ended.

    Raises:
        the first error of `do`; what else runs is then cancelled.

    """
    waiting = deque(items)

    async def do_some() -> None:
        while waiting and not stop():
            await do(waiting.popleft())

    tasks = [asyncio.create_task(do_some()) for _ in range(min(at_a_time, len(waiting)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
