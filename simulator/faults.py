"""What goes wrong on purpose: by script (the n-th call) or by chance, on one Page or path or on all."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from simulator.cursors import stale_cursor
from simulator.dice import Dice
from simulator.graph_errors import GraphFailure, bad_token, not_found, throttled, too_heavy, too_many_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KNOWN = {
    "latency": "answers late: VALUE seconds in the mean, exponentially spread (0.2)",
    "timeout": "never answers",
    "http_500": "error 1, unknown, HTTP 500",
    "transient": "error 2, is_transient, HTTP 503",
    "html": "HTTP 502 with a page of HTML",
    "cut_body": "the body ends in the middle",
    "empty_body": "HTTP 200 without a body",
    "token_dead": "error 190, subcode VALUE (463)",
    "no_permission": "error 200",
    "app_limit": "error 4: the app's limit",
    "rate_limited": "error 613: too many calls a second",
    "throttled": "error 80006, access again in VALUE minutes (5)",
    "too_heavy": "error 1, reduce the amount of data",
    "not_found": "error 100/33",
    "stale_cursor": "error 100 on a call with a cursor",
    "blocked": "error 368: temporarily blocked",
    "old_version": "answered by another version than asked for",
    "bump": "after a call of the list, a conversation far down it gets a message",
}
# of those that have one
_DEFAULT_VALUE = {"latency": 0.2, "token_dead": 463, "throttled": 5}
_SPEC = re.compile(
    r"(?P<name>\w+)(:(?P<probability>[0-9.]+))?(@(?P<value>[0-9.]+))?(#(?P<first>\d+)(x(?P<times>\d+))?)?"
)


class FaultError(ValueError):
    """A fault that can't be; the text says what can."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    It is for calls of `page_id` whose path holds `path` (None: all). Of those, it is for the `first`-th and the
    `times` - 1 after it (None: all after it), each with `probability`. `value` is what KNOWN says of the fault.

    Raises:
        FaultError: no fault of this name, or a number out of its range.

    """

    name: str
    probability: float = 1.0
    value: float | None = None
    first: int = 1
    times: int | None = None
    page_id: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.name not in KNOWN:
            raise FaultError(f"no fault named {self.name}; known are: {', '.join(KNOWN)}")
        if not 0 <= self.probability <= 1:
            raise FaultError(f"{self.name}: the probability must be from 0 to 1, not {self.probability}")
        if self.first < 1 or (self.times is not None and self.times < 1):
            raise FaultError(f"{self.name}: calls are counted from 1")
        if self.value is not None and self.name not in _DEFAULT_VALUE:
            raise FaultError(f"{self.name} has no value; only {', '.join(_DEFAULT_VALUE)} have one")
        if self.value is not None and not 0 <= self.value < 1e6:
            raise FaultError(f"{self.name}: the value must be from 0 to 999999, not {self.value}")

    @property
    def number(self) -> float:
        """`value`, or what it is without."""
        return self.value if self.value is not None else _DEFAULT_VALUE.get(self.name, 0)


def parse_fault(text: str) -> Fault:
    """Read NAME[:PROBABILITY][@VALUE][#FIRST[xTIMES]], such as `http_500:0.05`, `token_dead#12`, `latency@0.3`.

    Raises:
        FaultError: it can't be read, or there is no such fault.

    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise FaultError(f"not a fault: {text}; it is NAME[:PROBABILITY][@VALUE][#FIRST[xTIMES]]")
    try:
        return Fault(
            found["name"],
            probability=float(found["probability"] or 1),
            value=float(found["value"]) if found["value"] else None,
            first=int(found["first"] or 1),
            times=int(found["times"]) if found["times"] else None,
        )
    except ValueError as error:
        raise error if isinstance(error, FaultError) else FaultError(f"not a number in {text}") from None


class Trouble(NamedTuple):
    """What goes wrong with one call. `latency` is in seconds; `regain_minutes` goes into the usage header."""

    names: frozenset[str] = frozenset()
    latency: float = 0.0
    failure: GraphFailure | None = None
    regain_minutes: int | None = None


NO_TROUBLE = Trouble()


class Faults:
    """Decides for each call what goes wrong. `happened` counts by name."""

    def __init__(self, faults: Iterable[Fault | str] = (), seed: int = 0) -> None:
        self.happened: dict[str, int] = {}
        self._dice = Dice(seed, 3)
        self._armed: list[tuple[Fault, Iterator[int]]] = []
        self.add(*faults)

    def add(self, *faults: Fault | str) -> None:
        """Add faults, or their texts; their calls are counted from now."""
        self._armed.extend((parse_fault(f) if isinstance(f, str) else f, count(1)) for f in faults)

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self._armed.clear()

    def of(self, page_id: str | None, path: str, *, has_cursor: bool) -> Trouble:
        """Return what goes wrong with a call."""
        if not self._armed:
            return NO_TROUBLE
        chosen = [
            fault
            for fault, calls in self._armed
            if _is_meant(fault, page_id, path, has_cursor=has_cursor) and self._hits(fault, next(calls))
        ]
        for fault in chosen:
            self.happened[fault.name] = self.happened.get(fault.name, 0) + 1
        failures = [failure for fault in chosen if (failure := _failure(fault, path)) is not None]
        regain = [int(fault.number) for fault in chosen if fault.name == "throttled"]
        return Trouble(
            frozenset(fault.name for fault in chosen),
            sum(self._latency(fault) for fault in chosen if fault.name == "latency"),
            failures[0] if failures else None,
            regain[0] if regain else None,
        )

    def _hits(self, fault: Fault, call: int) -> bool:
        if call < fault.first or (fault.times is not None and call >= fault.first + fault.times):
            return False
        return fault.probability >= 1 or self._dice.chance(fault.probability)

    def _latency(self, fault: Fault) -> float:
        share = (self._dice.below(1 << 30) + 1) / (1 << 30)
        return -fault.number * math.log(share)


def _is_meant(fault: Fault, page_id: str | None, path: str, *, has_cursor: bool) -> bool:
    if fault.page_id not in {None, page_id} or (fault.path is not None and fault.path not in path):
        return False
    return has_cursor or fault.name != "stale_cursor"


_FAILURES: dict[str, Callable[[Fault, str], GraphFailure]] = {
    "http_500": lambda *_: GraphFailure(1, "An unknown error occurred", status=500),
    "transient": lambda *_: GraphFailure(2, "Service temporarily unavailable", status=503, is_transient=True),
    "token_dead": lambda fault, _: bad_token(int(fault.number)),
    "no_permission": lambda *_: GraphFailure(200, "(#200) Requires pages_messaging permission", status=403),
    "app_limit": lambda *_: GraphFailure(4, "(#4) Application request limit reached", status=403),
    "rate_limited": lambda *_: too_many_calls(),
    "throttled": lambda *_: throttled(),
    "too_heavy": lambda *_: too_heavy(),
    "not_found": lambda _, path: not_found(path.partition("/")[0]),
    "stale_cursor": lambda *_: stale_cursor(),
    "blocked": lambda *_: GraphFailure(368, "(#368) The action attempted has been deemed abusive"),
}


def _failure(fault: Fault, path: str) -> GraphFailure | None:
    make = _FAILURES.get(fault.name)
    return make(fault, path) if make is not None else None
