"""Read single threads: those that failed before, by id, and the older messages of those that need them.

A thread that can't be read is left to the next run, and holds nobody back; unless it looks as if none can be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import structlog

from reconciler.graph.errors import (
    AccessDenied,
    BadAnswer,
    Blocked,
    GraphError,
    GraphUnavailable,
    NotFound,
    RateLimited,
    TokenDead,
)
from reconciler.graph.paging import Cursors
from reconciler.parallel import in_parallel
from reconciler.reading import page_step, read_conversations, thread_step
from reconciler.steps import Step, is_refused
from sql.audit_turns import behind, list_unaudited
from sql.threads import Known, failed_threads, known_threads, list_unfinished

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reconciler.asking import Asker
    from reconciler.audit import Share
    from reconciler.goal import Goal
    from reconciler.steps import Steps
    from sql.leases import Run
    from sql.pool import Pool
    from sql.threads import Unfinished

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

AT_A_TIME = 4  # the Page's call rate is the real limit
BATCH = 100
AWAY_AFTER = 3  # threads in a row that Graph does not answer for
TOO_HEAVY = "some of its messages are too heavy for Graph: read without attachments"
# errors that concern the Page, not one conversation: they end the run
PAGE_ERRORS = (TokenDead, AccessDenied, Blocked, RateLimited)


class ThreadReader:
    """Reads one run's threads one by one."""

    def __init__(self, pool: Pool, asker: Asker, steps: Steps, goal: Goal, run: Run, share: Share) -> None:
        self._pool, self._asker, self._steps, self._goal, self._run = pool, asker, steps, goal, run
        self._share = share
        self._away_in_a_row = 0
        self._lean: set[str] = set()

    async def retry_failed(self) -> None:
        """Read threads by id that could not be read last time: they may be far down the list.

        Raises:
            GraphError: the Page can't be read now.

        """
        if self._goal.kind == "backfill":
            return
        async with self._pool.acquire() as connection:
            failed = await failed_threads(connection, self._run.page_id, self._run.id, now=datetime.now(UTC))
        await self._few_at_a_time(failed, self._by_id)

    async def read_older(self) -> None:
        """Read what is left of the run's threads, the most recently active ones first.

        In an audit: all threads that are known, the least recently audited ones first, as far as its calls go.

        Raises:
            GraphError: the Page can't be read now.

        """
        list_left = list_unaudited if self._goal.compares else list_unfinished
        while not self._is_to_stop():
            async with self._pool.acquire() as connection:
                threads = await list_left(connection, self._run.page_id, self._run.id, limit=BATCH)
            if not threads:
                return
            await self._few_at_a_time(threads, self._older)

    async def _few_at_a_time(self, items: list[Item], read: Callable[[Item], Awaitable[None]]) -> None:
        at_a_time = 1 if self._share.is_limited else AT_A_TIME  # so that each call is counted before the next
        await in_parallel(items, read, at_a_time=at_a_time, stop=self._is_to_stop)

    def _is_to_stop(self) -> bool:
        return self._steps.is_put_off or self._share.is_spent()

    async def _by_id(self, thread_id: str) -> None:
        async def read() -> None:
            told = await self._asker.conversation(thread_id)
            nodes, unreadable = read_conversations([told.answer.data])
            if not nodes:
                raise BadAnswer(unreadable[0][1] if unreadable else "Graph shows something that is no conversation")
            async with self._pool.acquire() as connection:
                known = await known_threads(connection, self._run.page_id, self._run.id, [thread_id])
            node = nodes[0].model_copy(update={"id": thread_id})
            now = datetime.now(UTC)
            step = thread_step(self._goal, self._run.page_id, node, known.get(thread_id, Known()), told, now)
            await self._steps.store(step, told.answer)

        await self._or_give_up(thread_id, read)

    async def _older(self, thread: Unfinished) -> None:
        await self._or_give_up(thread.thread_id, lambda: self._to_target(thread))

    async def _to_target(self, thread: Unfinished) -> None:
        """Read a thread's messages page by page; a stale cursor restarts it once from its newest message."""
        cursors, has_restarted = Cursors(), False
        rest: Unfinished | None = thread
        while rest is not None and not self._is_to_stop():
            try:
                cursors.follow(rest.cursor)
                told = await self._asker.messages(rest.thread_id, rest.cursor)
            except NotFound:
                if rest.cursor is None or has_restarted:
                    raise
                cursors, has_restarted = Cursors(), True
                rest = rest._replace(cursor=None)
                continue
            if told.is_lean:  # what was left out is missing: the thread is not stored up to anywhere
                rest = rest._replace(reached=None)
            step, rest = page_step(self._goal, self._run.page_id, rest, told, datetime.now(UTC))
            if told.is_lean and thread.thread_id not in self._lean:
                self._lean.add(thread.thread_id)
                step += Step(failed=((thread.thread_id, TOO_HEAVY),))
            await self._steps.store(step, told.answer)

    async def _or_give_up(self, thread_id: str, read: Callable[[], Awaitable[None]]) -> None:
        """Read a thread; an error that is its own leaves it for the next run.

        But for a thread that Graph shows an audit no more, and of which nothing is left to read: that is a finding.
        """
        is_refused_by_graph = False
        try:
            await read()
        except PAGE_ERRORS:
            raise
        except GraphError as error:
            if isinstance(error, GraphUnavailable):
                self._away_in_a_row += 1
                if self._away_in_a_row >= AWAY_AFTER:
                    raise
            reason = str(error)
            is_refused_by_graph = self._goal.compares and isinstance(error, NotFound | BadAnswer)
        except Exception as error:
            if not is_refused(error):
                raise
            reason = f"Postgres refuses what Graph shows: {type(error).__name__}"
        else:
            self._away_in_a_row = 0
            return
        log.warning("thread_not_read", page_id=self._run.page_id, thread_id=thread_id, reason=reason)
        if is_refused_by_graph and not await self._is_behind(thread_id):
            await self._steps.store(Step(ended=(thread_id,), refused=(thread_id,)))
            return
        await self._steps.store(Step(ended=(thread_id,), failed=((thread_id, reason),)))

    async def _is_behind(self, thread_id: str) -> bool:
        async with self._pool.acquire() as connection:
            return bool(await behind(connection, self._run.page_id, self._run.id, [thread_id]))
