"""Graph's limits: how many calls are allowed, and the headers that tell how near they are (Graph sheet, section 3)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from simulator.graph_errors import throttled, too_many_calls

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is enforced. `None` for a limit that is not.

    `calls_per_second` per Page, with room for `burst` calls at once; `daily_calls` per Page in a rolling 24 hours, or
    `daily_calls_per_person` for each person who has a conversation with it (Meta's is 200). While a Page is throttled,
    each further call adds `penalty_minutes` to the time until it is let in again.
    """

    calls_per_second: float | None = 2.0
    burst: int = 4
    daily_calls: int | None = None
    daily_calls_per_person: int | None = None
    penalty_minutes: float = 1.0
    header_from_percent: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            ValueError: it names the limit.

        """
        if self.calls_per_second is not None and not 0 < self.calls_per_second < math.inf:
            raise ValueError(f"calls_per_second must be more than 0, not {self.calls_per_second}")
        for name in ("burst", "daily_calls", "daily_calls_per_person"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass(slots=True)
class _Used:
    tokens: float
    refilled: float
    hours: deque[tuple[float, int]] = field(default_factory=deque)  # (when its bucket began, calls in it)
    throttled_until: float = 0.0


class Usage:
    """Counts the calls of each Page. Times are epoch seconds; `people` tells how many there are to a Page."""

    def __init__(self, limits: Limits | None, people: Callable[[str], int]) -> None:
        self.limits, self._people = limits, people
        self._pages: dict[str, _Used] = {}

    def count(self, page_id: str, now: float, *, calls: int = 1, is_conversations: bool) -> None:
        """Count a call, or as many as it stands for (`ids=` of N are N).

        Raises:
            GraphFailure: 613, too many a second; 80006, the day's calls are used up.

        """
        limits = self.limits
        if limits is None:
            return
        used = self._pages.setdefault(page_id, _Used(float(limits.burst), now))
        self._count_hours(used, now, calls)
        if now < used.throttled_until:
            # Meta: each call made while throttled adds to the count (3.2)
            used.throttled_until += limits.penalty_minutes * 60 * calls
            raise throttled()
        daily = self._daily(page_id)
        if daily is not None and sum(n for _, n in used.hours) > daily:
            used.throttled_until = max(used.hours[0][0] + _DAY, now + 60)
            raise throttled()
        if limits.calls_per_second is not None and is_conversations:
            used.tokens = min(limits.burst, used.tokens + max(0.0, now - used.refilled) * limits.calls_per_second)
            used.refilled = now
            if used.tokens < 1:
                raise too_many_calls()
            used.tokens -= calls

    def _daily(self, page_id: str) -> int | None:
        limits = self.limits
        if limits is None or limits.daily_calls is not None or limits.daily_calls_per_person is None:
            return limits.daily_calls if limits is not None else None
        return limits.daily_calls_per_person * max(1, self._people(page_id))

    @staticmethod
    def _count_hours(used: _Used, now: float, calls: int) -> None:
        bucket = now // 600 * 600
        if not used.hours or used.hours[-1][0] != bucket:
            used.hours.append((bucket, 0))
        used.hours[-1] = (bucket, used.hours[-1][1] + calls)
        while used.hours[0][0] < now - _DAY:
            used.hours.popleft()

    def headers(self, page_id: str, now: float) -> dict[str, str]:
        """Return the usage headers: percent; none until enough calls were made."""
        used, limits, daily = self._pages.get(page_id), self.limits, self._daily(page_id)
        if used is None or limits is None or daily is None:
            return {}
        percent = sum(n for _, n in used.hours) * 100 / daily
        if percent < limits.header_from_percent:
            return {}
        regain = max(0, math.ceil((used.throttled_until - now) / 60))
        entry = {
            "type": "messenger",
            "call_count": int(percent),
            "total_cputime": int(percent * 0.6),
            "total_time": int(percent * 0.7),
            "estimated_time_to_regain_access": regain,
        }
        return {"x-business-use-case-usage": orjson.dumps({page_id: [entry]}).decode()}
