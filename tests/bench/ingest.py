"""How many webhooks a second become durable, beside a route that writes nothing and a transaction per request."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from sql import embedded
from sql.pool import connect
from tests.bench import bodies
from tests.bench.load import write_requests
from tests.bench.memory import resident_bytes
from tests.bench.serving import SECRET, Loading, data_folder, server
from tests.bench.table import Measure, Target, Verdict, judge, print_measures, print_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sql.upsert import Connection
    from tests.bench.load import Load
    from tests.bench.serving import Server

MOST_PER_SECOND = 30_000  # until a round has shown better
SPARE = 1.3
WARM_UP_SECONDS = 2.0
SETTLED_AT, END_AT = 20.0, 60.0  # seconds of sustained load between which memory may grow
MAY_GROW = 0.10

PRODUCT, NOOP, ROWS, EACH, CALL = "durable", "no-op", "no-op, with rows", "transaction each", "each, in one call"
UNFED = "durable, no change feed"
PATHS = {
    NOOP: "/bench/noop",
    ROWS: "/bench/rows",
    PRODUCT: "/webhook",
    UNFED: "/webhook",
    EACH: "/bench/each",
    CALL: "/bench/call",
}
TARGETS = (Target(PRODUCT, NOOP, 0.35), Target(PRODUCT, EACH, 4), Target(PRODUCT, UNFED, 0.9))


class Options(NamedTuple):
    """What the command line chose."""

    seconds: float
    rounds: int
    connections: int
    memory: bool


def run(options: Options) -> bool:
    """Measure, print, and tell whether all targets hold."""
    with data_folder() as folder:
        database = embedded.start(folder)
        try:
            with server(folder, "tests.bench.server") as running:
                return _Bench(running, options, database.dsn).run()
        finally:
            database.stop()


class _Bench:
    def __init__(self, server: Server, options: Options, dsn: str) -> None:
        self._server, self._options, self._dsn = server, options, dsn
        self._next = bodies.REACTS_TO
        self._acknowledged: list[range] = []
        self._refused = 0
        self._per_second: dict[str, float] = {}

    def run(self) -> bool:
        options = self._options
        console = Console()
        for name in PATHS:
            self._load(name, WARM_UP_SECONDS)
        rows: dict[str, list[Measure]] = {name: [] for name in PATHS}
        for n in range(options.rounds):
            for name, rounds in rows.items():
                if name == UNFED:
                    with without_feed(self._dsn):
                        load = self._load(name, options.seconds)
                else:
                    load = self._load(name, options.seconds)
                rounds.append(Measure((load.sent - len(load.refused)) / load.seconds, load.p50_ms, load.p99_ms))
                console.print(f"round {n + 1}: {name} {rounds[-1].per_second:,.0f}/s", highlight=False)
        title = f"Webhooks, {options.connections} connections, {options.rounds} rounds of {options.seconds:g} s"
        verdicts = judge(rows, TARGETS)
        if options.memory:
            verdicts.append(self._memory())
        verdicts += asyncio.run(self._count())  # of every phase, also those that warmed up
        print_measures(title, rows, base=NOOP, unit="webhooks")
        print_verdicts(verdicts)
        return all(v.holds for v in verdicts)

    def _load(self, name: str, seconds: float, at: Sequence[float] = (), resident: list[int] | None = None) -> Load:
        """Put load on one of the routes; note the server's resident memory at some seconds of it."""
        most = int(self._per_second.get(name, MOST_PER_SECOND) * SPARE * seconds)
        file = self._server.folder / "requests"
        numbers = range(self._next, self._next + most)
        write_requests(file, bodies.requests(numbers, PATHS[name], SECRET.encode()))
        loading = Loading(file, self._server.port, connections=self._options.connections, seconds=seconds)
        began = time.monotonic()
        for moment in at:
            time.sleep(max(0, began + moment - time.monotonic()))
            if resident is not None:
                resident.append(resident_bytes(self._server.pid))
        load = loading.wait()
        file.unlink()
        self._per_second[name] = load.sent / load.seconds
        if name in {PRODUCT, UNFED, EACH, CALL}:
            self._acknowledged.append(numbers[: load.sent])
            self._refused += len(load.refused)
            self._next += load.sent
        return load

    def _memory(self) -> Verdict:
        """Keep the load up, and compare the server's memory once it has settled with that at the end."""
        resident: list[int] = []
        load = self._load(PRODUCT, END_AT + 1, (SETTLED_AT, END_AT), resident)
        words = f"{PRODUCT}, for a minute: {load.sent / load.seconds:,.0f}/s, p99 {load.p99_ms:.1f} ms, "
        Console().print(f"{words}the worst {load.worst_ms:,.0f} ms", highlight=False)
        settled, end = resident
        found = f"{settled / 2**20:.1f} -> {end / 2**20:.1f} MiB ({end / settled - 1:+.1%})"
        claim = f"resident memory grows <= {MAY_GROW:.0%} from second {SETTLED_AT:g} to {END_AT:g}"
        return Verdict(claim, found, end <= settled * (1 + MAY_GROW))

    async def _count(self) -> list[Verdict]:
        """Compare what is stored with what was acknowledged."""
        connection = await connect(self._dsn)
        try:
            verdicts = await stored_as_sent(connection, self._acknowledged)
        finally:
            await connection.close()
        return [*verdicts, Verdict("every body was acknowledged", f"{self._refused} were not", self._refused == 0)]


