"""The worker: claims runs, walks them, ends them. Any number of workers share one database."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import structlog

from reconciler.graph.errors import GraphError, TokenDead
from reconciler.tokens import TokenUnreadableError
from reconciler.walk import Walk
from sql.errors import StaleLease
from sql.pages import mark_needs_reauth, read_page
from sql.sync_runs import LEASE, claim_run, finish_run, release_page, renew_lease

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool
    from sql.sync_runs import Run

log = structlog.get_logger(__name__)


class Pace(NamedTuple):
    """How often and how much."""

    interval: timedelta
    overlap: timedelta
    concurrency: int


class Worker:
    """Runs what is queued, several Pages at a time. Use as an async context manager; `wake` it when there is work."""

    def __init__(
        self,
        pool: Pool,
        client: GraphClient,
        tokens: TokenBox,
        pace: Pace,
        *,
        on_end: Callable[[str, str], None] = lambda _kind, _state: None,
    ) -> None:
        self._pool, self._client, self._tokens, self._pace = pool, client, tokens, pace
        self._on_end = on_end
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        """Nothing runs until `wake`."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop every run after its last stored step, and let the Pages go: any worker resumes them."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wake(self) -> int:
        """Claim and start as many runs as there are free places; returns how many were started."""
        started = 0
        while not self._closing and len(self._tasks) < self._pace.concurrency:
            async with self._pool.acquire() as connection:
                run = await claim_run(connection, self._holder)
            if run is None:
                break
            task = asyncio.create_task(self._run_to_end(run), name=f"sync-run-{run.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            started += 1
        return started

    async def run_once(self) -> int:
        """Claim and run what is queued until nothing is; returns how many runs that were."""
        ran = 0
        while True:
            ran += await self.wake()
            if not self._tasks:
                return ran
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _run_to_end(self, run: Run) -> None:
        """Walk one run; whatever happens to it stays this Page's own trouble."""
        with structlog.contextvars.bound_contextvars(run=run.id, page_id=run.page_id):
            try:
                await self._walk(run)
            except StaleLease as error:
                log.info("run_given_up", reason=str(error))
                await self._let_go(run)
            except asyncio.CancelledError:
                await self._let_go(run)
                raise
            except Exception:
                # the database went away, or a bug: the lease runs out, or is let go, and the run is resumed
                log.exception("run_interrupted")
                await asyncio.sleep(1)
                await self._let_go(run)
        if not self._closing:
            with suppress(OSError):
                await self.wake()

    async def _let_go(self, run: Run) -> None:
        with suppress(Exception):
            async with self._pool.acquire() as connection:
                await release_page(connection, run)

    async def _walk(self, run: Run) -> None:
        log.info("run_started", kind=run.kind, resumed=run.checkpoint is not None)
        async with self._pool.acquire() as connection:
            page = await read_page(connection, run.page_id)
        state, error, calls = "failed", None, 0
        if page is None:
            error = "the Page was removed"
        else:
            try:
                token = self._tokens.open(page.token_encrypted)
            except TokenUnreadableError as unreadable:
                error = str(unreadable)
            else:
                walk = Walk(self._pool, self._client, run=run, page=page, token=token, overlap=self._pace.overlap)
                walk.start_counting()
                state, error = await self._outcome(run, walk)
                calls = walk.calls_not_reported()
        async with self._pool.acquire() as connection:
            await finish_run(connection, run, state, error=error, api_calls=calls, next_in=self._pace.interval)
        self._on_end(run.kind, state)
        log.info("run_ended", state=state, error=error)

    async def _outcome(self, run: Run, walk: Walk) -> tuple[str, str | None]:
        """Walk while the lease is kept alive; returns the run's end and its error."""
        heartbeat = asyncio.create_task(self._keep_lease(run))
        walking = asyncio.create_task(walk.run())
        try:
            await asyncio.wait({heartbeat, walking}, return_when=asyncio.FIRST_COMPLETED)
            if heartbeat.done():
                await heartbeat
            await walking
        except GraphError as error:
            if isinstance(error, TokenDead):
                await self._needs_reauth(run.page_id, str(error))
                return "failed", f"{error}. The Page's token is dead: add the Page again with a new one"
            return "failed", str(error)
        finally:
            for task in (heartbeat, walking):
                task.cancel()
            await asyncio.gather(heartbeat, walking, return_exceptions=True)
        if walk.failed_conversations:
            return "succeeded", f"{walk.failed_conversations} conversations could not be read: tried again next time"
        return "succeeded", None

    async def _needs_reauth(self, page_id: str, reason: str) -> None:
        async with self._pool.acquire() as connection:
            await mark_needs_reauth(connection, page_id, reason, now=datetime.now(UTC))

    async def _keep_lease(self, run: Run) -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 4)
            async with self._pool.acquire() as connection:
                await renew_lease(connection, run)
