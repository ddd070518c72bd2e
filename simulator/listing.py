"""The list of a Page's conversations: its order, its cursors, and what `since` does to it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from simulator.dice import MASK, Dice, mix
from simulator.graph_errors import bad_parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulator.reading import Reading, Window
    from simulator.thread import Thread

_PLATFORMS = {"messenger", "instagram"}


class Listed(NamedTuple):
    """One answer's rows. `ends` are its two cursors, None when there is nothing to page through."""

    threads: list[Thread]
    ends: tuple[str, str] | None
    has_next: bool
    has_previous: bool


def list_threads(reading: Reading, params: dict[str, str], window: Window) -> Listed:
    """Return the rows that a call of `GET /{page}/conversations` gets.

    Raises:
        GraphFailure: 100, a parameter or cursor that can't be used.

    """
    platform = params.get("platform", "messenger").lower()
    if platform not in _PLATFORMS:
        raise bad_parameter(f"Param platform must be one of {{MESSENGER, INSTAGRAM}}, not {platform[:20]}")
    if platform == "instagram" or params.get("folder", "inbox") not in {"inbox", "page_done"}:
        return Listed([], None, has_next=False, has_previous=False)
    if "user_id" in params:
        thread = reading.world.find_person(params["user_id"])
        is_ours = thread is not None and thread.page == reading.page.number
        is_there = thread is not None and thread.updated_at(reading.at) is not None
        found = [thread] if thread is not None and is_ours and is_there else []
        return Listed(found, None, has_next=False, has_previous=False)
    place = f"conversations/{reading.page.id}"
    behaviour = reading.behaviour
    limit = window.limit
    if window.before is not None:
        return _before(reading, place, reading.position(window.before, place), window)
    after = reading.position(window.after, place) if window.after is not None else None
    limit = _shortened(reading, limit, after)
    rows = list(islice(_from(reading, params, after), limit + 1))
    has_next, rows = len(rows) > limit, rows[:limit]
    passed = (after[2] if after else 0) + len(rows)
    if rows:
        ends = (_cursor(reading, place, rows[0], passed - len(rows)), _cursor(reading, place, rows[-1], passed))
    elif has_next:
        at, number, behind, _ = after or [_FAR_FUTURE, 0, 0, 0]
        same = reading.cursor(place, at, number, behind, 1)
        ends = (same, same)
    else:
        return Listed([], None, has_next=False, has_previous=False)
    if behaviour.order == "shuffled_pages":
        rows.sort(key=lambda thread: mix(reading.world.seed, reading.now // 3600, thread.number))
    return Listed(rows, ends, has_next=has_next, has_previous=after is not None)


_FAR_FUTURE = MASK  # before the first row, in whatever order


def _shortened(reading: Reading, limit: int, after: list[int] | None) -> int:
    """How many rows an answer has: sometimes fewer than asked for, even none, but not none twice in a row."""
    dice = Dice(reading.world.seed, 11, limit, *(after or ()))
    if not dice.chance(reading.behaviour.short_pages):
        return limit
    return max(dice.below(limit), after[3] if after is not None else 0)


def _cursor(reading: Reading, place: str, thread: Thread, passed: int) -> str:
    if reading.behaviour.order == "shuffled":
        return reading.cursor(place, _hash(reading, thread), thread.number, passed, 0)
    return reading.cursor(place, thread.updated_at(reading.at) or 0, thread.number, passed, 0)


def _hash(reading: Reading, thread: Thread) -> int:
    return mix(reading.world.seed, 77, thread.number)


def _from(reading: Reading, params: dict[str, str], after: list[int] | None) -> Iterator[Thread]:
    """Yield what comes after a position [order key, number, how many were passed, whether to none of them]."""
    by_offset = reading.behaviour.cursors == "offset" and after is not None
    start = (after[0], after[1]) if after is not None and not by_offset else None
    if reading.behaviour.order == "shuffled":
        everything = sorted(
            reading.world.threads(reading.page, reading.at), key=lambda t: (-_hash(reading, t), t.number)
        )
        threads: Iterator[Thread] = (
            t for t in everything if start is None or (-_hash(reading, t), t.number) > (-start[0], start[1])
        )
    else:
        threads = reading.world.threads(reading.page, reading.at, after=start)
    threads = _since(reading, params, threads)
    return islice(threads, after[2], None) if by_offset and after is not None else threads


def _since(reading: Reading, params: dict[str, str], threads: Iterator[Thread]) -> Iterator[Thread]:
    mode, text = reading.behaviour.since, params.get("since")
    if text is None or mode == "ignored":
        return threads
    if mode == "refused":
        raise bad_parameter("Time-based pagination is not available for the conversations endpoint")
    if not text.isdigit():
        raise bad_parameter("Param since must be a unix time")
    since = int(text) * 1000

    def is_shown(thread: Thread) -> bool:
        updated = thread.updated_at(reading.at) or 0
        hides = mode == "lying" and mix(reading.world.seed, thread.number, updated) % 3 == 0
        return updated // 1000 * 1000 >= since and not hides

    return (thread for thread in threads if is_shown(thread))


def _before(reading: Reading, place: str, position: list[int], window: Window) -> Listed:
    """The rows right before a position: found from the top, as nobody pages backwards in a hurry."""
    first = (-position[0], position[1])
    above = []
    for thread in _from(reading, {}, None):
        key = _hash(reading, thread) if reading.behaviour.order == "shuffled" else thread.updated_at(reading.at) or 0
        if (-key, thread.number) >= first:
            break
        above.append(thread)
    rows = above[-window.limit :]
    if not rows:
        return Listed([], None, has_next=False, has_previous=False)
    ends = (
        _cursor(reading, place, rows[0], max(0, position[2] - len(rows))),
        _cursor(reading, place, rows[-1], position[2]),
    )
    return Listed(rows, ends, has_next=True, has_previous=len(above) > len(rows))
