"""The worker: claims runs, walks them, ends them. Any number of workers share one database."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import asyncpg
import structlog

from reconciler.graph.errors import AccessDenied, Blocked, GraphError, RateLimited, TokenDead
from reconciler.planner import Planner
from reconciler.tokens import TokenUnreadableError
from reconciler.walk import Walk
from sql.cooldowns import APP, cool_down, page_scope
from sql.errors import StaleLease, describe
from sql.leases import LEASE, claim_run, finish_run, put_off_run, release_page, renew_lease
from sql.pages import mark_active, read_page, stop_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.leases import Run
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 5  # in a row, none of which got a step further
AFTER_INTERRUPTION = timedelta(seconds=2)  # doubled with each attempt
AFTER_DENIAL = timedelta(hours=1)  # a role or a permission does not come back by itself within minutes
RENEW_EVERY_SECONDS = LEASE.total_seconds() / 4
LET_GO_WITHIN_SECONDS = 5.0


class Pace(NamedTuple):
    """How often and how much."""

    interval: timedelta
    overlap: timedelta
    concurrency: int


class Ending(NamedTuple):
    """What a run came to. `state` is queued when it is put off; the Page is not due again before `next_in`."""

    state: str
    error: str | None = None
    api_calls: int = 0
    next_in: timedelta = timedelta(0)


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
        self._planner = Planner(pace.interval, client)
        self._on_end = on_end
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._places: set[asyncio.Task[None]] = set()
        self._waking = asyncio.Lock()
        self._closing = False

    async def __aenter__(self) -> Self:
        """Nothing runs until `wake`."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop every run after its last stored step, and let the Pages go: any worker resumes them."""
        self._closing = True
        for task in self._places:  # a claim that is under way is let go by whoever makes it
            task.cancel()
        if self._places:  # while the database stands still there is no letting go: the leases run out
            await asyncio.wait(self._places, timeout=LET_GO_WITHIN_SECONDS)

    async def wake(self) -> int:
        """Claim and start as many runs as there are free places; returns how many were started.

        A place goes on to the next run by itself, until there is none.
        """
        started = 0
        async with self._waking:
            while not self._closing and not self._is_full():
                run = await self._claim()
                if run is None:
                    break
                task = asyncio.create_task(self._keep_running(run), name=f"sync-run-{run.id}")
                self._places.add(task)
                task.add_done_callback(self._places.discard)
                started += 1
        return started

    async def run_once(self) -> int:
        """Claim and run what is queued until nothing is; returns how many places were filled for it."""
        ran = 0
        while True:
            ran += await self.wake()
            if not self._places:
                return ran
            await asyncio.wait(self._places, return_when=asyncio.FIRST_COMPLETED)

    def _is_full(self) -> bool:
        return len(self._places) >= self._pace.concurrency

    async def _claim(self) -> Run | None:
        async with self._pool.acquire() as connection:
            run = await claim_run(connection, self._holder)
        if run is not None and self._closing:
            await self._let_go(run)
            return None
        return run

    async def _keep_running(self, run: Run | None) -> None:
        """Walk one run after the other; whatever happens to one stays its Page's own trouble."""
        while run is not None:
            with structlog.contextvars.bound_contextvars(run=run.id, page_id=run.page_id):
                await self._run_to_end(run)
            try:
                run = await self._claim() if not self._closing else None
            except Exception as error:  # noqa: BLE001 - the database is away: the next `wake` finds out
                log.warning("claim_failed", reason=describe(error))
                run = None

    async def _run_to_end(self, run: Run) -> None:
        try:
            await self._work(run)
        except StaleLease as error:
            log.info("run_given_up", reason=str(error))
            await self._let_go(run)
        except asyncio.CancelledError:
            await self._let_go(run)
            raise
        except Exception as error:
            # the database went away, or a bug: the run is resumed in a while, but not for ever
            reason = f"interrupted by {describe(error)}"
            if isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError):
                log.warning("run_interrupted", reason=reason)
            else:
                log.exception("run_interrupted")
            await self._let_go(run, after=AFTER_INTERRUPTION * 2**run.attempts, reason=reason)

    async def _let_go(self, run: Run, *, after: timedelta = timedelta(0), reason: str | None = None) -> None:
        """Let any worker resume the run; if the database does not hear of it, the lease runs out."""
        with suppress(Exception):
            async with self._pool.acquire() as connection:
                await release_page(connection, run, after=after, reason=reason)

    async def _work(self, run: Run) -> None:
        log.info("run_started", kind=run.kind, resumed=run.checkpoint is not None)
        async with self._pool.acquire() as connection:
            page = await read_page(connection, run.page_id)
        ending = await self._ending(run, page)
        async with self._pool.acquire() as connection:
            if ending.state == "queued":
                await put_off_run(connection, run, ending.error, api_calls=ending.api_calls)
                log.info("run_put_off", reason=ending.error)
                return
            if page is not None and ending.state == "succeeded" and page.state == "needs_reauth":
                await mark_active(connection, page, now=datetime.now(UTC))
            plan = await self._planner.plan(
                connection, run, ending.state, api_calls=ending.api_calls, at_least=ending.next_in
            )
            await finish_run(
                connection, run, ending.state, error=ending.error, api_calls=ending.api_calls, next_sync=plan
            )
        self._on_end(run.kind, ending.state)
        log.info("run_ended", state=ending.state, error=ending.error)

    async def _ending(self, run: Run, page: Page | None) -> Ending:
        """Walk a run, as far as it can be walked."""
        if page is None:
            return Ending("failed", "the Page was removed")
        if page.state == "paused":
            return Ending("failed", f"the Page is paused ({page.state_reason}): resume it to go on")
        if run.attempts > MOST_ATTEMPTS:
            return Ending("failed", f"given up after {MOST_ATTEMPTS} attempts in a row; the last was {run.error}")
        try:
            token = self._tokens.open(page.token_encrypted)
        except TokenUnreadableError as error:
            return Ending("failed", str(error))
        walk = Walk(
            self._pool,
            self._client,
            run=run,
            page=page,
            token=token,
            overlap=self._pace.overlap,
            is_crowded=self._is_full,
        )
        try:
            is_done = await self._while_leased(run, walk)
        except GraphError as error:
            ending = await self._after_error(run, page, error)
        else:
            ending = _after_walk(run, walk) if is_done else Ending("queued")
        return ending._replace(api_calls=walk.calls_not_reported)

    async def _while_leased(self, run: Run, walk: Walk) -> bool:
        """Walk while the lease is kept alive."""
        heartbeat = asyncio.create_task(self._keep_lease(run))
        walking = asyncio.create_task(walk.run())
        try:
            await asyncio.wait({heartbeat, walking}, return_when=asyncio.FIRST_COMPLETED)
            if heartbeat.done():
                await heartbeat
            return await walking
        finally:
            for task in (heartbeat, walking):
                task.cancel()
            await asyncio.gather(heartbeat, walking, return_exceptions=True)

    async def _keep_lease(self, run: Run) -> None:
        """Renew the lease until it is lost; a database that is away for a moment is asked again."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(RENEW_EVERY_SECONDS)
            try:
                async with self._pool.acquire() as connection:
                    await renew_lease(connection, run)
            except StaleLease:
                raise
            except Exception as error:
                if time.monotonic() - renewed_at >= LEASE.total_seconds():
                    raise
                log.warning("lease_not_renewed", reason=describe(error))
            else:
                renewed_at = time.monotonic()

    async def _after_error(self, run: Run, page: Page, error: GraphError) -> Ending:
        """What an error that ends the walk means for the run and its Page."""
        if isinstance(error, RateLimited):
            scope = APP if error.scope == "app" else page_scope(run.page_id)
            async with self._pool.acquire() as connection:
                until = await cool_down(
                    connection,
                    scope,
                    str(error),
                    wait=error.wait,
                    first=error.pause.first,
                    longest=error.pause.longest,
                )
            return Ending("queued", f"waits until {until:%Y-%m-%d %H:%M:%S} UTC: {error}")
        if isinstance(error, TokenDead):
            await self._stop_page(page, "needs_reauth", str(error))
            return Ending("failed", f"{error}. The Page's token is dead: add the Page again with a new one")
        if isinstance(error, Blocked):
            await self._stop_page(page, "paused", str(error))
            return Ending("failed", f"{error}. The Page is paused: see to it with Meta, then resume it")
        if isinstance(error, AccessDenied):
            return Ending("failed", str(error), next_in=AFTER_DENIAL)
        return Ending("failed", str(error))

    async def _stop_page(self, page: Page, state: str, reason: str) -> None:
        log.error("page_stopped", state=state, reason=reason)
        async with self._pool.acquire() as connection:
            await stop_page(connection, page, state, reason, now=datetime.now(UTC))


def _after_walk(run: Run, walk: Walk) -> Ending:
    """What a walk that came to its end did."""
    failed = walk.failed_conversations
    if not failed:
        return Ending("succeeded")
    if run.kind == "backfill":  # nobody tries them again for it
        return Ending("failed", f"{failed} conversations could not be read: ask for the backfill again")
    return Ending("succeeded", f"{failed} conversations could not be read: tried again next time")
