"""The real application behind a cache of its reads, in a process of its own: what a cache could gain, at best.

A read is kept until a webhook tells of its conversation, or for a list, of its Page. Both caches know at once what is
written, since all is written through them; neither looks at keys.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import orjson
import uvicorn
from starlette.responses import JSONResponse, Response

from app.asgi import make_app
from app.collector import calm_collector
from app.logs import configure_logging
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 20_000  # answers
ROOT = "/api/conversations"


class Kept(NamedTuple):
    """An answer, or None, and how often what it is about was written."""

    body: bytes | None
    version: int


class Store(Protocol):
    """Where answers are kept."""

    async def get(self, key: str, about: str) -> Kept:
        """Look for an answer that is still right."""

    async def put(self, key: str, body: bytes, version: int) -> None:
        """Keep an answer that was read when what it is about had this version."""

    async def written(self, about: Sequence[str]) -> None:
        """Drop what is kept about this."""


class InProcess:
    """A dictionary."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self._versions: dict[str, int] = {}

    async def get(self, key: str, about: str) -> Kept:
        """Look for an answer that is still right."""
        version = self._versions.get(about, 0)
        body, read_at = self._kept.get(key, (None, version))
        return Kept(body if read_at == version else None, version)

    async def put(self, key: str, body: bytes, version: int) -> None:
        """Keep it, and no more than so many: the oldest goes."""
        self._kept[key] = (body, version)
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    async def written(self, about: Sequence[str]) -> None:
        """Count."""
        for each in about:
            self._versions[each] = self._versions.get(each, 0) + 1


class Redis:
    """A Redis on a socket: all commands go over one connection, without waiting for those before."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._connecting: asyncio.Task[asyncio.StreamWriter] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: str, about: str) -> Kept:
        """Look for an answer that is still right, in one round trip."""
        kept, version = await self._call(b"MGET", key.encode(), b"v:" + about.encode())
        now = int(version or 0)
        if kept is None:
            return Kept(None, now)
        read_at, _, body = kept.partition(b"\n")
        return Kept(body if int(read_at) == now else None, now)

    async def put(self, key: str, body: bytes, version: int) -> None:
        """Keep it for a minute."""
        await self._call(b"SET", key.encode(), b"%d\n%b" % (version, body), b"EX", b"60")

    async def written(self, about: Sequence[str]) -> None:
        """Count."""
        await asyncio.gather(*(self._call(b"INCR", b"v:" + each.encode()) for each in about))

    async def _call(self, *words: bytes) -> Any:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        writer = await self._connecting
        writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return await answer

    async def _connect(self) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_unix_connection(self._path)
        self._reading = asyncio.create_task(self._read(reader))
        return writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            answer = await _reply(reader)
            self._waiting.popleft().set_result(answer)


async def _reply(reader: asyncio.StreamReader) -> Any:
    line = (await reader.readline()).rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b"*":
        return [await _reply(reader) for _ in range(int(rest))]
    if kind in {b"+", b":"}:
        return rest
    raise RuntimeError(f"Redis: {line!r}")


class Caching:
    """Stands before an application and answers what it knows."""

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app, self._store = app, store
        self._hits = self._reads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the cache, or fill it."""
        if scope["type"] == "http" and scope["path"] == "/bench/hits":
            share = self._hits / max(1, self._reads)
            self._hits = self._reads = 0
            await JSONResponse(share)(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith(ROOT):
            await self._read(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._write(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"].decode()
        key, about = f"{scope['path']}?{query}", _about(scope["path"], query)
        kept = await self._store.get(key, about)
        self._reads += 1
        if kept.body is not None:
            self._hits += 1
            await Response(kept.body, media_type="application/json")(scope, receive, send)
            return
        parts: list[Message] = []

        async def note(message: Message) -> None:
            parts.append(message)
            await send(message)

        await self._app(scope, receive, note)
        if parts[0]["status"] == 200:
            await self._store.put(key, b"".join(part.get("body", b"") for part in parts), kept.version)

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def note() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def told(message: Message) -> None:
            # before the answer: who wrote must not read what was before
            if message["type"] == "http.response.start":
                await self._store.written(list(dict.fromkeys(_written(orjson.loads(body)))))
            await send(message)

        await self._app(scope, note, told)


def _about(path: str, query: str) -> str:
    """What a read is about: a Page, or one conversation of it."""
    _, _, _, *conversation = path.split("/")
    return "/".join(conversation[:2]) if conversation else parse_qs(query)["page_id"][0]


def _written(delivery: Any) -> Iterator[str]:
    for entry in delivery["entry"]:
        yield entry["id"]
        for item in entry["messaging"]:
            yield f"{entry['id']}/{item['sender']['id']}"


def main() -> None:
    """Serve on the socket whose descriptor is the first argument; the second: none, process, or Redis' socket."""
    settings = Settings()
    configure_logging(settings.log_level)
    descriptor, where = sys.argv[1:]
    app: ASGIApp = make_app(settings)
    if where != "none":
        app = Caching(app, InProcess() if where == "process" else Redis(where))
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_config=None, server_header=False, lifespan="on"
    )
    calm_collector()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
