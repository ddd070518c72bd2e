"""Two processes share the work, one or the other of which is killed again and again: they end in the truth, too."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx

from app.demo.run import Delivered
from simulator import Behaviour, Graph, Life, Sender, World, real_now, serving
from sql.pool import open_pool
from tests.app.service import APP_SECRET, AUTHORIZATION
from tests.chaos import verdict
from tests.chaos.figures import note_figures
from tests.chaos.ledger import Ledger
from tests.chaos.machines import WITHIN_SECONDS, Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from simulator import Item
    from sql.pool import Pool
    from tests.chaos.machines import Database

KILLS = int(os.environ.get("MIRROR_KILLS", "0")) // 4 or 2
BETWEEN = 60  # things that happen
READ_LAG_SECONDS, LAG_ALLOWANCE_SECONDS, QUIET_SECONDS = 1, 2, 30


class Town:
    """A simulated Facebook whose clock can be set forward, and what was acknowledged of it."""

    def __init__(self, seed: int) -> None:
        self._ahead = timedelta(0)
        self.world = World(
            seed, pages=3, conversations_per_page=5, messages_per_conversation=4, now=lambda: real_now() + self._ahead
        )
        behaviour = Behaviour(read_lag_seconds=READ_LAG_SECONDS, max_limit=7)
        self.graph = Graph(self.world, app_secret=APP_SECRET, behaviour=behaviour)
        self.delivered = Delivered()
        self.told: list[Item] = []
        self.ledger = Ledger()
        self._awaited, self._enough = 0, asyncio.Event()

    def now(self) -> datetime:
        return self.world.now()

    def let_time_pass(self) -> None:
        self._ahead += timedelta(seconds=QUIET_SECONDS)

    def note(self, item: Item) -> None:
        self.delivered.note(item)
        self.told.append(item)
        if len(self.told) >= self._awaited:
            self._enough.set()

    async def has_told(self, more: int) -> None:
        """Wait until so many more items were acknowledged."""
        self._awaited = len(self.told) + more
        self._enough.clear()
        async with asyncio.timeout(WITHIN_SECONDS):
            await self._enough.wait()


async def deliver(senders: Sequence[Sender], items: list[Item]) -> None:
    """Deliver to one, or to another one while that is dead, as a proxy does."""
    for sender in [*senders, *senders]:
        if await sender.deliver(items):
            return
    raise AssertionError("nobody takes a delivery")


async def live(life: Life, senders: Sequence[Sender], chance: random.Random) -> None:
    """Let things happen; webhooks of them come late, out of order, twice, or never."""
    held: list[Item] = []
    for _ in range(BETWEEN):
        for item in life.happen():
            fate = chance.random()
            if fate < 0.15:
                continue
            if fate < 0.35:
                held.append(item)
                continue
            await deliver(chance.sample(senders, len(senders)), [item])
            if fate > 0.9:
                await deliver(senders, [item])
    chance.shuffle(held)
    for n in range(0, len(held), 3):
        await deliver(senders, held[n : n + 3])


async def sync_all(service: Service, town: Town, mode: str) -> None:
    """Let a run of this mode complete on every Page."""
    async with httpx.AsyncClient(base_url=service.url, headers=AUTHORIZATION, timeout=150) as http:
        for page in town.world.pages:
            body = {"page_id": page.id, "mode": mode, "wait_seconds": 120}
            run = (await http.post("/api/conversations/sync", json=body)).json()
            assert (run["state"], run["error"]) == ("succeeded", None), run


async def free_pages_of(pool: Pool, pid: int) -> None:
    """Let the time of a killed process run out."""
    await pool.execute(
        "UPDATE facebook_pages SET lease_until = now() - interval '1 second' WHERE lease_holder LIKE $1", f"%:{pid}:%"
    )


async def test_two_processes_of_which_one_is_killed_again_and_again_end_in_the_truth(
    tmp_path: Path, server_to_kill: Database
) -> None:
    chance = random.Random(KILLS)
    town = Town(seed=KILLS)
    async with AsyncExitStack() as stack:
        graph_url = await stack.enter_async_context(serving(town.graph.app))
        settings = {
            "GRAPH_API_URL": graph_url,
            "RECONCILER_ENABLED": "true",
            "SYNC_INTERVAL_SECONDS": "1",
            "GRAPH_LAG_SECONDS": str(LAG_ALLOWANCE_SECONDS),
            "SPOOL_DIR": str(tmp_path / "spool"),
        }
        services = [
            await stack.enter_async_context(Service(tmp_path, server_to_kill.dsn, **settings)) for _ in range(2)
        ]
        pool = await stack.enter_async_context(open_pool(server_to_kill.dsn, min_size=1, max_size=2))
        http = await stack.enter_async_context(httpx.AsyncClient(headers=AUTHORIZATION, timeout=60))
        town.ledger.watch(http)
        for page in town.world.pages:
            answer = await http.post(f"{services[0].url}/api/pages", json={"access_token": page.access_token})
            assert answer.status_code == 201, answer.text
        senders = [
            Sender(http, f"{s.url}/webhook", APP_SECRET, now=town.now, deadline=60, on_acknowledged=town.note)
            for s in services
        ]
        life = Life(town.world, seed=KILLS)
        for n in range(KILLS):
            victim = services[n % 2]
            pid = victim.process.pid
            living = asyncio.create_task(live(life, senders, chance))
            await town.has_told(chance.randrange(1, BETWEEN // 2))  # so it is killed in the midst of them
            await victim.kill()
            await living
            await live(life, senders, chance)
            await victim.start()
            await free_pages_of(pool, pid)
        for service in services:
            await service.is_drained()
        mirror = verdict.Mirror(town.world, pool, town.delivered, town.told, town.ledger)
        town.let_time_pass()
        await sync_all(services[0], town, "incremental")
        assert await verdict.after_a_sync(mirror) == []
        await sync_all(services[1], town, "audit")
        assert await verdict.after_an_audit(mirror) == []
        assert await verdict.of_what_was_told(mirror) == []
        note_figures(interleavings_of_processes=1, kills=KILLS, lost=0)
