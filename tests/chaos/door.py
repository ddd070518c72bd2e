"""One way in for webhooks, with a spool, that dies as a process does and starts again on what is left of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import httpx

from app.webhook.delivery_reader import DeliveryReader
from app.webhook.drain import Drain
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.receiver import Receiver
from sql.ingest import Ingestor
from sql.spool import Spool
from tests.app.webhook.support import SECRET, VERIFY_TOKEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path
    from typing import Self

    from sql.ingest import Ingest
    from sql.pool import Pool
    from sql.rows import Counts

When: TypeAlias = Literal["before the commit", "after the commit"]
TURNS = 50  # of the event loop, in which an answer that is given gets to whoever posted


class MortalIngestor(Ingestor):
    """It writes, until it is told how to go wrong at its next write."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._dies: When | None = None
        self._is_in_doubt = False
        self.is_dying = asyncio.Event()

    def die(self, when: When) -> None:
        """Never come back from the next write, in which this was committed or not."""
        self._dies = when

    def doubt(self) -> None:
        """Lose the connection of the next write when it has committed, so that nobody here knows."""
        self._is_in_doubt = True

    async def write(self, group: Sequence[Ingest]) -> Counts:
        dies, self._dies = self._dies, None
        is_in_doubt, self._is_in_doubt = self._is_in_doubt, False
        if dies == "before the commit":
            await self._die()
        counts = await super().write(group)
        if dies is not None:
            await self._die()
        if is_in_doubt:
            raise ConnectionResetError("lost, the play says so")
        return counts

    async def _die(self) -> None:
        self.is_dying.set()
        await asyncio.Event().wait()


class Door:
    """Use as an async context manager. Several doors may share a folder, as processes of one machine do."""

    spool: Spool
    durable: Durable
    drain: Drain
    ingestor: MortalIngestor

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self._stack = AsyncExitStack()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self._serve), base_url="https://mirror.test")

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.http)
        await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()
        await self._stack.aclose()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._receiver(scope, receive, send)

    async def _start(self) -> None:
        reader = DeliveryReader()
        self.spool = await Spool(self._folder, max_bytes=2**30).__aenter__()
        self.ingestor = MortalIngestor(self._pool)
        self.durable = Durable(await GroupCommit(self.ingestor).__aenter__(), self.spool, reader)
        self.drain = Drain(self.spool, self._pool, self.ingestor, reader, self.durable)
        self._receiver = Receiver(self.durable, secrets=[SECRET], verify_tokens=[VERIFY_TOKEN])

    async def _end(self) -> None:
        """Stop in the midst of everything. What is in the spool stays there, and its lock goes, as the kernel does."""
        writers = self.durable.group_commit._writers
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await self.spool.__aexit__()

    async def crash(self, when: When, work: Sequence[Awaitable[bool]]) -> list[bool]:
        """Die in the first write of this work, or at its end when it has none; returns what of it was done, and start.

        Whoever shares the folder may take over what is left there before this door is open again.
        """
        self.ingestor.die(when)
        tasks = [asyncio.ensure_future(one) for one in work]
        dying = asyncio.create_task(self.ingestor.is_dying.wait())
        done = asyncio.create_task(_all_of(tasks))
        await asyncio.wait({dying, done}, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for task in (dying, done, *tasks):
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(dying, done, return_exceptions=True)
        await self._end()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return [outcome is True for outcome in outcomes]

    async def start_again(self) -> None:
        """Open after a crash, and take over what was left in the folder."""
        await self._start()

    @property
    def is_away(self) -> bool:
        return self.durable.is_away

    @property
    def spooled(self) -> int:
        return self.spool.depth


async def _all_of(tasks: Sequence[asyncio.Future[bool]]) -> bool:
    return all(await asyncio.gather(*tasks))
