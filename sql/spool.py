"""The spool: where deliveries wait while Postgres can't take them. Durable before `put` returns.

One file per process; what a process that died has left is adopted by any other on the folder.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog

from sql.spool_file import SpoolError, SpoolFile
from sql.spool_folder import trouble_of
from sql.spool_row import Spooled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Self

log = structlog.get_logger(__name__)

__all__ = ["PassOverError", "Spool", "SpoolError", "Spooled"]

MAX_QUEUE_BYTES = 64 * 2**20  # in memory, for a disk that is slow
DRAIN_ROWS = 200
DRAIN_BYTES = 8 * 2**20
FAILURE_COUNTS_SECONDS = 10.0  # then the disk may have been seen to
T = TypeVar("T")


class PassOverError(Exception):
    """These deliveries could not be written, and it may be their own fault: others have their turn first."""


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
        self._queued_bytes = self._written_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._failure: tuple[float, SpoolError] | None = None

    async def __aenter__(self) -> Self:
        """Take over what processes that are gone have left."""
        try:
            await self.adopt()
        except BaseException:
            await self._do(self._close)
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish what is being written and let the files go; what is in them stays for the next process."""
        try:
            if self._writing is not None:
                await self._writing
        finally:
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
        """When the oldest of them came in; None when nothing waits."""
        return min((file.oldest_at for file in self._files() if file.oldest_at is not None), default=None)

    async def trouble(self) -> str | None:
        """Tell why a delivery could not be kept now, None where nothing speaks against it."""
        try:
            self._check_room(1)
        except SpoolError as error:
            return str(error)
        if self._failure is not None and time.monotonic() - self._failure[0] < FAILURE_COUNTS_SECONDS:
            return str(self._failure[1])
        return await self._do(partial(trouble_of, self._folder))

    def _files(self) -> list[SpoolFile]:
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    async def put(self, delivery: Spooled) -> None:
        """Return once a delivery is on the disk. Those that come while one write is under way share the next.

        Raises:
            SpoolError: it is not: the spool is full, or can't be written.

        """
        size = len(delivery.body)
        self._check_room(size)
        waiting = _Waiting(delivery, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_bytes += size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="spool-write")
        await waiting.done

    def _check_room(self, size: int) -> None:
        kept = self._own.bytes if self._own is not None else 0
        waiting = self._queued_bytes + self._written_bytes
        if kept + waiting + size > self._max_bytes:
            raise SpoolError(f"the spool is full: it holds {kept} bytes, SPOOL_MAX_BYTES is {self._max_bytes}")
        if waiting and waiting + size > MAX_QUEUE_BYTES:
            raise SpoolError(f"the disk of the spool is too slow: {waiting} bytes wait for it")

    async def _write(self) -> None:
        while self._queue:
            group, self._queue = self._queue, []
            self._written_bytes, self._queued_bytes = self._queued_bytes, 0
            try:
                await self._do(partial(self._put, [w.delivery for w in group]))
            except Exception as error:  # noqa: BLE001 - whatever it was, nobody here may be told that it is durable
                failure = error if isinstance(error, SpoolError) else SpoolError(f"{type(error).__name__}: {error}")
                self._failure = time.monotonic(), failure
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_exception(failure)
            else:
                self._failure = None
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_result(None)
            finally:
                self._written_bytes = 0

    def _put(self, deliveries: Sequence[Spooled]) -> None:
        if self._own is not None and not self._own.is_in_place:
            log.error("spool_removed", file=self._own.name, deliveries=self._own.count, what_follows="a new one")
            own, self._own = self._own, None
            self._adopted.append(own)  # what is in it can still be drained
        if self._own is None:
            self._own = SpoolFile.create(self._folder)
        self._own.put(deliveries)

    async def adopt(self) -> int:
        """Take over what processes that are gone have left in the folder; returns how many deliveries that were."""
        found = await self._do(self._adopt)
        count = sum(file.count for file in found)
        if count:
            log.warning("spool_adopted", files=len(found), deliveries=count)
        return count

    def _adopt(self) -> list[SpoolFile]:
        found = SpoolFile.adopt(self._folder)
        self._adopted += found  # here, not by who asked: that one may be cancelled meanwhile, and these are held
        return found

    async def drain_once(self, write: Callable[[list[Spooled]], Awaitable[object]]) -> int:
        """Give the deliveries whose turn it is, of one file, to `write`, and forget them when it returns.

        Returns how many. A file of another process that can't be read is let go, and stays for a person.

        Raises:
            PassOverError: `write` raised it; the deliveries stay, and others have their turn first.
            SpoolError: this process' own file can't be read or written.
            Exception: whatever else `write` raises; the deliveries stay.

        """
        for file in self._files():
            if file.count == 0:
                continue
            try:
                deliveries = await self._do(partial(file.next, limit=DRAIN_ROWS, max_bytes=DRAIN_BYTES))
            except SpoolError as error:
                if file is self._own:
                    raise
                log.error("spool_unreadable", file=file.name, reason=str(error))
                await self._do(partial(self._let_go, file))
                continue
            if deliveries:
                try:
                    await write(deliveries)
                except PassOverError:
                    await self._do(partial(file.pass_over, deliveries))
                    raise
                await self._do(partial(file.remove, deliveries))
                return len(deliveries)
        await self._do(self._close_empty)
        return 0

    async def _do(self, work: Callable[[], T]) -> T:
        """Do something with a file in the one thread that may; once begun it is not abandoned half way."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _close_empty(self) -> None:
        for file in [file for file in self._adopted if file.count == 0]:
            self._let_go(file)
        if self._own is not None and self._own.is_spent:
            own, self._own = self._own, None  # the next delivery makes a new one
            own.close()

    def _let_go(self, file: SpoolFile) -> None:
        self._adopted.remove(file)
        file.close()

    def _close(self) -> None:
        files = self._files()
        self._own, self._adopted = None, []
        with ExitStack() as closing:  # each, also where another can't be
            for file in files:
                closing.callback(file.close)
