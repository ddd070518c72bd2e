"""Group commit: requests that arrive while a transaction is in flight wait together and are written by the next one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from app import metrics
from app.webhook.deadlines import Deadlines
from sql.errors import is_away

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from sql.ingest import Ingest, Ingestor

log = structlog.get_logger(__name__)

COMMIT_WITHIN_SECONDS = 3.0  # Facebook waits 5 seconds (webhooks reference, section 3)
MAX_QUEUE_BYTES = 64 * 2**20
MAX_GROUP = 500
MAX_GROUP_BYTES = 8 * 2**20
WRITERS = 2  # while one transaction waits for the disk, the next one fills


class NotDurableError(Exception):
    """The delivery could not be made durable in time. `is_away`: Postgres takes nothing now, whoever asks."""

    def __init__(self, text: str, *, is_away: bool = False) -> None:
        super().__init__(text)
        self.is_away = is_away


class _Waiting(NamedTuple):
    delivery: Ingest
    done: asyncio.Future[None]
    deadline: float


class GroupCommit:
    """Turns single deliveries into few transactions. Use as an async context manager."""

    def __init__(self, ingestor: Ingestor) -> None:
        self._ingestor = ingestor
        self._queue: list[_Waiting] = []
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._deadlines: Deadlines[asyncio.Future[None]] = Deadlines(_time_is_up)
        self._writers: list[asyncio.Task[None]] = []
        self._closing = False

    async def __aenter__(self) -> Self:
        """Start the writers."""
        self._writers = [asyncio.create_task(self._run(), name=f"group-commit-{n}") for n in range(WRITERS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Write what waits, then stop."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._writers)

    @property
    def queued_bytes(self) -> int:
        """Bytes of bodies that wait for a transaction."""
        return self._bytes

    async def commit(self, delivery: Ingest, *, began: float | None = None) -> None:
        """Return once the delivery is committed. `began` is `time.monotonic()` of the request's first byte.

        Raises:
            NotDurableError: the queue is full, Postgres can't take it, or the time is up. It may yet be committed:
                to write it again is harmless.

        """
        size = len(delivery.body)
        if self._closing or self._bytes + size > MAX_QUEUE_BYTES:
            raise NotDurableError("the queue is full")
        now = time.monotonic()
        deadline = (now if began is None else began) + COMMIT_WITHIN_SECONDS
        if deadline <= now:  # its body took all the time there was
            raise NotDurableError("no commit in time")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # its own, also within a transaction: that may have the time of those that came later
        self._deadlines.add(deadline, done)
        self._queue.append(_Waiting(delivery, done, deadline))
        self._bytes += size
        self._arrived.set()
        await done

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self.run_once()

    async def run_once(self) -> int:
        """Write one group; returns how many deliveries were in it."""
        group = self._take()
        if not group:
            return 0
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(w.deadline for w in group) - began):
                await self._ingestor.write([w.delivery for w in group])
        except BaseException as error:  # whatever it was, nobody here may be told 200, nor wait for ever
            log.warning("group_not_committed", deliveries=len(group), reason=type(error).__name__)
            metrics.GROUPS_FAILED.inc()
            text = f"Postgres did not commit: {type(error).__name__}"
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(NotDurableError(text, is_away=is_away(error)))
            if not isinstance(error, Exception):
                raise
        else:
            metrics.GROUP_SIZE.observe(len(group))
            metrics.COMMIT_SECONDS.observe(time.monotonic() - began)
            # not at once: then the database would wait for its next group until all of these are answered
            asyncio.get_running_loop().call_soon(_tell_committed, group)
        return len(group)

    def _take(self) -> Sequence[_Waiting]:
        """Take the oldest that fit one transaction, past those for whom nobody waits any more."""
        group: list[_Waiting] = []
        size = taken = 0
        for waiting in self._queue:
            if len(group) == MAX_GROUP or (group and size + len(waiting.delivery.body) > MAX_GROUP_BYTES):
                break
            taken += 1
            self._bytes -= len(waiting.delivery.body)
            if waiting.done.done():  # its time is up, or its client went away
                continue
            size += len(waiting.delivery.body)
            group.append(waiting)
        del self._queue[:taken]
        metrics.QUEUE_BYTES.set(self._bytes)
        return group


def _tell_committed(group: Sequence[_Waiting]) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_result(None)


def _time_is_up(done: asyncio.Future[None]) -> None:
    done.set_exception(NotDurableError("no commit in time"))
