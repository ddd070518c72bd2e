"""A service's reconciler over a simulated Meta: the world, its Graph, a client, workers, and questions to Postgres."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
from cryptography.fernet import Fernet

from reconciler.graph.client import GraphClient
from reconciler.tokens import TokenBox
from reconciler.worker import Pace, Worker
from simulator import Behaviour, Fault, Faults, Graph, TurnedClock, World
from sql.pages import put_page
from sql.rows import SENT_BY_WEBHOOK_CLOCK, Message
from sql.sync_runs import enqueue_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from simulator import Limits, Page
    from simulator.clock import Now
    from sql.pool import Pool

MakeStage: TypeAlias = "Callable[..., Awaitable[Stage]]"
SECRET = "shh"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def behaviour(**switches: Any) -> Behaviour:
    """A Graph that knows every field that is asked for, and shows at once what happened."""
    return Behaviour(has_reply_to=True, read_lag_seconds=0, **switches)


async def cut_off(_request: object) -> None:
    raise httpx.ReadTimeout("no answer")


class Killed(BaseException):
    """As `kill -9` would: nothing catches it, so nothing is tidied up."""


class Between(httpx.AsyncBaseTransport):
    """Stands between the client and Graph: `before` runs before a call is answered, `change` changes answers."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.before: Callable[[httpx.Request], Awaitable[None]] | None = None
        self.change: Callable[[str, dict[str, Any]], None] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.before is not None:
            await self.before(request)
        response = await self._inner.handle_async_request(request)
        if self.change is None or response.status_code != 200:
            return response
        body = json.loads(await response.aread())
        self.change(request.url.path, body)
        kept = {name: value for name, value in response.headers.items() if name != "content-length"}
        return httpx.Response(200, json=body, headers=kept, request=request)


