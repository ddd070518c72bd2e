"""Versions of the Graph API and until when each lives (Graph sheet, 4.5)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DEFAULT_VERSION = "v26.0"
_VERSION = re.compile(r"v\d{1,2}\.\d{1,2}")
# (version, when it ends); None: not known yet. An ended version is served by the oldest living one
_ENDS: tuple[tuple[str, datetime | None], ...] = (
    ("v20.0", datetime(2026, 9, 24, tzinfo=UTC)),
    ("v21.0", datetime(2027, 1, 21, tzinfo=UTC)),
    ("v22.0", datetime(2027, 5, 20, tzinfo=UTC)),
    ("v23.0", datetime(2027, 10, 8, tzinfo=UTC)),
    ("v24.0", datetime(2028, 2, 18, tzinfo=UTC)),
    ("v25.0", datetime(2028, 7, 29, tzinfo=UTC)),
    ("v26.0", None),
)


def is_version(text: str) -> bool:
    """Whether the first part of a path is a version."""
    return _VERSION.fullmatch(text) is not None


def served_version(asked: str, now: datetime) -> str:
    """Return the version that answers: the one asked for, or what is living instead of it."""
    living = [version for version, ends in _ENDS if ends is None or now < ends]
    return asked if asked in living else living[0] if _number(asked) < _number(living[0]) else living[-1]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version[1:].split("."))
