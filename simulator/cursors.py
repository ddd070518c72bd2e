"""Graph's cursors: opaque to who holds one, and no longer good after a while."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64

import orjson

from simulator.graph_errors import GraphFailure, bad_parameter

_PREFIX = "QVFIU"


def stale_cursor() -> GraphFailure:
    """What a cursor that can't be used gets; unconfirmed (Graph sheet, 1.3)."""
    return bad_parameter("Invalid cursors values")


def new_cursor(place: str, position: list[int], now: int) -> str:
    """Make a cursor into the edge `place` of a position in it; `now` in epoch seconds."""
    packed = urlsafe_b64encode(orjson.dumps([place, position, now])).decode().rstrip("=")
    return f"{_PREFIX}{packed}ZD"


def read_cursor(cursor: str, place: str, now: int, *, max_age: float | None) -> list[int]:
    """Return a cursor's position.

    Raises:
        GraphFailure: it is none, of another edge, or older than `max_age` seconds.

    """
    packed = cursor.removeprefix(_PREFIX).removesuffix("ZD")
    try:
        of, position, made = orjson.loads(urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
    except (ValueError, TypeError, NotBase64):
        raise stale_cursor() from None
    if of != place or (max_age is not None and now - made > max_age):
        raise stale_cursor()
    return [int(number) for number in position]