class Stage:
    """All that a test of the reconciler needs. `page` is the first of the world's Pages."""

    def __init__(
        self,
        pool: Pool,
        *,
        pages: int = 1,
        conversations: int = 12,
        messages: int = 6,
        seed: int = 1,
        now: Now | None = None,
        behaviour: Behaviour | None = None,
        page_rows: int = 500,
        limits: Limits | None = None,
        overlap: timedelta = timedelta(seconds=600),
        concurrency: int = 8,
    ) -> None:
        self.pool = pool
        self.world = World(
            seed,
            pages=pages,
            conversations_per_page=conversations,
            messages_per_conversation=messages,
            now=now or TurnedClock(),
        )
        self.faults = Faults(seed=seed)
        self.graph = Graph(
            self.world,
            app_secret=SECRET,
            behaviour=behaviour or Behaviour(has_reply_to=True, read_lag_seconds=0, max_limit=page_rows),
            faults=self.faults,
            limits=limits,
            hang=cut_off,
        )
        self.key = Fernet.generate_key().decode()
        self.tokens = TokenBox([self.key])
        self.overlap, self.concurrency = overlap, concurrency
        self.behaviour = self.graph.behaviour
        self.between = Between(httpx.ASGITransport(self.graph.app))
        self.http = httpx.AsyncClient(transport=self.between)

    @property
    def page(self) -> Page:
        return self.world.pages[0]

    def client(self, **options: Any) -> GraphClient:
        settings: dict[str, Any] = {"calls_per_second": 1e6, "lag_seconds": 0, **options}
        return GraphClient(self.http, url="http://graph.test", version="v26.0", app_secret=SECRET, **settings)

    @asynccontextmanager
    async def worker(self, client: GraphClient | None = None, **options: Any) -> AsyncIterator[Worker]:
        pace = Pace(timedelta(seconds=300), self.overlap, options.pop("concurrency", self.concurrency))
        async with Worker(self.pool, client or self.client(), self.tokens, pace, **options) as worker:
            yield worker

    async def add_pages(self, *, subscribed_at: datetime = LONG_AGO) -> None:
        async with self.pool.acquire() as connection:
            for page in self.world.pages:
                sealed = self.tokens.seal(page.access_token)
                await put_page(connection, page.id, sealed, page.name, now=subscribed_at)
            await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 hour'")
            await connection.execute("UPDATE webhook_expectations SET started_at = $1", subscribed_at)

    async def expire_leases(self) -> None:
        """Let the time of whoever was killed run out."""
        await self.do("UPDATE facebook_pages SET lease_until = now() - interval '1 second' WHERE lease_until > now()")

    async def ask(self, kind: str = "incremental", page: Page | None = None, **window: Any) -> int:
        async with self.pool.acquire() as connection:
            return await enqueue_run(connection, (page or self.page).id, kind, requested_by="cli", **window)

    async def sync(self, kind: str = "incremental", page: Page | None = None, **window: Any) -> asyncpg.Record:
        """Ask for a run, work until there is nothing to do, and return the run."""
        run_id = await self.ask(kind, page, **window)
        await self.work()
        return await self.run(run_id)

    async def work(self) -> None:
        """Do what is queued, until nothing is."""
        async with self.worker() as worker:
            await worker.run_once()

    async def run(self, run_id: int) -> asyncpg.Record:
        return await self.one("SELECT * FROM sync_runs WHERE id = $1", run_id)

    async def page_row(self, page: Page | None = None) -> asyncpg.Record:
        return await self.one("SELECT * FROM facebook_pages WHERE page_id = $1", (page or self.page).id)

    async def thread_row(self, thread_id: str) -> asyncpg.Record:
        return await self.one("SELECT * FROM conversation_threads WHERE thread_id = $1", thread_id)

    async def one(self, query: str, *values: Any) -> asyncpg.Record:
        rows = await self.rows(query, *values)
        assert len(rows) == 1
        return rows[0]

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        async with self.pool.acquire() as connection:
            return await connection.fetch(query, *values)

    async def do(self, query: str, *values: Any) -> None:
        async with self.pool.acquire() as connection:
            await connection.execute(query, *values)

    async def missing(self, page: Page | None = None) -> list[str]:
        """What Graph shows of a Page and Postgres does not, or shows otherwise."""
        page = page or self.page
        stored = {
            r["mid"]: r
            for r in await self.rows("SELECT * FROM messages WHERE page_id = $1 AND sent_at IS NOT NULL", page.id)
        }
        wrong = []
        for true in self.world.true_messages(page.id):
            if not true.in_graph:
                continue
            row = stored.get(true.mid)
            if row is None:
                wrong.append(f"{true.mid} is missing")
                continue
            expected = (true.psid, true.thread_id, true.direction, true.text, true.graph_sent_at_ms)
            found = (row["psid"], row["thread_id"], row["direction"], row["text"], milliseconds(row["sent_at"]))
            if found != expected or len(row["attachments"] or []) != len(true.attachments_at(webhook=False)):
                wrong.append(f"{true.mid} is {found}, not {expected}")
        return wrong

    def threads(self, page: Page | None = None) -> list[Any]:
        """The Page's threads, newest first."""
        return list(self.world.threads(page or self.page))

    def calls(self, path: str = "") -> int:
        """How many calls were made whose path holds this."""
        return len([call for call in self.graph.calls if path in call.path])

    def list_calls(self) -> int:
        return self.calls("/conversations")

    def say(self, thread: Any, n: int = 1, *, each_seconds: float = 0.0) -> list[str]:
        """The person of a thread writes; no webhook comes. Returns the mids."""
        mids = []
        for _ in range(n):
            if each_seconds:
                self.clock.advance(each_seconds)
            mids += [item.mid or "" for item in self.world.person_sends(self.page_of(thread).id, thread.psid)]
        return mids

    def page_of(self, thread: Any) -> Page:
        page: Page = self.world.pages[thread.page]
        return page

    def updated(self, thread: Any) -> datetime:
        """A thread's `updated_time`, as Graph shows it now."""
        found = self.world.find_thread(thread.thread_id)
        assert found is not None
        return datetime.fromtimestamp((found.updated_at() or 0) // 1000, UTC)

    def after_call(self, n: int, action: Callable[[], Any]) -> None:
        """Do something once the n-th call from now on was answered."""
        left = n

        async def count(_call: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done = action()
                if isawaitable(done):
                    await done

        self.graph.hooks.append(count)

    def kill_before_call(self, n: int) -> None:
        """Kill whoever makes the n-th call from now on, before it is made."""
        left = n

        async def count(_request: httpx.Request) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.between.before = None
                raise Killed

        self.between.before = count

    async def work_until_killed(self) -> None:
        """Do what is queued until a worker is killed."""
        async with self.worker(concurrency=1) as worker:
            await worker.wake()
            (place,) = worker._places
            with pytest.raises(Killed):
                await place

    def trouble(self, fault: str, page: Page) -> None:
        """Let a fault happen to every call for one Page."""
        self.faults.add(Fault(fault, page_id=page.id))

    def forget_key(self) -> None:
        """Lose the key with which the tokens were stored."""
        self.tokens = TokenBox([Fernet.generate_key().decode()])

    def poison(self, thread: Any) -> None:
        """Let Graph fail whenever messages of this thread are asked for, alone or in a list."""

        async def fail(request: httpx.Request) -> None:
            if request.url.path.endswith(f"{thread.thread_id}/messages"):
                self.faults.add(Fault("http_500", times=1))

        def fail_list(path: str, body: dict[str, Any]) -> None:
            for node in body["data"] if path.endswith("/conversations") else []:
                if node["id"] == thread.thread_id and "messages" in node:
                    body.clear()
                    body["error"] = {"code": 1, "message": "An unknown error occurred"}
                    return

        self.between.before, self.between.change = fail, fail_list

    def refuse_details_of_old_ones(self) -> None:
        """Let Graph refuse a whole page of older messages when more than ids and times is asked for."""

        def refuse(path: str, body: dict[str, Any]) -> None:
            if path.endswith("/messages") and self.last_fields > {"id", "created_time"}:
                body.clear()
                body["error"] = {"code": 100, "message": "(#100) The message has been deleted"}

        async def note(request: httpx.Request) -> None:
            self.last_fields = set(re.findall(r"\w+", request.url.params.get("fields", "")))

        self.between.before, self.between.change = note, refuse

    def refuse_field(self, field: str) -> None:
        """Let Graph not know a field."""

        def refuse(_path: str, body: dict[str, Any]) -> None:
            if field in self.last_fields:
                body.clear()
                body["error"] = {"code": 100, "message": f"(#100) Tried accessing nonexisting field ({field})"}

        async def note(request: httpx.Request) -> None:
            self.last_fields = set(re.findall(r"\w+", request.url.params.get("fields", "")))

        self.between.before, self.between.change = note, refuse

    def webhook_row(self, thread: Any, mid: str) -> Message:
        """The row of a message as a webhook would bring it."""
        now = datetime.now(UTC)
        return Message(
            self.page_of(thread).id,
            mid,
            thread.psid,
            direction="inbound",
            sent_at=self.clock(),
            sent_at_rank=SENT_BY_WEBHOOK_CLOCK,
            original="{}",
            webhook_seen_at=now,
        )

    @property
    def clock(self) -> TurnedClock:
        assert isinstance(self.world.now, TurnedClock)
        return self.world.now


def milliseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
