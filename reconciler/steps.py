"""Store what one answer of Graph brings: rows, what they complete, and the run's checkpoint, all or nothing."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from reconciler.audit import Auditor
from sql.audit_threads import mark_listed
from sql.errors import Refusal, refusal_of
from sql.leases import Progress, checkpoint
from sql.repairs import note_brought
from sql.rows import Rows
from sql.threads import Reached, Unfinished, mark_failed, put_unfinished, remove_unfinished, set_synced_to
from sql.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.graph.client import Answer
    from sql.audit_threads import Listing
    from sql.leases import Run
    from sql.pages import Page
    from sql.pool import Pool
    from sql.rows import Row

log = structlog.get_logger(__name__)

RETRIES = 8


def is_refused(error: Exception) -> bool:
    """Whether Postgres refuses these rows, and would at any other moment, too."""
    return refusal_of(error) is Refusal.SPLIT


class Step(NamedTuple):
    """What there is to store. `unfinished` are threads to read on with, `ended` those to read no further.

    In an audit, `listings` are to be compared, and Graph shows nothing of threads that it `refused`; with the step that
    `closes` it ends, whatever it has not read. `listed_from` is when a list began that has come to its end.
    """

    rows: tuple[Row, ...] = ()
    complete: tuple[Reached, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    ended: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    conversations: int = 0
    messages: int = 0
    newest: datetime | None = None
    listings: tuple[Listing, ...] = ()
    refused: tuple[str, ...] = ()
    closes: bool = False
    listed_from: datetime | None = None

    def __add__(self, other: object) -> Step:
        """Put two steps into one."""
        if not isinstance(other, Step):
            return NotImplemented
        newest = [at for at in (self.newest, other.newest) if at is not None]
        return Step(
            self.rows + other.rows,
            self.complete + other.complete,
            self.unfinished + other.unfinished,
            self.ended + other.ended,
            self.failed + other.failed,
            self.conversations + other.conversations,
            self.messages + other.messages,
            max(newest, default=None),
            self.listings + other.listings,
            self.refused + other.refused,
            self.closes or other.closes,
            self.listed_from or other.listed_from,
        )


class Steps:
    """Stores a run's steps, one after the other.

    `state` makes the checkpoint, `is_deep` tells whether only older messages are left, `calls` counts this Page's
    calls. `is_put_off` becomes true when something more urgent waits.
    """

    def __init__(
        self,
        pool: Pool,
        run: Run,
        page: Page,
        *,
        state: Callable[[], dict[str, Any]],
        is_deep: Callable[[], bool],
        is_crowded: Callable[[], bool],
        calls: Callable[[], int],
    ) -> None:
        self._pool, self._run, self._page = pool, run, page
        self._state, self._is_deep, self._is_crowded, self._calls = state, is_deep, is_crowded, calls
        self._reported_calls = calls()
        self._first_response_at = run.first_response_at
        self._auditor = Auditor(run) if run.kind == "audit" else None
        self._alone = asyncio.Lock()
        self.order_violated = run.order_violated
        self.failed_conversations = run.failed_conversations
        self.is_put_off = False
        self.has_older = run.checkpoint is not None  # whether threads may be left to read on with

    @property
    def calls_not_reported(self) -> int:
        """Calls since the last step was stored."""
        return self._calls() - self._reported_calls

    async def store(self, step: Step, answer: Answer | None = None) -> None:
        """Store a step and the checkpoint. `answer` is what brought it.

        Raises:
            StaleLease: another worker has the run, or it was cancelled; nothing is stored.
            asyncpg.PostgresError: as Postgres refused; nothing is stored.

        """
        async with self._alone:
            if answer is not None and self._first_response_at is None:
                self._first_response_at = answer.date
            for attempt in range(RETRIES):
                try:
                    await self._transaction(step, answer)
                except Exception as error:
                    if refusal_of(error) is not Refusal.RETRY or attempt == RETRIES - 1:
                        raise
                    log.info("step_retried", reason=type(error).__name__, attempt=attempt + 1)
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, no secret
                else:
                    break
            self.failed_conversations += len(step.failed)

    async def _transaction(self, step: Step, answer: Answer | None) -> None:
        rows = Rows()
        rows.add(step.rows)
        self.has_older = self.has_older or bool(step.unfinished)
        page_id, run_id, calls = self._page.page_id, self._run.id, self.calls_not_reported
        async with self._pool.acquire() as connection, connection.transaction():
            before = await self._auditor.look(connection, step) if self._auditor else {}
            counts = await upsert(connection, rows)
            repaired = 0
            if answer is not None and rows.messages:
                repaired = await note_brought(
                    connection, page_id, run_id, rows.messages, observed_at=answer.observed_at
                )
            await mark_listed(connection, page_id, {message.mid for message in rows.messages})
            found = await self._auditor.compare(connection, step, before) if self._auditor else {}
            await set_synced_to(connection, page_id, run_id, step.complete)
            done = [*step.ended, *(reached.thread_id for reached in step.complete)]
            if done:
                await remove_unfinished(connection, page_id, run_id, done)
            await put_unfinished(connection, page_id, run_id, step.unfinished)
            if self._run.kind != "backfill":  # a backfill promises nothing to the runs after it
                await mark_failed(connection, page_id, run_id, step.failed, now=datetime.now(UTC))
            if self._auditor:
                await self._auditor.keep(connection, step, found)
            progress = Progress(
                counts.inserted,
                repaired,
                conversations=step.conversations,
                messages=step.messages,
                api_calls=calls,
                failed_conversations=len(step.failed),
                order_violated=self.order_violated,
                is_deep=self._is_deep(),
                first_response_at=self._first_response_at,
                newest_updated_time=step.newest,
            )
            put_off = await checkpoint(connection, self._run, self._state(), progress, is_crowded=self._is_crowded())
        self.is_put_off = put_off
        self._reported_calls += calls
