"""How many webhooks a second become durable, beside a route that writes nothing and a transaction per request."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography.fernet import Fernet
from rich.console import Console

from sql import embedded
from sql.pool import connect
from tests.bench import bodies
from tests.bench.load import Load, write_requests
from tests.bench.memory import resident_bytes
from tests.bench.table import Measure, Target, Verdict, judge, print_measures, print_verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sql.upsert import Connection

SECRET = "the bench's own"
MOST_PER_SECOND = 30_000  # until a round has shown better
SPARE = 1.3
START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 20.0
WARM_UP_SECONDS = 2.0
SETTLED_AT, END_AT = 20.0, 60.0  # seconds of sustained load between which memory may grow
MAY_GROW = 0.10

PRODUCT, NOOP, ROWS, EACH, CALL = "durable", "no-op", "no-op, with rows", "transaction each", "each, in one call"
PATHS = {NOOP: "/bench/noop", ROWS: "/bench/rows", PRODUCT: "/webhook", EACH: "/bench/each", CALL: "/bench/call"}
TARGETS = (Target(PRODUCT, NOOP, 0.35), Target(PRODUCT, EACH, 4))


class Options(NamedTuple):
    """What the command line chose."""

    seconds: float
    rounds: int
    connections: int
    memory: bool


class Server(NamedTuple):
    """The application under load."""

    pid: int
    port: int
    folder: Path


def run(options: Options) -> bool:
    """Measure, print, and tell whether all targets hold."""
    with _folder() as folder:
        database = embedded.start(folder)
        try:
            with _server(folder) as server:
                return _Bench(server, options, database.dsn).run()
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
        command = [sys.executable, "-m", "tests.bench.load", str(file), "127.0.0.1", str(self._server.port)]
        command += [str(self._options.connections), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            began = time.monotonic()
            for moment in at:
                time.sleep(max(0, began + moment - time.monotonic()))
                if resident is not None:
                    resident.append(resident_bytes(self._server.pid))
            out, _ = process.communicate()
        file.unlink()
        if process.returncode:
            raise RuntimeError(f"the load on {name} failed")
        answer = json.loads(out)
        load = Load(**answer)
        self._per_second[name] = load.sent / load.seconds
        if name in {PRODUCT, EACH, CALL}:
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


@contextmanager
def _folder() -> Iterator[Path]:
    """A data folder that also the account which runs Postgres may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mirror-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    """The application in its own process, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        port = listening.getsockname()[1]
        environment = os.environ | {
            "DATA_DIR": str(folder),
            "DATABASE_URL": "",
            "FACEBOOK_APP_SECRET": SECRET,
            "FACEBOOK_VERIFY_TOKEN": "verify",
            "OPS_API_KEY": "key",
            "TOKEN_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "RECONCILER_ENABLED": "false",
            "LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "tests.bench.server", str(listening.fileno())]
        process = subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()])
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=START_WITHIN_SECONDS) as answer:
            answer.read()
        yield Server(process.pid, port, folder)
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
