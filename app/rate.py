"""How often each key may ask: in the mean so many times a second, over the last ten seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_SECONDS = 10.0


class Rate:
    """Counts requests by who makes them, one number each. `per_second` 0: without limit."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._paid_until: dict[str, float] = {}

    def wait(self, who: str) -> float:
        """Count a request; returns 0, or for one too many, which does not count, how many seconds to wait."""
        if self._per_second <= 0:
            return 0.0
        now = self._clock()
        paid_until = max(self._paid_until.get(who, now), now) + 1 / self._per_second
        over = paid_until - now - max(BURST_SECONDS, 1 / self._per_second)
        if over > 1e-9:
            return over
        self._paid_until[who] = paid_until
        return 0.0
