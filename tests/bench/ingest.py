"""How many webhooks a second become durable, beside a route that writes nothing and a transaction per request."""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from sql import embedded
from sql.pool import connect
from tests.bench import bodies
from tests.bench.feed import mute_feed, nothing_told
from tests.bench.load import write_requests
from tests.bench.memory import resident_bytes
from tests.bench.serving import SECRET, Loading, data_folder, server
from tests.bench.table import Measure, Target, Verdict, judge, print_measures, print_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sql.upsert import Connection
    from tests.bench.load import Load
    from tests.bench.serving import Server

MOST_PER_SECOND = 30_000  # until a round has shown better
SPARE = 1.3
WARM_UP_SECONDS = 2.0
SETTLED_AT, END_AT = 20.0, 60.0  # seconds of sustained load between which memory may grow
MAY_GROW = 0.10

PRODUCT, NOOP, ROWS, EACH, CALL = "durable", "no-op", "no-op, with rows", "transaction each", "each, in one call"
FED, UNFED = "with feed", "without feed"
IN_ROUNDS = {
    NOOP: "/bench/noop",
    ROWS: "/bench/rows",
    PRODUCT: "/webhook",
    EACH: "/bench/each",
    CALL: "/bench/call",
}
IN_PAIRS = {FED: "/bench/fed", UNFED: "/bench/unfed"}
PATHS = IN_ROUNDS | IN_PAIRS
TARGETS = (Target(PRODUCT, NOOP, 0.35), Target(PRODUCT, EACH, 4))
# two that are nearly alike are told apart by many short measurements, each beside its other one
PAIR_TARGETS = (Target(FED, UNFED, 0.9),)
PAIRS_PER_ROUND = 5
PAIR_SHARE = 0.25  # of a measurement's length


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
            with server(folder, "tests.bench.server", database.dsn) as running:
                asyncio.run(_prepare(database.dsn))
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
        for name in PATHS:
            self._load(name, WARM_UP_SECONDS)
        rows = self._measure(IN_ROUNDS, options.rounds, options.seconds)
        pairs, pair_seconds = options.rounds * PAIRS_PER_ROUND, options.seconds * PAIR_SHARE
        paired = self._measure(IN_PAIRS, pairs, pair_seconds)
        verdicts = judge(rows, TARGETS) + judge(paired, PAIR_TARGETS)
        if options.memory:
            verdicts.append(self._memory())
        verdicts += asyncio.run(self._count())  # of every phase, also those that warmed up
        title = f"Webhooks, {options.connections} connections, {options.rounds} rounds of {options.seconds:g} s"
        print_measures(title, rows, base=NOOP, unit="webhooks")
        print_measures(f"{pairs} pairs of {pair_seconds:g} s", paired, base=UNFED, unit="webhooks")
        print_verdicts(verdicts)
        return all(v.holds for v in verdicts)

    def _measure(self, names: Iterable[str], rounds: int, seconds: float) -> dict[str, list[Measure]]:
        rows: dict[str, list[Measure]] = {name: [] for name in names}
        for n, name in in_turns(list(rows), rounds):
            load = self._load_unfed(seconds) if name == UNFED else self._load(name, seconds)
            rows[name].append(Measure((load.sent - len(load.refused)) / load.seconds, load.p50_ms, load.p99_ms))
            Console().print(f"round {n}: {name} {rows[name][-1].per_second:,.0f}/s", highlight=False)
        return rows

    def _load_unfed(self, seconds: float) -> Load:
        async def load() -> Load:
            connection = await connect(self._dsn)
            try:
                async with nothing_told(connection):
                    return await asyncio.to_thread(self._load, UNFED, seconds)
            finally:
                await connection.close()

        return asyncio.run(load())

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
        if name in {PRODUCT, FED, UNFED, EACH, CALL}:
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


def in_turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each once a round, every second round the other way round: what drifts, or lasts for a while, favours none."""
    for n in range(rounds):
        for name in reversed(names) if n % 2 else names:
            yield n + 1, name


async def _prepare(dsn: str) -> None:
    connection = await connect(dsn)
    try:
        await mute_feed(connection)
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
