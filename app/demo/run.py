"""The demo: Postgres, a simulated Facebook and the service; history, live traffic with losses, and the comparison."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from rich.live import Live

from app.demo.comparison import Difference, at, compare_conversations, compare_messages
from app.demo.screen import arrivals_table, curl_lines, summary
from app.demo.service import GRAPH_LAG_SECONDS, DemoError, Service, service
from simulator import Graph, Life, Limits, Sender, World, serving
from sql import embedded
from sql.arrivals import arrivals_by_page
from sql.export import export_conversations, export_messages
from sql.pool import open_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rich.console import Console

    from simulator.items import Item
    from sql.pool import Pool

WITHHELD, REPEATED, REORDERED = 0.10, 0.05, 0.05
MESSAGES_PER_CONVERSATION = 15  # of the history, on average
EVENTS_PER_SECOND = 20
DRAW_EVERY_SECONDS = 0.5
SYNC_WITHIN_SECONDS = 300


class Options(NamedTuple):
    """What the user chose."""

    seconds: float
    pages: int
    seed: int
    port: int
    keep: bool


class Delivered:
    """What reached the mirror: per message the kinds of items, per person the newest receipts."""

    def __init__(self) -> None:
        self.kinds: dict[str, set[str]] = defaultdict(set)
        self.watermarks: dict[tuple[str, str], datetime] = {}

    def note(self, item: Item) -> None:
        """Remember an item of a delivery that was answered 200."""
        if item.mid is not None:
            self.kinds[item.mid].add(item.kind)
        if item.kind in {"read", "delivery"} and item.psid is not None:
            key = (item.psid, item.kind)
            watermark = at(item.value[item.kind]["watermark"])
            self.watermarks[key] = max(watermark, self.watermarks.get(key, watermark))


class Demo:
    """One demo, on a folder of its own."""

    def __init__(self, options: Options, folder: Path, console: Console) -> None:
        self._options, self._folder, self._console = options, folder, console
        self._world = World(options.seed, pages=options.pages, messages_per_conversation=MESSAGES_PER_CONVERSATION)
        self._delivered = Delivered()

    async def run(self) -> int:
        """Run it to its end; returns how many rows were missing or wrong.

        Raises:
            DemoError: a part of it did not work.

        """
        app_secret = secrets.token_hex(16)
        graph = Graph(self._world, app_secret=app_secret, limits=Limits())
        say = self._console.print
        say("starting Postgres, a simulated Facebook and messenger-mirror ...")
        async with (
            self._postgres() as pool,
            serving(graph.app) as graph_url,
            service(self._folder, port=self._options.port, graph_url=graph_url, app_secret=app_secret) as served,
            httpx.AsyncClient(base_url=served.url, timeout=SYNC_WITHIN_SECONDS + 30) as http,
        ):
            api = _Api(http, served)
            await api.shake_hands()
            await self._load_history(api)
            began = datetime.now(UTC)
            sender = self._sender(http, served)
            await self._live(sender, pool, began)
            say("traffic has ended; a last sync repairs what is still missing ...")
            # Graph's data may be this much older than its Date, which is in whole seconds
            await asyncio.sleep(GRAPH_LAG_SECONDS + 1.5)
            await api.sync_all("full")
            differences = await self._compare(pool)
            async with pool.acquire() as connection:
                say(arrivals_table(await arrivals_by_page(connection, since=began), self._names()))
            say(summary(self._world, sender.counts, differences))
            if self._options.keep:
                say(curl_lines(served, self._world))
                await self._go_on(sender)
            return len(differences)

    def _names(self) -> dict[str, str]:
        return {page.id: page.name for page in self._world.pages}

    @asynccontextmanager
    async def _postgres(self) -> AsyncIterator[Pool]:
        server = await asyncio.to_thread(embedded.start, self._folder / "data")
        try:
            async with open_pool(server.dsn, min_size=1, max_size=2) as pool:
                yield pool
        finally:
            await asyncio.to_thread(server.stop)

    def _sender(self, http: httpx.AsyncClient, served: Service) -> Sender:
        return Sender(
            http,
            f"{served.url}/webhook",
            served.app_secret,
            world=self._world,
            seed=self._options.seed,
            withhold=WITHHELD,
            repeat=REPEATED,
            reorder=REORDERED,
            batch=5,
            concurrency=8,
            on_acknowledged=self._delivered.note,
        )

    async def _load_history(self, api: _Api) -> None:
        for page in self._world.pages:
            await api.add_page(page.access_token)
        began = time.monotonic()
        await api.sync_all("incremental")
        self._console.print(
            f"{len(self._world.pages)} Pages added, their history read in {time.monotonic() - began:.1f} s "
            "(at 2 calls a second for each Page, as Meta allows)"
        )

    async def _live(self, sender: Sender, pool: Pool, began: datetime) -> None:
        """Let life go on for a while, and show how its messages arrive."""
        traffic = asyncio.create_task(self._traffic(sender, self._options.seconds))
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not traffic.done():
                async with pool.acquire() as connection:
                    rows = await arrivals_by_page(connection, since=began)
                live.update(arrivals_table(rows, self._names()), refresh=True)
                await asyncio.wait({traffic}, timeout=DRAW_EVERY_SECONDS)
        await traffic
        await sender.flush()
        await sender.retry_due()

    async def _traffic(self, sender: Sender, seconds: float) -> None:
        life = Life(self._world, seed=self._options.seed)
        until = time.monotonic() + seconds
        batch = max(round(EVENTS_PER_SECOND / 10), 1)
        while time.monotonic() < until:
            await sender.send([item for _ in range(batch) for item in life.happen()])
            await asyncio.sleep(0.1)

    async def _go_on(self, sender: Sender) -> None:
        life = Life(self._world, seed=self._options.seed + 1)
        while True:
            await sender.send(life.happen())
            await sender.retry_due()
            await asyncio.sleep(1)

    async def _compare(self, pool: Pool) -> list[Difference]:
        found: list[Difference] = []
        async with pool.acquire() as connection:
            for page in self._world.pages:
                truth = self._world.truth(page.id)
                rows = await export_messages(connection, page.id)
                found += compare_messages(page.id, truth.messages, rows, self._delivered.kinds)
                conversations = await export_conversations(connection, page.id)
                found += compare_conversations(page.id, truth.conversations, conversations, self._delivered.watermarks)
        return found


class _Api:
    """The service's API, as an operator uses it."""

    def __init__(self, http: httpx.AsyncClient, served: Service) -> None:
        self._http, self._served = http, served
        self._headers = {"authorization": f"Bearer {served.api_key}"}

    async def shake_hands(self) -> None:
        """Do as Meta does when the callback URL is set."""
        params = {"hub.mode": "subscribe", "hub.verify_token": self._served.verify_token, "hub.challenge": "1158201444"}
        answer = await self._http.get("/webhook", params=params)
        if answer.text != "1158201444":
            raise DemoError(f"the handshake failed: HTTP {answer.status_code}")

    async def add_page(self, token: str) -> None:
        """Add a Page by its token."""
        await self._post("/api/pages", {"access_token": token}, {201})

    async def sync_all(self, mode: str) -> None:
        """Sync every Page, and wait."""
        answer = await self._post(
            "/api/conversations/sync-all", {"mode": mode, "wait_seconds": SYNC_WITHIN_SECONDS}, {200, 202}
        )
        failed = [run for run in answer["data"] if run["state"] != "succeeded"]
        if failed:
            raise DemoError(f"a sync did not succeed: {failed[0]['state']}, {failed[0]['error']}")

    async def _post(self, path: str, body: dict[str, Any], expected: set[int]) -> dict[str, Any]:
        answer = await self._http.post(path, json=body, headers=self._headers)
        if answer.status_code not in expected:
            raise DemoError(f"POST {path}: HTTP {answer.status_code} {answer.text[:300]}")
        content: dict[str, Any] = answer.json()
        return content
