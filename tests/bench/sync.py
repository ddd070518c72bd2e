"""How long syncs take and how many calls they make, beside the three ways to sync that this one replaces.

Against a simulated Graph that answers after 300 ms and lets through 2 calls a second, which ignores `since`, as Meta
documents. What is measured is the reconciler itself: runs queued, claimed, walked, stored and ended in Postgres.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvloop
from cryptography.fernet import Fernet
from rich.console import Console

from app.logs import configure_logging
from reconciler.graph.client import GraphClient, new_http_client
from reconciler.schedule import Schedule
from reconciler.tokens import TokenBox
from reconciler.worker import Pace, Worker
from sql import embedded
from sql.migrate import migrate
from sql.pages import put_page
from sql.pool import connect, open_pool
from sql.sync_runs import enqueue_run
from tests.bench.memory import resident_bytes
from tests.bench.meta import APP_SECRET, CALLS_PER_SECOND, LATENCY_SECONDS, Size, started
from tests.bench.older import V0, V1, V2, Older
from tests.bench.table import Verdict, print_syncs, print_verdicts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sql.pool import Pool
    from tests.bench.meta import Called, Meta, PageRef
    from tests.bench.older import Algorithm

OURS = "mirror"
CHANGED = 10  # conversations
OVER_NEEDED, OVER_ALONE = 1.2, 1.2
MAY_GROW = 0.10
CONNECTIONS = 12  # as many as `serve` gives its reconciler and API
SETTINGS = Pace(interval=timedelta(seconds=300), overlap=timedelta(seconds=600), concurrency=32)
console = Console()


class Options(NamedTuple):
    """How much is measured.

    `sample` is what v0 is measured on and scaled up from: all would take it half an hour. Of `tries` the best counts.
    """

    one: Size = Size(pages=1, conversations=1_000, messages=10)
    sample: Size = Size(pages=1, conversations=25, messages=10)
    together: int = 5
    tries: int = 3
    idle: Size = Size(pages=1_000, conversations=3, messages=3)
    idle_sample: int = 50
    rounds: int = 3


QUICK = Options(
    one=Size(pages=1, conversations=300, messages=10),
    sample=Size(pages=1, conversations=5, messages=10),
    together=3,
    tries=1,
    idle=Size(pages=100, conversations=3, messages=3),
    idle_sample=10,
    rounds=2,
)


class Sync(NamedTuple):
    """One measured sync: `scaled` is how many times as large what it stands for is than what was measured."""

    what: str
    algorithm: str
    pages: int
    seconds: float
    calls: int
    most_at_once: int
    missing: int
    scaled: float = 1.0

    @property
    def needed(self) -> float:
        """Seconds that its calls take at 2 a second, if they are all for one Page."""
        return self.calls / CALLS_PER_SECOND


class Mirror:
    """The reconciler, as `serve` runs it."""

    def __init__(self, pool: Pool, worker: Worker, tokens: TokenBox) -> None:
        self._pool, self._worker, self._tokens = pool, worker, tokens
        self._schedule = Schedule(pool, worker, interval=SETTINGS.interval)

    async def add(self, pages: Sequence[PageRef]) -> None:
        """Add Pages, which are due later."""
        async with self._pool.acquire() as connection:
            for page in pages:
                await put_page(connection, page.id, self._tokens.seal(page.token), None, now=datetime.now(UTC))
            await connection.execute("UPDATE facebook_pages SET next_sync_at = now() + interval '1 day'")

    async def sync(self, pages: Sequence[PageRef]) -> None:
        """Sync these Pages by hand."""
        async with self._pool.acquire() as connection:
            for page in pages:
                await enqueue_run(connection, page.id, "incremental", requested_by="cli")
        await self._worker.run_once()
        await self._check()

    async def sync_due(self) -> None:
        """Let every Page be due now, and the schedule see to it, as if it had never been away."""
        async with self._pool.acquire() as connection:
            await connection.execute("UPDATE facebook_pages SET next_sync_at = now()")
            await connection.execute("DELETE FROM heartbeats")
        await self._schedule.run_once()
        await self._worker.run_once()
        await self._check()

    async def _check(self) -> None:
        async with self._pool.acquire() as connection:
            failed = await connection.fetch("SELECT page_id, state, error FROM sync_runs WHERE state <> 'succeeded'")
        if failed:
            raise RuntimeError(f"a sync did not succeed: {dict(failed[0])}")

    async def stored(self, page: PageRef) -> set[str]:
        """The ids of the messages that are stored of a Page."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(
                "SELECT mid FROM messages WHERE page_id = $1 AND sent_at IS NOT NULL", page.id
            )
        return {row["mid"] for row in rows}


