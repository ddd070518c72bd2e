"""The simulator's time: the real one, or one that a test turns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Now = Callable[[], datetime]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def real_now() -> datetime:
    """The real time, in UTC."""
    return datetime.now(UTC)


def milliseconds(at: datetime) -> int:
    """Epoch milliseconds, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def graph_time(ms: int) -> str:
    """A time as Graph writes it: whole seconds, rounded down (Graph sheet, 0.8)."""
    return (_EPOCH + timedelta(seconds=ms // 1000)).strftime("%Y-%m-%dT%H:%M:%S+0000")


class TurnedClock:
    """A clock that stands still until it is turned. Call it for its time."""

    def __init__(self, start: datetime | None = None) -> None:
        self._at = start or datetime(2026, 9, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time it was turned to."""
        return self._at

    def advance(self, seconds: float) -> None:
        """Turn it forward."""
        if seconds < 0:
            raise ValueError("a clock is only turned forward")
        self._at += timedelta(seconds=seconds)
