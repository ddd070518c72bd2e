"""Deadlines of many waits of one length, with one timer for all: one each costs as much as a webhook's signature."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting(Protocol):
    """Something that ends, or has to be ended."""

    def done(self) -> bool:
        """Whether it has ended."""


W = TypeVar("W", bound=Waiting)


class Deadlines(Generic[W]):
    """Calls `expire` with whatever is not done by its deadline, a `time.monotonic()`.

    For waits of one length: what is added later is due later, and one that is due a moment earlier waits for those
    before it.
    """

    def __init__(self, expire: Callable[[W], None]) -> None:
        self._expire = expire
        self._waits: deque[tuple[float, W]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: float, wait: W) -> None:
        """Watch over a wait."""
        waits = self._waits
        while waits and waits[0][1].done():
            waits.popleft()
        waits.append((deadline, wait))
        if self._timer is None:
            self._arm()

    def expire_first(self, due_by: float = math.inf) -> bool:
        """Call `expire` with what is due first, before it is; False when nothing waits that is due by then."""
        while self._waits:
            deadline, wait = self._waits[0]
            if not wait.done():
                if deadline > due_by:
                    return False
                self._waits.popleft()
                self._expire(wait)
                return True
            self._waits.popleft()
        return False

    def _arm(self) -> None:
        due_in = max(self._waits[0][0] - time.monotonic(), 0)
        self._timer = asyncio.get_running_loop().call_later(due_in, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._waits:
            deadline, wait = self._waits[0]
            if not wait.done():
                if deadline > now:
                    self._arm()
                    return
                self._expire(wait)
            self._waits.popleft()
