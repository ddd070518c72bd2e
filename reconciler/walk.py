"""The page walk: conversations newest first with recent messages nested, then the older messages that are needed.

Essay: why the watermark and `synced_to` can be trusted. Facebook cannot be asked "what changed since"; its list of
conversations has no time paging and no documented order, only, in practice, newest activity first. So a run walks the
list from the top and stops after 25 conversations in a row that are older than the Page's watermark minus the overlap.
That the list is in order is checked as it is read: one violation, and the run walks to the end instead.

The watermark alone would lose messages. While we walk, a conversation we have not reached may get a message and jump
to the top, above our cursor; the next run sees it there. But by then its older messages, those between the last run
and the jump, lie behind the stop time of a rule that asks only for what is newer than the watermark. So every thread
has its own `synced_to`: up to where its messages are stored without a gap. It is set only in the transaction that
stores the last message page it needed, and a thread's messages are read down to it, however far that is behind the
watermark; to the beginning when there is none. A thread that keeps failing keeps its `synced_to`, is tried by id in
the next run, and holds nobody back.

The watermark moves when a run has completed: its list ended, and no thread is left. It moves to the newest
`updated_time` seen, by Graph's clock, and never past the `Date` of the run's first answer: what comes in while we walk
is for the next run. All times are whole seconds, so every comparison keeps the equal second, and repeats are harmless.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from pydantic import ValidationError

from reconciler.graph.client import Answer, next_cursor
from reconciler.graph.errors import (
    AccessDenied,
    BadAnswer,
    FieldRefused,
    GraphError,
    GraphUnavailable,
    NotFound,
    RateLimited,
    TokenDead,
    TooHeavy,
)
from reconciler.graph.payload import ConversationNode, MessageNode
from reconciler.graph.rows import conversation_row, message_row, person_of, thread_row
from sql.pages import drop_field
from sql.rows import Counts, Rows
from sql.sync_runs import Progress, Run, checkpoint
from sql.threads import failed_threads, mark_failed, set_synced_to, synced_to
from sql.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reconciler.graph.client import GraphClient
    from sql.pages import Page
    from sql.pool import Pool

log = structlog.get_logger(__name__)

STOP_AFTER = 25  # conversations in a row that are older than the stop time
LIST_LIMITS = (100, 50, 25, 10, 5, 1)
MESSAGE_LIMITS = (100, 50, 25, 10, 5, 1)
NESTED_MESSAGES = 20
THREADS_AT_A_TIME = 4
_CONVERSATION_FIELDS = ("id", "updated_time", "participants", "message_count", "unread_count", "can_reply")
_MESSAGE_FIELDS = (
    "id",
    "created_time",
    "from",
    "to",
    "message",
    "attachments",
    "sticker",
    "shares{id,link,name,description}",
    "reply_to",
)
_NEEDED_FIELDS = {"id", "updated_time", "created_time"}
# errors that concern the Page, not one conversation: they end the run
_PAGE_ERRORS = (TokenDead, AccessDenied, RateLimited, GraphUnavailable)


class Unfinished(NamedTuple):
    """A thread whose messages are not all read yet.

    `cursor` is None at its first page; `target` is the time down to which to read, None for the beginning; `reached`
    is what `synced_to` becomes at the end, None to leave it.
    """

    cursor: str | None
    target: datetime | None
    reached: datetime | None
    psid: str | None


class Walk:
    """One run's walk. Made from the run's checkpoint, so that any worker goes on where another stopped."""

    def __init__(
        self, pool: Pool, client: GraphClient, *, run: Run, page: Page, token: str, overlap: timedelta
    ) -> None:
        self._pool, self._client, self._run, self._page, self._token = pool, client, run, page, token
        self._overlap = overlap
        self._dropped = set(page.dropped_fields)
        self._asks_reactions = run.kind in {"full", "audit"}
        self._limits = {"list": 0, "messages": 0}
        self._reported_calls = 0
        self._first_response_at = run.first_response_at
        self._storing = asyncio.Lock()
        saved = run.checkpoint or {}
        self._list_cursor: str | None = saved.get("list_cursor")
        self._list_done: bool = saved.get("list_done", False)
        self._old_in_row: int = saved.get("old_in_row", 0)
        self._last_listed: datetime | None = _time(saved.get("last_listed"))
        self._order_violated = run.order_violated
        self._retried: bool = saved.get("retried", False)
        self._unfinished = {
            thread_id: Unfinished(u["cursor"], _time(u["target"]), _time(u["reached"]), u["psid"])
            for thread_id, u in saved.get("unfinished", {}).items()
        }
        self.failed_conversations = 0

    @property
    def stop(self) -> datetime | None:
        """The run's stop time: conversations older than it are of no interest; None for the whole list."""
        if self._run.kind == "backfill":
            return self._run.since
        if self._run.kind != "incremental" or self._page.watermark is None:
            return None
        return self._page.watermark - self._overlap

    async def run(self) -> None:
        """Walk to the end. Every step is stored, with the checkpoint, in a transaction of its own.

        Raises:
            GraphError: the Page can't be walked now; what was read so far is stored.
            StaleLease: another worker has the run, or it was cancelled; nothing of the last step is stored.

        """
        if not self._retried:
            await self._retry_failed()
        while not self._list_done:
            await self._list_page()
        await self._read_older_messages()

    def calls_not_reported(self) -> int:
        """Calls since the last step was stored."""
        return self._client.calls.get(self._page.page_id, 0) - self._reported_calls

    def start_counting(self) -> None:
        """Count this Page's calls from here."""
        self._reported_calls = self._client.calls.get(self._page.page_id, 0)

    # -- the list ---------------------------------------------------------------------------------------------

    async def _list_page(self) -> None:
        params: dict[str, str | int] = {"platform": "messenger"}
        if self._list_cursor is not None:
            params["after"] = self._list_cursor
        try:
            answer = await self._ask(f"{self._page.page_id}/conversations", params, "list", self._node_fields)
        except NotFound as error:
            if self._list_cursor is None:
                raise
            # error 100 on a cursor: it went stale, the list is walked anew (what is stored meets itself)
            log.info("list_cursor_stale", page_id=self._page.page_id, error=str(error))
            self._list_cursor, self._old_in_row, self._last_listed = None, 0, None
            return
        values = answer.data.get("data")
        nodes = list(_valid(ConversationNode, values if isinstance(values, list) else []))
        known = await self._known(node.id for node in nodes)
        self._check_order(nodes)
        cursor = next_cursor(answer.data)
        await self._store(answer, nodes, known, cursor, list_ended=cursor is None or self._may_stop())

    def _check_order(self, nodes: list[ConversationNode]) -> None:
        """Count old ones in a row, and notice a list that is not newest first."""
        stop = self.stop
        for node in nodes:
            if self._last_listed is not None and node.updated_time > self._last_listed and not self._order_violated:
                self._order_violated = True
                log.warning("list_out_of_order", page_id=self._page.page_id, run=self._run.id)
            self._last_listed = node.updated_time
            is_old = stop is not None and node.updated_time < stop
            self._old_in_row = self._old_in_row + 1 if is_old else 0

    def _may_stop(self) -> bool:
        return not self._order_violated and self._old_in_row >= STOP_AFTER

    async def _known(self, thread_ids: Iterable[str]) -> dict[str, tuple[datetime | None, bool]]:
        async with self._pool.acquire() as connection:
            return await synced_to(connection, self._page.page_id, list(thread_ids))

    def _target(self, stored: datetime | None) -> datetime | None:
        """Down to where a thread's messages are needed; None for the beginning."""
        if self._run.kind == "backfill":
            return self._run.since
        if self._run.kind != "incremental" or stored is None:
            return None
        target = stored - self._overlap
        return min(target, self.stop) if self.stop is not None else target

    async def _store(
        self,
        answer: Answer,
        nodes: list[ConversationNode],
        known: dict[str, tuple[datetime | None, bool]],
        cursor: str | None,
        *,
        list_ended: bool,
    ) -> None:
        """Store a list page: rows, the threads it completes, and those whose older messages are still to be read."""
        rows = Rows()
        complete: list[tuple[str, datetime]] = []
        unfinished = dict(self._unfinished)
        taken = 0
        for node in nodes:
            stored, has_failed = known.get(node.id, (None, False))
            if self._is_settled(node, stored, has_failed=has_failed):
                continue
            taken += 1
            messages = list(_valid(MessageNode, _edge(node.messages)))
            psid = person_of(self._page.page_id, node, messages)
            self._add_rows(rows, node.id, psid, messages, answer, node=node)
            target = self._target(stored)
            reached = None if self._run.kind == "backfill" else node.updated_time
            nested = next_cursor(node.messages)
            if self._reaches(messages, target) or nested is None:
                unfinished.pop(node.id, None)
                if reached is not None:
                    complete.append((node.id, reached))
            else:
                unfinished[node.id] = Unfinished(nested, target, reached, psid)
        self._list_cursor, self._list_done, self._unfinished = cursor, list_ended, unfinished
        newest = max((node.updated_time for node in nodes), default=None)
        await self._commit(answer, rows, complete, conversations=taken, newest=newest)

    def _is_settled(self, node: ConversationNode, stored: datetime | None, *, has_failed: bool) -> bool:
        """Whether a listed thread has nothing for this run: older than the stop time, and read to its end before."""
        stop = self.stop
        if stop is None or node.updated_time >= stop:
            return False
        if self._run.kind == "backfill":
            return True
        return stored is not None and stored >= node.updated_time and not has_failed

    @staticmethod
    def _reaches(messages: list[MessageNode], target: datetime | None) -> bool:
        """Whether a page of messages, newest first, goes back beyond `target`."""
        oldest = next((m.created_time for m in reversed(messages) if m.created_time is not None), None)
        return target is not None and oldest is not None and oldest < target

    # -- older messages ---------------------------------------------------------------------------------------

    async def _read_older_messages(self) -> None:
        """Read the unfinished threads, a few at a time; the Page's call rate is the real limit."""
        waiting = sorted(self._unfinished)

        async def read_some() -> None:
            while waiting:
                await self._read_thread(waiting.pop(0))

        tasks = [asyncio.create_task(read_some()) for _ in range(min(THREADS_AT_A_TIME, len(waiting)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_thread(self, thread_id: str) -> None:
        """Read a thread's messages page by page. An error that is the thread's own leaves it for the next run."""
        restarted = False
        while thread_id in self._unfinished:
            try:
                await self._message_page(thread_id)
            except _PAGE_ERRORS:
                raise
            except GraphError as error:
                if isinstance(error, NotFound) and self._unfinished[thread_id].cursor is not None and not restarted:
                    restarted = True  # a stale cursor: read the thread from its newest message again
                    self._unfinished[thread_id] = self._unfinished[thread_id]._replace(cursor=None)
                    continue
                await self._give_up(thread_id, error)

    async def _message_page(self, thread_id: str) -> None:
        todo = self._unfinished[thread_id]
        params: dict[str, str | int] = {"after": todo.cursor} if todo.cursor is not None else {}
        answer = await self._ask(f"{thread_id}/messages", params, "messages", self._message_fields)
        messages = list(_valid(MessageNode, _edge(answer.data)))
        cursor = next_cursor(answer.data)
        psid = todo.psid or person_of(self._page.page_id, None, messages)
        rows = Rows()
        self._add_rows(rows, thread_id, psid, messages, answer)
        async with self._storing:
            complete: list[tuple[str, datetime]] = []
            if cursor is None or self._reaches(messages, todo.target):
                del self._unfinished[thread_id]
                if todo.reached is not None:
                    complete.append((thread_id, todo.reached))
            else:
                self._unfinished[thread_id] = todo._replace(cursor=cursor, psid=psid)
            await self._commit(answer, rows, complete)

    async def _give_up(self, thread_id: str, error: GraphError) -> None:
        log.warning("thread_not_read", page_id=self._page.page_id, thread_id=thread_id, error=str(error))
        async with self._storing:
            self._unfinished.pop(thread_id, None)
            self.failed_conversations += 1
            async with self._pool.acquire() as connection, connection.transaction():
                await mark_failed(connection, self._page.page_id, thread_id, str(error), now=datetime.now(UTC))
                await checkpoint(connection, self._run, self._state(), Progress(Counts(), failed_conversations=1))

    async def _retry_failed(self) -> None:
        """Put threads that could not be read last time among the unfinished: by id, they may be far down the list."""
        async with self._pool.acquire() as connection:
            failed = await failed_threads(connection, self._page.page_id)
            known = await synced_to(connection, self._page.page_id, failed)
        for thread_id in failed:
            try:
                answer = await self._ask(thread_id, {}, "list", self._node_fields)
            except _PAGE_ERRORS:
                raise
            except GraphError as error:
                await self._give_up(thread_id, error)
                continue
            nodes = list(_valid(ConversationNode, [answer.data]))
            await self._store(answer, nodes, known, self._list_cursor, list_ended=self._list_done)
        self._retried = True

    # -- what both parts share --------------------------------------------------------------------------------

    def _add_rows(
        self,
        rows: Rows,
        thread_id: str,
        psid: str | None,
        messages: list[MessageNode],
        answer: Answer,
        *,
        node: ConversationNode | None = None,
    ) -> None:
        page_id, now = self._page.page_id, datetime.now(UTC)
        rows.threads.append(thread_row(page_id, thread_id, psid))
        if node is not None:
            rows.conversations.append(conversation_row(page_id, node, psid, answer.observed_at))
        asked = self._asks_reactions and "reactions" not in self._dropped
        rows.messages += [
            message_row(page_id, thread_id, psid, m, observed_at=answer.observed_at, now=now, asked_reactions=asked)
            for m in messages
        ]

    async def _commit(
        self,
        answer: Answer,
        rows: Rows,
        complete: list[tuple[str, datetime]],
        *,
        conversations: int = 0,
        newest: datetime | None = None,
    ) -> None:
        """Store rows, what they complete and the checkpoint, all or nothing."""
        if self._first_response_at is None:
            self._first_response_at = answer.date
        calls = self.calls_not_reported()
        async with self._pool.acquire() as connection, connection.transaction():
            counts = await upsert(connection, rows, expected_since=self._page.subscribed_at)
            await set_synced_to(connection, self._page.page_id, complete)
            progress = Progress(
                counts,
                conversations=conversations,
                messages=len(rows.messages),
                api_calls=calls,
                order_violated=self._order_violated,
                first_response_at=self._first_response_at,
                newest_updated_time=newest,
            )
            await checkpoint(connection, self._run, self._state(), progress)
        self._reported_calls += calls

    def _state(self) -> dict[str, Any]:
        return {
            "list_cursor": self._list_cursor,
            "list_done": self._list_done,
            "old_in_row": self._old_in_row,
            "last_listed": self._last_listed,
            "retried": self._retried,
            "unfinished": {thread_id: u._asdict() for thread_id, u in self._unfinished.items()},
        }

    async def _ask(self, path: str, params: dict[str, str | int], kind: str, fields: Any) -> Answer:
        """Call with as much as Graph allows: less when it is too heavy, without fields that it refuses."""
        limits = LIST_LIMITS if kind == "list" else MESSAGE_LIMITS
        while True:
            limit = limits[self._limits[kind]]
            asked = {**params, "fields": fields()}
            if "/" in path:
                asked["limit"] = limit
            try:
                return await self._client.get(self._token, self._page.page_id, path, asked)
            except TooHeavy:
                if self._limits[kind] == len(limits) - 1:
                    raise
                self._limits[kind] += 1
            except FieldRefused as error:
                await self._drop_field(error)

    async def _drop_field(self, error: FieldRefused) -> None:
        """Go on without a field that Graph does not know for this Page, and remember it."""
        known = {name.partition("{")[0] for name in (*_CONVERSATION_FIELDS, *_MESSAGE_FIELDS, "reactions")}
        if error.field is None or error.field in self._dropped | _NEEDED_FIELDS or error.field not in known:
            raise BadAnswer(f"Graph refuses a field that can't be left out: {error}") from error
        log.warning("field_dropped", page_id=self._page.page_id, field=error.field)
        self._dropped.add(error.field)
        async with self._pool.acquire() as connection:
            await drop_field(connection, self._page.page_id, error.field)

    def _message_fields(self) -> str:
        names = [*_MESSAGE_FIELDS, *(["reactions"] if self._asks_reactions else [])]
        return ",".join(name for name in names if name.partition("{")[0] not in self._dropped)

    def _node_fields(self) -> str:
        own = ",".join(name for name in _CONVERSATION_FIELDS if name not in self._dropped)
        return f"{own},messages.limit({NESTED_MESSAGES}){{{self._message_fields()}}}"


def _edge(edge: object) -> list[Any]:
    data = edge.get("data") if isinstance(edge, dict) else None
    return data if isinstance(data, list) else []


def _valid(shape: Any, values: list[Any]) -> Iterable[Any]:
    """Read nodes one by one; one that is of another shape is reported and costs no other."""
    for value in values:
        try:
            yield shape.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            log.warning("graph_row_unreadable", shape=shape.__name__, where=str(first["loc"]), reason=first["msg"])


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value is not None else None
