"""What strangers do at the door, again and again, until they are stopped. None of it may be believed."""

from __future__ import annotations

import asyncio
import gzip
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import httpx

from tests.app.service import signed, text_delivery
from tests.chaos.machines import PAGE

if TYPE_CHECKING:
    from tests.chaos.machines import Service

HEAD = b"POST /webhook HTTP/1.1\r\nHost: mirror\r\n"
MANY = 64  # connections of each attacker: several of them have more than the service may open files
MEBIBYTE = b"x" * 2**20
ENDLESS_MEBIBYTES = 256
FORGED = text_delivery(PAGE, "p", "m_forged_by_hand", "forged")


async def unsigned_posts(service: Service) -> None:
    body = text_delivery(PAGE, "p", "m_forged_unsigned", "forged")
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        while True:
            assert (await http.post("/webhook", content=body)).status_code == 403


async def forged_signatures(service: Service) -> None:
    body = text_delivery(PAGE, "p", "m_forged", "forged")
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        while True:
            for headers in (
                signed(body, "guessed"),
                signed(body + b" "),
                {"x-hub-signature-256": "sha256=" + "0" * 64},
            ):
                assert (await http.post("/webhook", content=body, headers=headers)).status_code == 403


async def raw(service: Service, first: bytes, then: bytes, *, times: int, pause: float = 0.0) -> bytes:
    """Send bytes as they are, the second part again and again; returns what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        with suppress(ConnectionError):
            writer.write(first)
            for _ in range(times):
                writer.write(then)
                await writer.drain()
                await asyncio.sleep(pause)
                if reader.at_eof():
                    break
        with suppress(ConnectionError):
            return await reader.read(2**16)
        return b""
    finally:
        writer.transport.abort()


async def slow_bodies(service: Service) -> None:
    while True:
        await raw(service, HEAD + b"Content-Length: 1000\r\n\r\n{", b" ", times=900, pause=0.05)


async def silent_connections(service: Service) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await raw(service, HEAD, b"", times=1)


async def many_connections(service: Service) -> None:
    """Come in, more often than the service may open files, and never say what for."""
    await come_in(service, HEAD)


async def come_in(service: Service, saying: bytes) -> None:
    """Open many connections, say something on each, and stay."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for _ in range(MANY):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            with suppress(ConnectionError):
                await loop.sock_connect(connection, ("127.0.0.1", service.port))
                await loop.sock_sendall(connection, saying)
        await asyncio.Event().wait()


async def endless_headers(service: Service) -> None:
    while True:
        await raw(service, HEAD + b"X-Endless: ", MEBIBYTE, times=ENDLESS_MEBIBYTES)


async def many_headers(service: Service) -> None:
    while True:
        await raw(service, HEAD, b"X-Many: " + b"y" * 1000 + b"\r\n", times=100_000)


async def endless_bodies(service: Service) -> None:
    chunk = b"100000\r\n" + MEBIBYTE + b"\r\n"
    while True:
        await raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, times=ENDLESS_MEBIBYTES)


async def garbage(service: Service) -> None:
    while True:
        await raw(service, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), b"\r\n\r\n", times=1)


async def trickled_headers(service: Service) -> None:
    """A header that comes byte by byte, and of which no byte comes too late."""
    while True:
        await raw(service, HEAD + b"X-Trickle: ", b"t", times=900, pause=0.05)


async def idle_connections(service: Service) -> None:
    """Ask once, as anybody may, and stay."""
    await come_in(service, b"GET /healthz HTTP/1.1\r\nHost: mirror\r\n\r\n")


async def pipelined_garbage(service: Service) -> None:
    """Many requests at once, none of which waits for the answer to the one before, and what is none behind them."""
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(FORGED) + FORGED
    while True:
        await raw(service, one * 50, b"\x00\xff / GET POST \r\n\r\n" * 20, times=2)


async def lying_lengths(service: Service) -> None:
    """Bodies of another length than their heads say, and heads that say two."""
    lies = (
        b"Content-Length: 1\r\n\r\n" + FORGED,
        b"Content-Length: 999999999999999999999\r\n\r\n" + FORGED,
        b"Content-Length: -5\r\n\r\n" + FORGED,
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + FORGED,
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORGED,
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + FORGED,
        b"Transfer-Encoding: chunked\r\n\r\nnone\r\n" + FORGED,
    )
    while True:
        for lie in lies:
            await raw(service, HEAD + lie, b"", times=1)


async def odd_headers(service: Service) -> None:
    """A packed body, which unpacked would be a thousand times as large; more signatures than one; none that fits."""
    packed = gzip.compress(b"0" * 2**24)
    name, wrong = next(iter(signed(FORGED, "guessed").items()))
    tries: tuple[tuple[bytes, list[tuple[str, str]]], ...] = (
        (packed, [("content-encoding", "gzip"), (name, wrong)]),
        (packed, [("content-encoding", "gzip, gzip, deflate")]),
        (FORGED, [(name, wrong), (name, wrong)]),
        (FORGED, [(name, "sha256="), (name, wrong), ("x-hub-signature", "sha1=" + "0" * 40)]),
        (FORGED, [(name, wrong + "\xe9")]),
        (FORGED, [(name, ",".join([wrong] * 100))]),
    )
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        while True:
            for body, headers in tries:
                encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers]
                assert (await http.post("/webhook", content=body, headers=encoded)).status_code == 403


ATTACKS = (
    *(unsigned_posts, forged_signatures, slow_bodies, silent_connections, many_connections),
    *(endless_headers, many_headers, endless_bodies, garbage, trickled_headers, idle_connections),
    *(pipelined_garbage, lying_lengths, odd_headers),
)
