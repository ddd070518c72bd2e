"""How many calls a backfill still needs, how long they take, and what of that nobody can know. Pure."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sql.estimates import Left

A_DAY = 86_400


class Estimate(NamedTuple):
    """`calls` and `seconds` are None while they can't be told; `calls_at_least` always can. `unknown` says what is."""

    calls: int | None
    calls_at_least: int
    seconds: float | None
    unknown: list[str]


def estimate(left: Sequence[Left], *, rows: int, calls_per_second: float, concurrency: int) -> Estimate:
    """Estimate what is left of a backfill, `concurrency` Pages side by side, `rows` conversations a call of a list."""
    calls = [_calls(page, rows) for page in left]
    seconds = [_seconds(page, of_page, calls_per_second) for page, of_page in zip(left, calls, strict=True)]
    never_listed = sum(not page.is_listed and not page.is_known for page in left)
    unread = sum(page.unread for page in left)
    untold = sum(page.daily_calls is None for page in left)
    unknown = []
    if never_listed:
        unknown.append(f"how many conversations {never_listed} Pages have: no walk of their lists has come to its end")
    if unread:
        unknown.append(
            f"how long {unread} conversations are that were never read to their beginning: "
            "counted whole, with as many messages as Graph estimates"
        )
    if untold:
        unknown.append(f"how many calls a day Meta allows {untold} Pages: taken for enough")
    if left:
        unknown.append("what is sent meanwhile, and what goes before a backfill")
    is_told = not never_listed
    return Estimate(
        sum(calls) if is_told else None,
        sum(page.threads if page.is_listed else 1 for page in left),
        round(max(max(seconds, default=0.0), sum(seconds) / concurrency), 1) if is_told else None,
        unknown,
    )


def _calls(page: Left, rows: int) -> int:
    """The list is walked to its end before older messages are read: until then all of those are left."""
    return page.pages if page.is_listed else max(ceil(page.threads / rows), 1) + page.pages


def _seconds(page: Left, calls: int, calls_per_second: float) -> float:
    """As many as the Page's rate lets through, or, beyond what its budget has left, as its budget renews itself."""
    seconds = page.waits.total_seconds() + calls / calls_per_second
    if page.daily_calls and page.calls_left is not None:
        seconds = max(seconds, (calls - page.calls_left) / page.daily_calls * A_DAY)
    return seconds
