"""Would a cache pay? Reads as people's inboxes make them, among webhooks, with and without one in front.

Half of the reads are of a Page's list (all, unread, by a tag, by tags), the others of a conversation and its
messages. What is read and written is chosen alike, some Pages and conversations much more often than others.
"""

from __future__ import annotations

import hmac
import json
import random
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.bodies import BEGAN_MS
from tests.bench.load import write_requests
from tests.bench.mirror import HALF_AS_OFTEN, OFTEN, SELDOM
from tests.bench.serving import KEY, SECRET, Loading, server
from tests.bench.table import Measure, print_measures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.mirror import Scale

NONE, IN_PROCESS, REDIS = "no cache", "in the process", "Redis"
MIXES = {"19 reads to a webhook": 0.05, "4 reads to a webhook": 0.2, "a read to a webhook": 0.5}
CONNECTIONS = 16
MOST_PER_SECOND = 6_000
WARM_UP_SECONDS = 3.0
_LISTS = (
    "",
    "&unread=true",
    f"&include_tags={OFTEN}",
    f"&include_tags={OFTEN},{HALF_AS_OFTEN}&exclude_tags={SELDOM}",
)


class Options(NamedTuple):
    """How long."""

    seconds: float = 6.0
    rounds: int = 3


class Cached(NamedTuple):
    """What was measured of a mix: rounds, and the share of reads that were answered from the cache, by cache."""

    rounds: dict[str, list[Measure]]
    hits: dict[str, float]


def measured(folder: Path, scale: Scale, options: Options) -> dict[str, Cached]:
    """Put each mix on the service without a cache, with one in its process, and with Redis where that is installed."""
    found = {mix: Cached({}, {}) for mix in MIXES}
    with _redis(folder) as path:
        caches = {NONE: "none", IN_PROCESS: "process"} | ({REDIS: str(path)} if path is not None else {})
        for n in range(options.rounds):
            for cache, where in caches.items():
                with server(folder, "tests.bench.caching", where) as running:
                    for mix, writes in MIXES.items():
                        load = _Load(folder, running.port, scale, writes)
                        load.put(WARM_UP_SECONDS, seed=2 * n)
                        load.hits()
                        found[mix].rounds.setdefault(cache, []).append(load.put(options.seconds, seed=2 * n + 1))
                        found[mix].hits[cache] = 0.0 if cache == NONE else load.hits()
    return found


def print_caches(found: dict[str, Cached]) -> None:
    """Print a table for each mix."""
    for mix, cached in found.items():
        rows = {
            cache if cache == NONE else f"{cache}, {cached.hits[cache]:.0%} hits": rounds
            for cache, rounds in cached.rounds.items()
        }
        print_measures(f"{mix}, {CONNECTIONS} connections", rows, base=NONE, unit="requests")


@contextmanager
def _redis(folder: Path) -> Iterator[Path | None]:
    """Run a Redis that keeps nothing on disk, where one is installed; gives its socket."""
    program, path = shutil.which("redis-server"), folder / "redis.sock"
    if program is None:
        yield None
        return
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--loglevel", "warning"]
    with subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL) as process:
        try:
            yield path
        finally:
            process.terminate()


class _Load:
    def __init__(self, folder: Path, port: int, scale: Scale, writes: float) -> None:
        self._file, self._port, self._scale, self._writes = folder / "requests", port, scale, writes

    def put(self, seconds: float, *, seed: int) -> Measure:
        """Put load on the service.

        Raises:
            RuntimeError: not every request was answered 200.

        """
        write_requests(self._file, requests(int(MOST_PER_SECOND * seconds), self._scale, self._writes, seed=seed))
        load = Loading(self._file, self._port, connections=CONNECTIONS, seconds=seconds).wait()
        self._file.unlink()
        if load.refused:
            raise RuntimeError(f"{len(load.refused)} of {load.sent} requests were not answered 200")
        return Measure(load.sent / load.seconds, load.p50_ms, load.p99_ms)

    def hits(self) -> float:
        """Tell which share of the reads the cache answered since this was last asked; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/bench/hits") as answer:
                return float(answer.read())
        except urllib.error.HTTPError:
            return 0.0


def requests(number: int, scale: Scale, writes: float, *, seed: int) -> Iterator[bytes]:
    """Whole HTTP requests: reads, and webhooks that bring new messages."""
    dice = random.Random(seed)
    run = time.time_ns()  # a mirror that is kept knows the messages of earlier runs
    for n in range(number):
        c = _often_the_same(dice, scale.conversations)
        page_id, psid = scale.conversation(c)
        if dice.random() < writes:
            yield _webhook(page_id, psid, f"m_{run}_{n}", BEGAN_MS + n)
        elif dice.random() < 0.5:
            page_id = scale.page(_often_the_same(dice, scale.pages))
            yield _get(f"?page_id={page_id}{dice.choice(_LISTS)}")
        else:
            yield _get(f"/{page_id}/{psid}{dice.choice(('', '/messages'))}")


def _often_the_same(dice: random.Random, number: int) -> int:
    """A number below another: half of all times one of the first eighth."""
    return int(dice.random() ** 3 * number)


def _get(rest: str) -> bytes:
    return (
        f"GET /api/conversations{rest} HTTP/1.1\r\nHost: mirror.example\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    ).encode()


def _webhook(page_id: str, psid: str, mid: str, at: int) -> bytes:
    message = {"mid": mid, "text": "when does it come?"}
    item = {"sender": {"id": psid}, "recipient": {"id": page_id}, "timestamp": at, "message": message}
    body = json.dumps({"object": "page", "entry": [{"id": page_id, "time": at, "messaging": [item]}]}).encode()
    signature = hmac.digest(SECRET.encode(), body, "sha256").hex()
    return (
        f"POST /webhook HTTP/1.1\r\nHost: mirror.example\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Hub-Signature-256: sha256={signature}\r\n\r\n"
    ).encode() + body