class Bench(NamedTuple):
    """What measures: the simulated Graph, the reconciler, and the older ways."""

    meta: Meta
    mirror: Mirror
    older: dict[str, Older]

    async def measure(
        self, what: str, algorithm: str, pages: Sequence[PageRef], *, scaled: float = 1.0, is_due: bool = False
    ) -> Sync:
        """Sync, and tell how long it took and what it left out."""
        way: Algorithm = self.mirror if algorithm == OURS else self.older[algorithm]
        await self.meta.called()
        began = time.perf_counter()
        await (self.mirror.sync_due() if is_due else way.sync(pages))
        seconds = time.perf_counter() - began
        called = await self.meta.called()
        check_calls(called)
        missing = sum([len(await self.meta.shown(page) - await way.stored(page)) for page in pages[:20]])
        calls = round(called.total * scaled)
        sync = Sync(what, algorithm, len(pages), seconds * scaled, calls, called.most_at_once, missing, scaled)
        console.print(f"{what}: {algorithm} {sync.seconds:.1f} s, {sync.calls} calls", highlight=False)
        return sync


def check_calls(called: Called) -> None:
    """Fail when Graph refused calls: what was measured is then not what would be."""
    if called.refused:
        raise RuntimeError(f"{called.refused} calls were refused: more than {CALLS_PER_SECOND:g} a second for a Page")


def run(options: Options) -> bool:
    """Measure, print, and tell whether all targets hold."""
    configure_logging("warning")
    syncs, verdicts = uvloop.run(measured(options))
    print_syncs(f"Syncs at {LATENCY_SECONDS * 1000:g} ms a call and {CALLS_PER_SECOND:g} calls a second a Page", syncs)
    print_verdicts(verdicts)
    return all(v.holds for v in verdicts)


