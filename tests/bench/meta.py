"""A simulated Graph API that answers after 300 ms and lets through 2 calls a second, in a process of its own.

Beside it, under `/bench`, what the bench asks of it: what was called, what there is, and that people write.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from simulator import Behaviour, Graph, Limits, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from simulator.graph import Call

APP_SECRET = "the bench's own"
LATENCY_SECONDS = 0.3
CALLS_PER_SECOND = 2.0
START_WITHIN_SECONDS = 60.0
TOO_MANY_A_SECOND = 613


class Size(NamedTuple):
    """How large the world is; messages are a mean."""

    pages: int
    conversations: int
    messages: int


class PageRef(NamedTuple):
    """A Page to sync."""

    id: str
    token: str


class Called(NamedTuple):
    """What was called since it was last asked: calls by Page, those refused for their rate, how many at once."""

    by_page: dict[str, int]
    refused: int
    most_at_once: int

    @property
    def total(self) -> int:
        """All calls."""
        return sum(self.by_page.values())


class Meta:
    """The bench's side of the process: asks it under `/bench`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def pages(self) -> list[PageRef]:
        """The world's Pages."""
        return [PageRef(*page) for page in await self._ask("pages")]

    async def called(self) -> Called:
        """What was called since this was asked last."""
        return Called(**await self._ask("called"))

    async def shown(self, page: PageRef) -> set[str]:
        """The ids of all messages that Graph shows of a Page."""
        return set(await self._ask("shown", page_id=page.id))

    async def write(self, page: PageRef, conversations: int) -> None:
        """Let a person write in so many conversations of a Page, far apart in its list; no webhook comes."""
        await self._ask("write", page_id=page.id, conversations=str(conversations))

    async def set_since(self, mode: str) -> None:
        """Change what Graph makes of `since`."""
        await self._ask("since", mode=mode)

    async def _ask(self, what: str, **params: str) -> Any:
        async with httpx.AsyncClient(timeout=START_WITHIN_SECONDS, trust_env=False) as http:
            answer = await http.get(f"{self.url}/bench/{what}", params=params)
        return answer.raise_for_status().json()


@contextmanager
def started(size: Size) -> Iterator[Meta]:
    """Run it, until the context ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        command = [sys.executable, "-m", "tests.bench.meta", str(listening.fileno()), *map(str, size)]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Meta(url)
    finally:
        process.terminate()
        process.wait()


class _Late:
    """Begins each answer so long after its call, however long it took to make, and counts how many are under way."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds
        self._at_once = 0
        self.most_at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        due = time.monotonic() + self._seconds
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)

        async def send_when_due(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(due - time.monotonic())
            await send(message)

        try:
            await self._app(scope, receive, send_when_due)
        finally:
            self._at_once -= 1


class _Bench:
    """The process' side."""

    def __init__(self, size: Size, latency_seconds: float, calls_per_second: float) -> None:
        self._world = World(
            1, pages=size.pages, conversations_per_page=size.conversations, messages_per_conversation=size.messages
        )
        self._graph = Graph(
            self._world,
            app_secret=APP_SECRET,
            behaviour=Behaviour(has_reply_to=True, read_lag_seconds=0),
            limits=Limits(calls_per_second=calls_per_second),
        )
        self._graph.hooks.append(self._count)
        self._late = _Late(self._graph.app, latency_seconds)
        self._calls: Counter[str] = Counter()
        self._refused = 0
        names = ("pages", "called", "shown", "write", "since")
        routes: list[Any] = [Route(f"/bench/{name}", getattr(self, name)) for name in names]
        self.app = Starlette(routes=[*routes, Mount("/", self._late)])

    def _count(self, call: Call) -> None:
        self._calls[call.page_id or ""] += 1
        self._refused += call.error_code == TOO_MANY_A_SECOND

    async def pages(self, _request: Request) -> JSONResponse:
        """Name the Pages with their tokens."""
        return JSONResponse([[page.id, page.access_token] for page in self._world.pages])

    async def called(self, _request: Request) -> JSONResponse:
        """Tell what was called, and begin to count anew."""
        told = Called(dict(self._calls), self._refused, self._late.most_at_once)
        self._calls.clear()
        self._refused = self._late.most_at_once = 0
        return JSONResponse(told._asdict())

    async def shown(self, request: Request) -> JSONResponse:
        """Name the messages that Graph shows."""
        messages = self._world.true_messages(request.query_params["page_id"])
        return JSONResponse([m.mid for m in messages if m.in_graph])

    async def write(self, request: Request) -> JSONResponse:
        """Let people write."""
        page_id = request.query_params["page_id"]
        persons = [c.psid for c in self._world.true_conversations(page_id)]
        count = int(request.query_params["conversations"])
        for n in range(count):
            self._world.person_sends(page_id, persons[n * len(persons) // count])
        return JSONResponse(count)

    async def since(self, request: Request) -> JSONResponse:
        """Change what Graph makes of `since`."""
        self._graph.behaviour.since = request.query_params["mode"]  # type: ignore[assignment]
        return JSONResponse(None)


def bench_app(
    size: Size, *, latency_seconds: float = LATENCY_SECONDS, calls_per_second: float = CALLS_PER_SECOND
) -> Starlette:
    """Build what the process serves."""
    return _Bench(size, latency_seconds, calls_per_second).app


def main() -> None:
    """Serve on the listening socket whose descriptor is the first argument; the others are the world's size."""
    descriptor, *size = map(int, sys.argv[1:])
    config = uvicorn.Config(
        bench_app(Size(*size)),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=3600,  # a connection that is closed just when a call is sent costs that call a second try
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main()
