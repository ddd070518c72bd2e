"""How much of Meta's limits is used, from the headers of an answer, and how long they ask to wait.

`X-App-Usage` and `X-Page-Usage` hold one object, `X-Business-Use-Case-Usage` a list of them for each business. All
numbers are percent, but `estimated_time_to_regain_access`, which is minutes (Graph sheet, 3.2). They are absent until
enough calls were made.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sql.json_values import UnreadableJsonError, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

FULL = 100.0
NEAR = 75.0  # from here on calls are spread
SLOWEST = timedelta(seconds=30)  # between two calls just below the limit
LONGEST_WAIT = timedelta(days=1)  # no header makes us wait longer without asking again
_PERCENT = ("call_count", "total_time", "total_cputime", "call_volume", "cpu_time")
_OF_OTHERS = ("ads_", "custom_audience", "instagram")  # other products' limits beside ours in the same header


class Usage(NamedTuple):
    """Percent used of the app's limit and of the Page's, and the time until the Page's is open again."""

    app: float = 0.0
    page: float = 0.0
    regain: timedelta | None = None

    @property
    def delay(self) -> float:
        """Seconds to add before each call of this Page: none below `NEAR`, rising steeply towards the limit."""
        near = (min(max(self.app, self.page), FULL) - NEAR) / (FULL - NEAR)
        return SLOWEST.total_seconds() * max(near, 0.0) ** 2


def usage_of(headers: Mapping[str, str]) -> Usage:
    """Read the usage headers; what can't be read is as if it were not there."""
    app = max(map(_percent, _objects(headers.get("x-app-usage"))), default=0.0)
    page_limits = list(_objects(headers.get("x-page-usage")))
    for entries in _by_business(headers.get("x-business-use-case-usage")):
        page_limits += [e for e in entries if not str(e.get("type", "")).startswith(_OF_OTHERS)]
    minutes = max((_number(limit.get("estimated_time_to_regain_access")) for limit in page_limits), default=0.0)
    regain = min(timedelta(minutes=min(minutes, 10**6)), LONGEST_WAIT) if minutes > 0 else None
    return Usage(app, max(map(_percent, page_limits), default=0.0), regain)


def wait_of(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long the headers of a refusal ask to wait: the later of the regained access and `Retry-After`."""
    asked = [usage_of(headers).regain, _retry_after(headers.get("retry-after"), now)]
    return max((wait for wait in asked if wait is not None), default=None)


def _retry_after(header: str | None, now: datetime) -> timedelta | None:
    if not header:
        return None
    if header.strip().isdecimal():
        # nine digits are more than a day, and thousands Python would refuse to read
        return min(timedelta(seconds=int(header.strip()[:9])), LONGEST_WAIT)
    at = http_date(header)
    return min(max(at - now, timedelta(0)), LONGEST_WAIT) if at is not None else None


def http_date(header: str | None) -> datetime | None:
    """Read the time of an HTTP header; None when there is none."""
    try:
        at = parsedate_to_datetime(header or "")
        # "-0000" gives a time without zone, which is UTC all the same
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _objects(header: str | None) -> list[dict[str, Any]]:
    value = _json(header)
    return [value] if isinstance(value, dict) else []


def _by_business(header: str | None) -> list[list[dict[str, Any]]]:
    value = _json(header)
    lists = value.values() if isinstance(value, dict) else []
    return [[entry for entry in entries if isinstance(entry, dict)] for entries in lists if isinstance(entries, list)]


def _json(header: str | None) -> Any:
    try:
        return loads(header.encode()) if header else None
    except (UnreadableJsonError, UnicodeError):
        return None


def _percent(limit: dict[str, Any]) -> float:
    return max(_number(limit.get(name)) for name in _PERCENT)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