async def measured(options: Options) -> tuple[list[Sync], list[Verdict]]:
    """Measure everything, one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="mirror-bench-"))
    folder.chmod(0o711)  # the account that runs Postgres may have to enter it
    database = await asyncio.to_thread(embedded.start, folder)
    try:
        syncs, verdicts = [], []
        for part in (_one_page, _pages_together, _idle_pages):
            found, judged = await part(options, database.dsn)
            syncs += found
            verdicts += judged
        return syncs, verdicts
    finally:
        await asyncio.to_thread(database.stop)
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _bench(size: Size, dsn: str) -> AsyncIterator[Bench]:
    """Start a simulated Graph with a world of this size, and clear the database."""
    connection = await connect(dsn)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    with started(size) as meta:
        async with bench(meta, dsn) as made:
            yield made


@asynccontextmanager
async def bench(meta: Meta, dsn: str, *, calls_per_second: float = CALLS_PER_SECOND) -> AsyncIterator[Bench]:
    """Make what measures, on an empty database."""
    connection = await connect(dsn)
    await migrate(connection)
    await connection.close()
    tokens = TokenBox([Fernet.generate_key().decode()])
    async with open_pool(dsn, max_size=CONNECTIONS) as pool, new_http_client() as http:

        def client() -> GraphClient:
            return GraphClient(
                http, url=meta.url, version="v26.0", app_secret=APP_SECRET, calls_per_second=calls_per_second
            )

        older = {version: Older(pool, client(), version) for version in (V0, V1, V2)}
        for each in older.values():
            await each.clear()
        async with Worker(pool, client(), tokens, SETTINGS) as worker:
            yield Bench(meta, Mirror(pool, worker, tokens), older)


async def _one_page(options: Options, dsn: str) -> tuple[list[Sync], list[Verdict]]:
    size = options.one
    whats = (f"first, {size.conversations:,} x {size.messages}", "none changed", f"{CHANGED} changed")
    syncs = []
    async with _bench(options.sample, dsn) as here:
        [page] = await here.meta.pages()
        syncs += await _three(here, V0, [page], whats, scaled=size.conversations / options.sample.conversations)
    async with _bench(size._replace(pages=options.tries), dsn) as here:
        pages = await here.meta.pages()
        for version in (V1, V2):
            await here.older[version].clear()
            syncs += await _three(here, version, pages[:1], whats)
        await here.mirror.add(pages)
        syncs += await _three(here, OURS, pages, whats)
    load, none, changed = syncs[-3:]
    return sorted(syncs, key=lambda s: whats.index(s.what)), [
        _at_most(f"first sync <= {OVER_NEEDED} x its calls' time", load.seconds, load.needed, OVER_NEEDED),
        Verdict("none changed: 1 call", f"{none.calls}", none.calls == 1),
        Verdict(f"{CHANGED} changed: 1 call", f"{changed.calls}", changed.calls == 1),
        Verdict("nothing is missing", f"{load.missing + changed.missing}", load.missing + changed.missing == 0),
    ]


async def _three(
    here: Bench, version: str, pages: Sequence[PageRef], whats: Sequence[str], *, scaled: float = 1.0
) -> list[Sync]:
    """Sync each Page for the first time, then one with nothing changed, then with some conversations changed."""
    first, none, changed = whats
    loads = [await here.measure(first, version, [page], scaled=scaled) for page in pages]
    page = pages[-1]
    idle = await here.measure(none, version, [page], scaled=scaled)
    await here.meta.write(page, CHANGED)
    return [_best(loads), idle, await here.measure(changed, version, [page], scaled=scaled)]


def _best(tries: Sequence[Sync]) -> Sync:
    """Take the fastest: what else a machine does only ever takes time away."""
    return min(tries, key=lambda s: s.seconds)


async def _pages_together(options: Options, dsn: str) -> tuple[list[Sync], list[Verdict]]:
    """Sync Pages of one size alone, then several together: none of them is slower than another but by chance."""
    count, tries, size = options.together, options.tries, options.one
    what = f"{count} Pages"
    async with _bench(size._replace(pages=tries + count * tries), dsn) as here:
        pages = await here.meta.pages()
        await here.mirror.add(pages)
        alone = _best([await here.measure(f"1 Page of {count}", OURS, [page]) for page in pages[:tries]])
        groups = [pages[at : at + count] for at in range(tries, len(pages), count)]
        best = _best([await here.measure(what, OURS, group) for group in groups])
        older = []
        for version in (V1, V2):
            await here.older[version].clear()
            older.append(await here.measure(what, version, groups[0]))
    claim = f"{count} Pages at once <= {OVER_ALONE} x one of them alone"
    return [alone, *older, best], [_at_most(claim, best.seconds, alone.seconds, OVER_ALONE)]


async def _idle_pages(options: Options, dsn: str) -> tuple[list[Sync], list[Verdict]]:
    what = f"{options.idle.pages:,} idle Pages"
    async with _bench(options.idle, dsn) as here:
        pages = await here.meta.pages()
        sample, scaled = pages[: options.idle_sample], len(pages) / options.idle_sample
        syncs = []
        for version in (V0, V1):
            await here.older[version].clear()
            await here.older[version].sync(sample)
            syncs.append(await here.measure(what, version, sample, scaled=scaled))
        await here.older[V2].clear()
        await here.older[V2].sync(pages)
        syncs.append(await here.measure(what, V2, pages))
        await here.mirror.add(pages)
        await here.mirror.sync(pages)
        rounds, memory = [], []
        for _ in range(options.rounds):
            rounds.append(await here.measure(what, OURS, pages, is_due=True))
            gc.collect()
            memory.append(resident_bytes(os.getpid()))
    syncs.append(rounds[-1])
    calls = [r.calls for r in rounds]
    at_once = max(r.most_at_once for r in rounds)
    grown = memory[-1] / memory[0] - 1
    shown = f"{memory[0] / 2**20:.1f} -> {memory[-1] / 2**20:.1f} MiB ({grown:+.1%})"
    return syncs, [
        Verdict(f"{what}: 1 call each", f"{calls}", set(calls) == {len(pages)}),
        Verdict(f"{what}: at most {SETTINGS.concurrency} at once", f"{at_once}", at_once <= SETTINGS.concurrency),
        Verdict(f"{what}: memory grows <= {MAY_GROW:.0%} over {len(rounds)} rounds", shown, grown <= MAY_GROW),
    ]


def _at_most(claim: str, seconds: float, base: float, times: float) -> Verdict:
    ratio = seconds / base
    return Verdict(claim, f"{seconds:.2f} s of {base:.2f} s: {ratio:.2f} x", ratio <= times)
