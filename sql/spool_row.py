"""A delivery in the spool, and how a file holds it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Spooled(NamedTuple):
    """A delivery with the identity that it got at the door; `attempts`: how often it could not be written so far."""

    id: UUID
    received_at: datetime
    body: bytes
    attempts: int = 0


def microseconds(at: datetime) -> int:
    """A time as a file holds it."""
    return (at - _EPOCH) // _MICROSECOND


def instant(at: int) -> datetime:
    """A time that a file holds."""
    return _EPOCH + at * _MICROSECOND


def take(rows: Iterable[Any], max_bytes: int) -> list[tuple[int, Spooled]]:
    """Read rows (n, id, received_at_us, body, attempts) up to about `max_bytes` of bodies, but one at least."""
    found: list[tuple[int, Spooled]] = []
    size = 0
    for n, key, at, body, attempts in rows:
        size += len(body)
        if found and size > max_bytes:
            break
        found.append((n, Spooled(UUID(bytes=key), instant(at), body, attempts)))
    return found
