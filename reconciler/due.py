"""When a Page is to be synced next. Pure: everything that it depends on is an argument.

Each Page has its own interval. It begins at the configured one (`base`); a run that repaired something halves it, one
that repaired nothing lengthens it by half; silent webhooks keep it short; and the Page's budget of calls comes before
all of these. Pages keep out of each other's way by their phase, a place within the interval that is their own for ever:
however many of them were synced at one moment, by a restart or by a sync of all, the next time they are apart again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from reconciler.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LONGER, SHORTER = 1.5, 0.5
LONGEST = timedelta(hours=1)
LONGEST_OF_BASE = 8
SHORTEST = timedelta(seconds=60)
SHORTEST_OF_BASE = 0.2
JITTER = 0.1  # of the interval
PER_PAGE = timedelta(seconds=0.2)  # how far apart Pages are that all became due at once
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NONE = timedelta(0)


class Facts(NamedTuple):
    """What a Page's next due time depends on.

    `interval` is what it was, None before the first run has ended. `has_repaired` tells of the run that has just ended,
    None when it tells nothing: it failed. `cost` is how many calls a sync of the Page makes. `at_least` is how long to
    wait in any case.
    """

    page_id: str
    base: timedelta
    interval: timedelta | None = None
    has_repaired: bool | None = None
    is_silent: bool = False
    budget: Budget = Budget()
    cost: float = 1.0
    at_least: timedelta = _NONE


class Due(NamedTuple):
    """When a Page is due, and its interval from now on."""

    at: datetime
    interval: timedelta


def shortest(base: timedelta) -> timedelta:
    """No Page's interval is shorter."""
    return min(base, max(base * SHORTEST_OF_BASE, SHORTEST))


def longest(base: timedelta) -> timedelta:
    """No Page's interval is longer, but for its budget."""
    return max(base, min(base * LONGEST_OF_BASE, LONGEST))


def next_due(facts: Facts, *, now: datetime, jitter: float) -> Due:
    """Tell when a Page is due after a run that ended `now`; `jitter` is a number in [0, 1), by chance.

    It is due between about half an interval and a whole one from now.
    """
    interval = _interval(facts)
    # the last of the Page's own places within reach; two an interval, so that none is run again at once
    step = max(interval / (1 + JITTER) / 2, timedelta.resolution)
    since_place = (now - _EPOCH - step * phase(facts.page_id)) % step
    a_little = 2 * step * JITTER * jitter
    return Due(now + max(2 * step - since_place, facts.at_least) + a_little, interval)


def _interval(facts: Facts) -> timedelta:
    base = facts.base
    interval = facts.interval if facts.interval is not None else base
    if facts.has_repaired:
        interval = min(interval, base) * SHORTER
    elif facts.has_repaired is False and facts.interval is not None:
        interval *= LONGER
    if facts.is_silent:
        interval = min(interval, base * SHORTER)
    interval = min(max(interval, shortest(base)), longest(base))
    apart = facts.budget.apart(facts.cost)
    # what is only assumed does not overrule who set the interval
    return max(interval, apart if facts.budget.is_learnt else min(apart, base))


def after_downtime(
    due: Mapping[str, datetime], *, base: timedelta, now: datetime, lost_webhooks: bool
) -> dict[str, datetime]:
    """Tell when Pages are due after nobody has worked for a while, given when they were: soon, one after the other.

    When webhooks may have been lost that is for all of them, else for those whose time has passed meanwhile. Those
    left out stay as they are.
    """
    early = soon(due, base=base, now=now)
    return {p: early[p] for p, at in due.items() if at <= now or (lost_webhooks and early[p] < at)}


def soon(page_ids: Collection[str], *, base: timedelta, now: datetime) -> dict[str, datetime]:
    """Tell when to sync Pages that all should be synced at once: one after the other."""
    within = min(PER_PAGE * len(page_ids), base)
    return {page_id: now + within * phase(page_id) for page_id in page_ids}


def phase(page_id: str) -> float:
    """A Page's own place within any interval, in [0, 1)."""
    return int.from_bytes(blake2b(page_id.encode(), digest_size=6).digest()) / 2**48
