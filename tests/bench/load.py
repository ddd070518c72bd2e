"""Send requests out of a file over many connections, each waiting for its answer: a process of its own.

Raw protocols on uvloop: a client library would take more of the machine than what is measured.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import sys
from array import array
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterable

LAST_ANSWERS_WITHIN_SECONDS = 10.0
_LENGTH = b"content-length: "


class Load(NamedTuple):
    """What came of it. `refused` holds the places in the file of requests that were not answered 200."""

    sent: int
    refused: list[int]
    seconds: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


def write_requests(file: Path, requests: Iterable[bytes]) -> int:
    """Write requests for `send`, each behind its length; returns how many."""
    count = 0
    with file.open("wb") as out:
        for request in requests:
            out.write(len(request).to_bytes(4, "big"))
            out.write(request)
            count += 1
    return count


def _read_requests(data: mmap.mmap) -> list[tuple[int, int]]:
    places, at, size = [], 0, len(data)
    while at < size:
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        places.append((start, at))
    return places


class _Run:
    """What the connections share: what is left to send, and what came of what was sent."""

    def __init__(self, data: mmap.mmap, until: float) -> None:
        self.data, self.until = data, until
        self.places = _read_requests(data)
        self.next = 0
        self.answered = 0
        self.refused: list[int] = []
        self.latencies = array("d")
        self.last_answer = 0.0
        self.idle = asyncio.Event()

    def settle(self) -> None:
        """Note that a connection ended its work."""
        if self.answered == self.next:
            self.idle.set()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0
        self._number: int | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send_next(self, now: float) -> None:
        run = self._run
        if now >= run.until or run.next == len(run.places):
            self._number = None
            run.settle()
            return
        self._number = run.next
        run.next += 1
        start, end = run.places[self._number]
        self._sent_at = now
        self._transport.write(run.data[start:end])

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        at = data.lower().find(_LENGTH, 0, head)
        if head < 0 or at < 0:
            self._buffer = data
            return
        length = int(data[at + len(_LENGTH) : data.index(b"\r", at)])
        if len(data) < head + 4 + length:
            self._buffer = data
            return
        self._buffer = b""
        self._answered(ok=data.startswith(b"HTTP/1.1 200"))

    def _answered(self, *, ok: bool) -> None:
        run = self._run
        now = perf_counter()
        run.answered += 1
        run.latencies.append(now - self._sent_at)
        run.last_answer = now
        if not ok and self._number is not None:
            run.refused.append(self._number)
        self.send_next(now)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._number is not None:
            self._run.refused.append(self._number)
            self._run.answered += 1
            self._number = None
            self._run.settle()


async def send(file: Path, host: str, port: int, *, connections: int, seconds: float) -> Load:
    """Send for so many seconds, or until the file is at its end, and wait for the last answers."""
    loop = asyncio.get_running_loop()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        run = _Run(data, 0.0)
        made = [(await loop.create_connection(lambda: _Connection(run), host, port))[1] for _ in range(connections)]
        began = perf_counter()
        run.until = began + seconds
        for connection in made:
            connection.send_next(began)
        async with asyncio.timeout(seconds + LAST_ANSWERS_WITHIN_SECONDS):
            await run.idle.wait()
    ordered = sorted(run.latencies)
    p50, p99, worst = (ordered[int((len(ordered) - 1) * share)] * 1000 for share in (0.5, 0.99, 1))
    return Load(run.next, run.refused, run.last_answer - began, p50, p99, worst)


def main() -> None:
    """Run as `python -m tests.bench.load FILE HOST PORT CONNECTIONS SECONDS`; prints a `Load` as JSON."""
    file, host, port, connections, seconds = sys.argv[1:]
    sending = send(Path(file), host, int(port), connections=int(connections), seconds=float(seconds))
    sys.stdout.write(json.dumps(uvloop.run(sending)._asdict()))


if __name__ == "__main__":
    main()
