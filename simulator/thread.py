"""One conversation: its past, worked out when asked for, and what happened live, stored."""

from __future__ import annotations

import sys
from bisect import bisect_right, insort
from typing import TYPE_CHECKING, TypeVar

from simulator.message import Base, Changes, Message, State, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulator.history import History
    from simulator.ids import Ids

T = TypeVar("T")

NO_END = sys.maxsize  # "at" for: whatever has happened


class Thread:
    """A conversation of a Page with one person. `at` below is always the moment to look at, epoch ms.

    `page` and `number` are its place in the world; `past` is how many messages it had when the world began.
    """

    __slots__ = (
        "_history",
        "_live",
        "_live_times",
        "_moves",
        "changes",
        "delivered",
        "name",
        "number",
        "owners",
        "page",
        "past",
        "psid",
        "read",
        "thread_id",
    )

    def __init__(self, history: History, ids: Ids, page: int, number: int) -> None:
        self._history, self.page, self.number = history, page, number
        self.psid, self.thread_id = ids.psid(page, number), ids.thread_id(page, number)
        self.name = history.person_name(page, number)
        self.past = history.count(page, number)
        self._live: list[Message] = []
        self._live_times: list[int] = []
        self._moves: list[int] = []  # of updated_time, by something else than a message
        self.changes: dict[int, Changes] = {}
        self.read: list[tuple[int, int]] = []  # when, watermark
        self.delivered: list[tuple[int, int]] = []
        self.owners: list[tuple[int, str]] = []  # when, app id

    @property
    def has_moved(self) -> bool:
        """Whether it has another place in the list than when the world began."""
        return bool(self._live or self._moves)

    @property
    def next_n(self) -> int:
        """The number that the next message gets."""
        return self.past + len(self._live)

    def add(self, message: Message) -> None:
        """Say something; its number is `next_n`, its time no earlier than the last one's."""
        self._live.append(message)
        self._live_times.append(message.at)

    def count(self, at: int = NO_END) -> int:
        """How many messages were ever sent, the unsent ones included."""
        return self.past + bisect_right(self._live_times, at)

    def updated_at(self, at: int = NO_END) -> int | None:
        """When the last message came, or what else `move` was told of, epoch ms; None while there is no message."""
        count = bisect_right(self._live_times, at)
        if count:
            last = self._live_times[count - 1]
        elif self.past:
            last = self._history.updated_at(self.page, self.number)
        else:
            return None
        moves = bisect_right(self._moves, at) if self._moves else 0
        return max(last, self._moves[moves - 1]) if moves else last

    def move(self, at: int) -> None:
        """Let something that is no message be what happened last."""
        insort(self._moves, at)

    def message(self, n: int) -> Message:
        """The n-th message as it was sent."""
        return self._live[n - self.past] if n >= self.past else self._history.message(self.page, self.number, n)

    def base(self, n: int) -> Base:
        """What had become of a message before the world began."""
        return self._history.base(self.page, self.number, n) if n < self.past else Base()

    def state(self, n: int, at: int = NO_END) -> State | None:
        """The n-th message at a moment, unsent or not; None when it is of no concern: not sent yet, or long gone."""
        if not 0 <= n < self.count(at):
            return None
        base = self.base(n)
        return None if base.is_gone else state_of(self.message(n), base, self.changes.get(n), at)

    def newest_first(self, at: int = NO_END, *, below: int | None = None) -> Iterator[State]:
        """What Graph shows of it: messages that are not unsent, from number `below` - 1 down."""
        top = self.count(at)
        for n in range(top if below is None else min(below, top), 0, -1):
            state = self.state(n - 1, at)
            if state is not None and state.deleted_at is None:
                yield state

    def oldest_first(self, at: int = NO_END, *, above: int = -1) -> Iterator[State]:
        """The same from number `above` + 1 up."""
        for n in range(above + 1, self.count(at)):
            state = self.state(n, at)
            if state is not None and state.deleted_at is None:
                yield state

    def read_watermark(self, at: int = NO_END) -> int | None:
        """Until when the person has read, epoch ms; None: no receipt came."""
        return _last(self.read, at)

    def delivered_watermark(self, at: int = NO_END) -> int | None:
        """Until when messages have reached the person's device, likewise."""
        return _last(self.delivered, at)

    def owner_app_id(self, at: int = NO_END) -> str | None:
        """Which app owns the conversation; None until a handover."""
        return _last(self.owners, at)

    def change(self, n: int) -> Changes:
        """What happened to the n-th message since, to add to."""
        return self.changes.setdefault(n, Changes())


def _last(history: list[tuple[int, T]], at: int) -> T | None:
    """What stood last at a moment."""
    return next((value for when, value in reversed(history) if when <= at), None)
