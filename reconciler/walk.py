"""The page walk: conversations newest first with recent messages nested, then the older messages that are needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from reconciler.asking import Asker
from reconciler.audit import Share
from reconciler.goal import Goal
from reconciler.graph.errors import BadAnswer, NotFound
from reconciler.graph.paging import Cursors, next_cursor, rows_of
from reconciler.reading import read_conversations, thread_step
from reconciler.since import SinceProof
from reconciler.steps import Step, Steps, is_refused
from reconciler.threads import ThreadReader
from sql.audits import last_list_place
from sql.threads import Known, known_threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from reconciler.graph.client import Answer, GraphClient
    from reconciler.graph.payload import ConversationNode
    from sql.leases import Run
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

STOP_AFTER = 25  # conversations in a row that are older than the stop time
LIST_RESTARTS = 3


class Place(NamedTuple):
    """Where the walk of the list stands: the cursor to what follows, how many old ones came in a row, the last time.

    `began` is when its first page was read (Graph's clock, a lower bound), whatever run that was in; `is_concluded`:
    an audit has drawn its conclusions from the whole list.
    """

    cursor: str | None = None
    is_done: bool = False
    old_in_a_row: int = 0
    last: datetime | None = None
    restarts: int = 0
    began: datetime | None = None
    is_concluded: bool = False

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Place:
        """Read it from a checkpoint."""
        return cls(**saved | {"last": _time(saved.get("last")), "began": _time(saved.get("began"))})


class Walk:
    """One run's walk. Made from the run's checkpoint, so that any worker goes on where another stopped."""

    def __init__(
        self,
        pool: Pool,
        client: GraphClient,
        *,
        run: Run,
        page: Page,
        token: str,
        overlap: timedelta,
        is_crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool, self._run = pool, run
        saved = run.checkpoint or {}
        self._is_new = run.checkpoint is None
        self._place = Place.of(saved.get("list", {}))
        # as it was when the run began: others may have moved the watermark while it was put off
        listed_to = _time(saved["listed_to"]) if "listed_to" in saved else page.listed_to
        self._goal = Goal(run.kind, run.since, run.until, listed_to, overlap)
        can_send_since = run.kind == "incremental"
        self._asker = Asker(
            pool,
            client,
            page,
            token,
            asks_reactions=self._goal.asks_reactions,
            at=saved.get("ladders", {}),
            # a cursor of a list that was asked for without it is none of one with it
            since=self._goal.stop if page.honours_since and saved.get("sends_since", can_send_since) else None,
        )
        self._share = Share(run, lambda: self._asker.calls)
        self._since = SinceProof(pool, client, page, token, saved.get("since"))
        self._steps = Steps(
            pool,
            run,
            page,
            state=self._state,
            is_deep=lambda: self._place.is_done and self._goal.is_load and self._steps.has_older,
            is_crowded=is_crowded,
            calls=lambda: self._asker.calls,
        )
        self._threads = ThreadReader(pool, self._asker, self._steps, self._goal, run, self._share)
        self._cursors = Cursors()

    @property
    def failed_conversations(self) -> int:
        """How many conversations could not be read, in all of the run."""
        return self._steps.failed_conversations

    @property
    def calls_not_reported(self) -> int:
        """Calls since the last step was stored."""
        return self._steps.calls_not_reported

    async def run(self) -> bool:
        """Walk to the end; False when it is put off, for something more urgent. Every step is stored on its own.

        Raises:
            GraphError: the Page can't be walked now; what was read so far is stored.
            StaleLease: another worker has the run, or it was cancelled; nothing of the last step is stored.

        """
        for part in self._parts():
            if self._steps.is_put_off:
                return False
            await part()
        return not self._steps.is_put_off

    def _parts(self) -> list[Callable[[], Awaitable[None]]]:
        threads = self._threads
        if not self._goal.compares:
            return [self._read_list, threads.retry_failed, threads.read_older]
        if not self._share.is_limited:
            return [self._read_list, self._prove_since, threads.retry_failed, threads.read_older, self._close_audit]
        # a rolling audit: the list takes half of the calls at most, until single threads need no more of them
        return [
            self._go_on_with_list,
            lambda: self._read_list(self._share.is_half_spent),
            self._prove_since,
            threads.read_older,
            lambda: self._read_list(self._share.is_spent),
            threads.read_older,
            self._close_audit,
        ]

    async def _read_list(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        while not (self._place.is_done or self._steps.is_put_off or is_enough()):
            await self._list_page()

    async def _go_on_with_list(self) -> None:
        """Go on where the last rolling audit had to leave the list: else what is far down would never be listed."""
        if self._is_new:
            async with self._pool.acquire() as connection:
                saved = await last_list_place(connection, self._run.page_id, self._run.id)
            self._place = Place(saved["cursor"], began=_time(saved["began"])) if saved else self._place

    async def _prove_since(self) -> None:
        if not self._since.is_done and not self._share.is_spent(self._since.cost):
            await self._since.prove()
            await self._steps.store(Step())

    async def _close_audit(self) -> None:
        listed_from = self._place.began if self._place.is_done and not self._place.is_concluded else None
        self._place = self._place._replace(is_concluded=self._place.is_done)
        await self._steps.store(Step(closes=True, listed_from=listed_from))

    async def _list_page(self) -> None:
        try:
            self._cursors.follow(self._place.cursor)
            told = await self._asker.conversations(self._place.cursor)
        except NotFound as error:
            self._restart_list(error)
            return
        values, cursor = rows_of(told.answer.data), next_cursor(told.answer.data)
        nodes, unreadable = read_conversations(values)
        known = await self._known([node.id for node in nodes])
        if self._goal.compares:
            if self._place.cursor is None:
                self._since.note_newest(nodes)
            was_missed = [self._goal.was_missed(node.updated_time, known.get(node.id, Known())) for node in nodes]
            await self._since.note_missed(sum(was_missed))
        now = datetime.now(UTC)
        steps = {
            node.id: thread_step(self._goal, self._run.page_id, node, known.get(node.id, Known()), told, now)
            for node in nodes
            if not self._goal.is_settled(node.updated_time, known.get(node.id, Known()))
        }
        newest = max((node.updated_time for node in nodes), default=None)
        listed = Step(failed=tuple(unreadable), newest=newest)
        await self._store(steps, listed, told.answer, self._after(nodes, cursor, told.answer))

    def _restart_list(self, error: NotFound) -> None:
        """Walk the list anew: error 100 on a cursor says that it went stale; what is stored meets itself.

        Raises:
            NotFound: it is not the cursor.
            BadAnswer: it went stale again and again.

        """
        if self._place.cursor is None:
            raise error
        if self._place.restarts >= LIST_RESTARTS:
            raise BadAnswer(f"the list's cursors go stale again and again: {error}") from error
        log.info("list_cursor_stale", page_id=self._run.page_id, reason=str(error))
        self._place = Place(restarts=self._place.restarts + 1)
        self._cursors = Cursors()

    def _after(self, nodes: list[ConversationNode], cursor: str | None, answer: Answer) -> Place:
        """Where the walk stands after a page: old ones in a row are counted, and the order is checked."""
        old_in_a_row, last = self._place.old_in_a_row, self._place.last
        stop = self._goal.stop
        for node in nodes:
            if last is not None and node.updated_time > last and not self._steps.order_violated:
                self._steps.order_violated = True
                log.warning("list_out_of_order", page_id=self._run.page_id)
            last = node.updated_time
            is_old = stop is not None and node.updated_time < stop
            old_in_a_row = old_in_a_row + 1 if is_old else 0
        may_stop = old_in_a_row >= STOP_AFTER and not self._steps.order_violated
        began = answer.observed_at if self._place.cursor is None else self._place.began
        return Place(cursor, cursor is None or may_stop, old_in_a_row, last, self._place.restarts, began)

    async def _store(self, steps: dict[str, Step], listed: Step, answer: Answer, after: Place) -> None:
        """Store a page of the list: in one step, or, when Postgres refuses a row, each conversation in its own."""
        before, self._place = self._place, after
        try:
            await self._steps.store(sum(steps.values(), listed), answer)
        except Exception as error:
            if not is_refused(error):
                raise
            self._place = before
            for thread_id, step in steps.items():
                try:
                    await self._steps.store(step, answer)
                except Exception as refused:
                    if not is_refused(refused):
                        raise
                    reason = f"Postgres refuses what Graph shows: {type(refused).__name__}"
                    listed += Step(failed=((thread_id, reason),))
            self._place = after
            await self._steps.store(listed, answer)

    async def _known(self, thread_ids: list[str]) -> dict[str, Known]:
        async with self._pool.acquire() as connection:
            return await known_threads(connection, self._run.page_id, self._run.id, thread_ids)

    def _state(self) -> dict[str, Any]:
        return {
            "list": self._place._asdict(),
            "ladders": self._asker.at,
            "listed_to": self._goal.listed_to,
            "since": self._since.saved,
            "sends_since": self._asker.sends_since,
        }


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value is not None else None
