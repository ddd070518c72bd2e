"""Who has come in and does not get on: connections that are slow to ask, to send a body, or to take an answer.

Each has its time, and one that came earlier makes room for a new one when there are too many: else a stranger who
opens connections and says nothing would use up the files that a process may open, and keep everybody else out.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Protocol

from app.webhook.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_WITHIN_SECONDS = 10.0
GRACE_SECONDS = 1.0  # for who has only just come in
REST_WITHIN_SECONDS = 60.0  # of a body, and of an answer that nobody takes; webhooks have less
MOST_CONNECTIONS = 4096  # some 20 KB each
OTHER_FILES = 96  # Postgres, the spool, Graph, the log


class Connection(Protocol):
    """What is watched."""

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""

    def give_up(self) -> None:
        """End it."""


class Wait:
    """A connection of which something is awaited."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    def done(self) -> bool:
        """Whether it has come."""
        return self._connection is None

    def end(self) -> None:
        """It has come, or the connection is gone."""
        self._connection = None

    def expire(self) -> None:
        """Wait no longer."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.give_up()


class Doorstep:
    """The connections of one server. `room`: how many there may be before the first has to go for the next."""

    def __init__(
        self,
        *,
        room: int,
        head_seconds: float = HEAD_WITHIN_SECONDS,
        rest_seconds: float = REST_WITHIN_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.room, self.head_seconds, self.rest_seconds = room, head_seconds, rest_seconds
        self._grace_seconds = grace_seconds
        self._heads: Deadlines[Wait] = Deadlines(Wait.expire)
        self._rests: Deadlines[Wait] = Deadlines(Wait.expire)

    def await_head(self, connection: Connection) -> Wait:
        """Give a connection its time to say what it wants."""
        wait = Wait(connection)
        self._heads.add(time.monotonic() + self.head_seconds, wait)
        return wait

    def await_rest(self, connection: Connection) -> Wait:
        """Give a connection its time to send a body, or to take an answer."""
        wait = Wait(connection)
        self._rests.add(time.monotonic() + self.rest_seconds, wait)
        return wait

    def make_room(self, connections: Iterable[Connection]) -> None:
        """End one connection.

        The oldest that has asked for nothing yet, unless it has only just come in; else an idle one, else that oldest
        all the same, else the slowest.
        """
        if self._heads.expire_first(time.monotonic() + self.head_seconds - self._grace_seconds):
            return
        idle = next((connection for connection in connections if connection.is_idle), None)
        if idle is not None:
            idle.give_up()
        elif not self._heads.expire_first():
            self._rests.expire_first()


def raise_file_limit() -> None:
    """Let this process open as many files as it may: the usual limit of 1,024 is for programs of another age."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), hard))


def room_for_connections() -> int:
    """How many connections leave the process the files that it needs for itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(soft - OTHER_FILES, soft // 2))
