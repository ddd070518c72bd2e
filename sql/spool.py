"""The spool: where deliveries wait while Postgres can't take them. Durable before `put` returns.

One file per process; what a process that died has left is adopted by any other on the folder.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog

from sql.spool_file import Spooled, SpoolError, SpoolFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Self

log = structlog.get_logger(__name__)

__all__ = ["Spool", "SpoolError", "Spooled"]

DRAIN_ROWS = 200
DRAIN_BYTES = 8 * 2**20
T = TypeVar("T")


class _Waiting(NamedTuple):
    delivery: Spooled
    done: asyncio.Future[None]


class Spool:
    """Deliveries on the local disk. Use as an async context manager.

    `max_bytes` bounds the bodies that this process keeps in its own file. The folder is first touched when there is
    something to keep: one that can't be written stops no start, and is told by `put`.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._own: SpoolFile | None = None
        self._adopted: list[SpoolFile] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._queue: list[_Waiting] = []
        self._queued_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._oldest: datetime | None = None

    async def __aenter__(self) -> Self:
        """Take over what processes that are gone have left."""
        await self.adopt()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what is being written and let the files go; what is in them stays for the next process."""
        if self._writing is not None:
            await self._writing
        await self._do(self._close)
        self._thread.shutdown()

    @property
    def depth(self) -> int:
        """Deliveries that wait, in all files held."""
        return sum(file.count for file in self._files())

    @property
    def bytes(self) -> int:
        """Bytes of their bodies."""
        return sum(file.bytes for file in self._files())

    @property
    def oldest(self) -> datetime | None:
        """When the oldest that was last looked at came in; None when nothing waits."""
        return self._oldest if self.depth else None

    def _files(self) -> list[SpoolFile]:
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    async def put(self, delivery: Spooled) -> None:
        """Return once a delivery is on the disk. Those that come while one write is under way share the next.

        Raises:
            SpoolError: it is not: the spool is full, or can't be written.

        """
        size = len(delivery.body)
        kept = self._own.bytes if self._own is not None else 0
        if kept + self._queued_bytes + size > self._max_bytes:
            raise SpoolError(f"the spool is full: it holds {kept} bytes, SPOOL_MAX_BYTES is {self._max_bytes}")
        waiting = _Waiting(delivery, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_bytes += size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="spool-write")
        await waiting.done

    async def _write(self) -> None:
        while self._queue:
            group, self._queue, self._queued_bytes = self._queue, [], 0
            try:
                await self._do(partial(self._put, [w.delivery for w in group]))
            except Exception as error:  # noqa: BLE001 - whatever it was, nobody here may be told that it is durable
                failure = error if isinstance(error, SpoolError) else SpoolError(f"{type(error).__name__}: {error}")
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_exception(failure)
            else:
                self._oldest = min(self._oldest or group[0].delivery.received_at, group[0].delivery.received_at)
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_result(None)

    def _put(self, deliveries: Sequence[Spooled]) -> None:
        if self._own is None:
            self._own = SpoolFile.create(self._folder)
        self._own.put(deliveries)

    async def adopt(self) -> int:
        """Take over what processes that are gone have left in the folder; returns how many deliveries that were."""
        found = await self._do(partial(SpoolFile.adopt, self._folder))
        self._adopted += found
        count = sum(file.count for file in found)
        if count:
            log.warning("spool_adopted", files=len(found), deliveries=count)
        return count

    async def drain_once(self, write: Callable[[list[Spooled]], Awaitable[object]]) -> int:
        """Give the oldest deliveries of one file to `write` and forget them when it returns; returns how many.

        Raises:
            SpoolError: a file can't be read or written.
            Exception: whatever `write` raises; the deliveries stay.

        """
        for file in self._files():
            if file.count == 0:
                continue
            deliveries = await self._do(partial(file.oldest, limit=DRAIN_ROWS, max_bytes=DRAIN_BYTES))
            if deliveries:
                self._oldest = deliveries[0].received_at
                await write(deliveries)
                await self._do(partial(file.remove, deliveries))
                return len(deliveries)
        await self._do(self._close_empty)
        return 0

    async def _do(self, work: Callable[[], T]) -> T:
        """Do something with a file in the one thread that may; once begun it is not abandoned half way."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _close_empty(self) -> None:
        for file in [file for file in self._adopted if file.count == 0]:
            self._adopted.remove(file)
            file.close()

    def _close(self) -> None:
        for file in self._files():
            file.close()
        self._own, self._adopted = None, []
