"""How many calls a day a Page is good for, and how far apart its syncs must then be. Pure: no call, no database.

Meta allows 200 calls for each person whom the Page can message, in any 24 hours, and tells how much of that is used in
percent, never in calls (Graph sheet, 3.1 and 3.2). Beside the calls that we counted, the percentage gives the budget.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

SMALLEST = 200  # of a Page that can message one person
UNTIL_LEARNT = 1_000  # of a Page that can message five: few have less, and those are told so soon
SHARE = 0.75  # for the schedule; the rest is for audits, backfills, and whoever asks for a sync
ENOUGH_CALLS = 50  # before them a percentage may come from what others called
TELLING_PERCENT = 10.0  # from here on a percentage is exact to a tenth; below, it only tells what is there at least
# what is left may be used up in so long: the fewer are left, the slower, so that they never are
WITHIN = timedelta(hours=6)
LONGEST_PER_CALL = timedelta(hours=1)


class Budget(NamedTuple):
    """A Page's calls of any 24 hours: how many it is good for, how many were made, and Meta's own percentage of it.

    `used` counts every call once the budget is learnt, and those of incremental syncs until then: a first load may need
    more calls than what is assumed, and shows by succeeding that there are more. `percent` is 0 when Meta tells none.
    """

    calls: int = UNTIL_LEARNT
    used: int = 0
    percent: float = 0.0
    is_learnt: bool = False

    @property
    def left(self) -> float:
        """Calls that the schedule may still make."""
        return self.calls * SHARE - max(self.used, self.calls * self.percent / 100)

    def apart(self, cost: float) -> timedelta:
        """How far apart syncs of `cost` calls must be: the less is left, the farther."""
        longest = LONGEST_PER_CALL * cost
        return min(WITHIN * (cost / self.left), longest) if self.left >= cost else longest


def learnt(known: int | None, calls: int, percent: float) -> int | None:
    """The budget as Meta's percentage tells it after `calls` of 24 hours; `known` while it tells nothing new.

    Meta's percentage is a whole number, rounded down: what comes out is never more than the real budget.
    """
    if percent <= 0 or calls < ENOUGH_CALLS:
        return known
    least = max(int(calls * 100 / (int(percent) + 1)), SMALLEST)
    return least if percent >= TELLING_PERCENT else max(least, known or 0)