@contextmanager
def without_feed(dsn: str) -> Iterator[None]:
    """Let what the upsert tells the feed of changes go nowhere, in this database.

    Raises:
        RuntimeError: it went there all the same, so there is nothing to compare with.

    """
    its_own, before = asyncio.run(_mute_feed(dsn))
    try:
        yield
    finally:
        after = asyncio.run(_restore_feed(dsn, its_own))
    if after != before:
        raise RuntimeError(f"{after - before} changes were told of")


async def _mute_feed(dsn: str) -> tuple[str, int]:
    connection = await connect(dsn)
    try:
        its_own = await connection.fetchval("SELECT pg_get_functiondef('note_changes'::regproc)")
        await connection.execute(
            "CREATE OR REPLACE FUNCTION note_changes(changed change_row[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'"
        )
        return its_own, await connection.fetchval("SELECT count(*) FROM changes")
    finally:
        await connection.close()


async def _restore_feed(dsn: str, its_own: str) -> int:
    connection = await connect(dsn)
    try:
        told = await connection.fetchval("SELECT count(*) FROM changes")
        await connection.execute(its_own)
        return int(told)
    finally:
        await connection.close()


async def stored_as_sent(connection: Connection, numbers: Sequence[range]) -> list[Verdict]:
    """Compare what is stored with what bodies of these numbers must have become."""
    due = bodies.stored(chain.from_iterable(numbers))
    journal = await connection.fetchval("SELECT count(*) FROM webhook_deliveries WHERE state = 'stored'")
    messages = await connection.fetchval("SELECT count(*) FROM messages WHERE sent_at IS NOT NULL")
    reactions = await connection.fetchval("SELECT count(*) FROM message_reactions")
    read = {
        (r["page_id"], r["psid"]): r["read_watermark"]
        for r in await connection.fetch(
            "SELECT page_id, psid, read_watermark FROM conversations WHERE read_watermark IS NOT NULL"
        )
    }
    pairs = (
        ("deliveries", sum(map(len, numbers)), journal),
        ("messages", due.messages, messages),
        ("reactions", due.reactions, reactions),
    )
    verdicts = [
        Verdict(f"{what} stored = sent", f"{there:,} of {sent:,}", there == sent) for what, sent, there in pairs
    ]
    wrong = len(due.read.items() ^ read.items())
    return [*verdicts, Verdict("read watermarks are as sent", f"{len(read):,}, {wrong} wrong", wrong == 0)]
