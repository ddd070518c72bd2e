"""Headers and what else is no body have a bound; bodies of any pieces arrive whole."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import uvicorn

from app.bounded_http import MAX_HEAD_BYTES, BoundedHttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from starlette.types import Receive, Scope, Send

POST = b"POST / HTTP/1.1\r\nHost: mirror\r\n"


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Tell how long the body was."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = f"{size} bytes".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class QuietServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to whoever runs the tests."""
        yield


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = QuietServer(uvicorn.Config(echo, http=BoundedHttp, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            server.should_exit = True
            await serving


async def answer_to(*parts: bytes) -> bytes:
    """Send parts, each when the one before is on its way; returns the answer's first line and last one."""
    async with connected() as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except ConnectionResetError:  # what was not read may cost the answer its way
            return b"HTTP/1.1 431 "
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head.partition(b"\r\n")[0] + b" " + await reader.readexactly(length)


@pytest.mark.parametrize(
    "parts",
    [
        [POST + b"X-Long: ", *[b"x" * 20_000] * 10],
        [POST, *[b"X-Many: " + b"y" * 1_000 + b"\r\n"] * 200],
        [POST + b"X-Long: " + b"x" * 4 * MAX_HEAD_BYTES],
        [b"GET /" + b"x" * 2 * MAX_HEAD_BYTES],
    ],
    ids=["one long header", "many headers", "all at once", "a long address"],
)
async def test_a_header_beyond_the_bound_is_431(parts: list[bytes]) -> None:
    assert (await answer_to(*parts)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [0, 1, MAX_HEAD_BYTES - 1, MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, 2**22])
@pytest.mark.parametrize("piece", [7_919, MAX_HEAD_BYTES, 2**22])
async def test_a_body_of_any_size_and_pieces_arrives_whole(size: int, piece: int) -> None:
    sent = POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size
    assert await answer_to(*(sent[n : n + piece] for n in range(0, len(sent), piece))) == (
        f"HTTP/1.1 200 OK {size} bytes".encode()
    )


async def test_a_header_below_the_bound_is_none_of_our_business() -> None:
    sent = POST + b"X-Long: " + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\nContent-Length: 3\r\n\r\nabc"
    assert await answer_to(sent) == b"HTTP/1.1 200 OK 3 bytes"


async def test_the_bound_is_each_requests_own() -> None:
    sent = POST + b"X-Long: " + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\nContent-Length: 3\r\n\r\nabc"
    async with connected() as (reader, writer):
        for _ in range(5):
            writer.write(sent)
            assert (await reader.readuntil(b"3 bytes")).startswith(b"HTTP/1.1 200 OK")


async def test_trailers_without_end_end_the_connection() -> None:
    async with connected() as (reader, writer):
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: " + b"x" * 4 * MAX_HEAD_BYTES)
        with suppress(ConnectionResetError):  # it did not even read the rest
            assert await reader.read() == b""
