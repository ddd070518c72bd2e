"""A service's reconciler over a simulated Meta: the world, its Graph, a client, workers, and questions to Postgres."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.fernet import Fernet

from reconciler.graph.client import GraphClient
from reconciler.tokens import TokenBox
from reconciler.worker import Pace, Worker
from simulator import Behaviour, Faults, Graph, World, real_now
from sql.pages import put_page
from sql.sync_runs import enqueue_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from simulator import Limits, Page
    from simulator.clock import Now
    from sql.pool import Pool

SECRET = "shh"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def cut_off(_request: object) -> None:
    raise httpx.ReadTimeout("no answer")


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
            now=now or real_now,
        )
        self.faults = Faults(seed=seed)
        self.graph = Graph(
            self.world,
            app_secret=SECRET,
            behaviour=behaviour or Behaviour(),
            faults=self.faults,
            limits=limits,
            hang=cut_off,
        )
        self.tokens = TokenBox([Fernet.generate_key().decode()])
        self.overlap, self.concurrency = overlap, concurrency
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.graph.app))

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

    async def ask(self, kind: str = "incremental", page: Page | None = None, **window: Any) -> int:
        async with self.pool.acquire() as connection:
            return await enqueue_run(connection, (page or self.page).id, kind, requested_by="cli", **window)

    async def sync(self, kind: str = "incremental", page: Page | None = None, **window: Any) -> asyncpg.Record:
        """Ask for a run, work until there is nothing to do, and return the run."""
        run_id = await self.ask(kind, page, **window)
        async with self.worker() as worker:
            await worker.run_once()
        return await self.run(run_id)

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

    def list_calls(self, page: Page | None = None) -> int:
        return len(self.graph.calls_of((page or self.page).id, "/conversations"))


def milliseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
