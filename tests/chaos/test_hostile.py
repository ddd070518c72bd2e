"""Strangers at the door: forged, unsigned, slow, huge and broken requests. Acknowledged traffic goes on beside them."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.app.service import signed, text_delivery
from tests.chaos.figures import note_figures
from tests.chaos.machines import ANSWER_WITHIN_SECONDS, PAGE, Load, Service, assert_all_is_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.chaos.machines import Database

DURING = int(os.environ.get("MIRROR_OUTAGE", "0")) or 300
ATTACKERS = 8
MOST_GROWTH = 150 * 2**20  # bytes of memory
HEAD = b"POST /webhook HTTP/1.1\r\nHost: mirror\r\n"
OPEN_FILES = 256  # that the service may have
MEBIBYTE = b"x" * 2**20
ENDLESS_MEBIBYTES = 256


class ServiceOfFewFiles(Service):
    command = (
        "-c",
        f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, ({OPEN_FILES},) * 2); import app.cli.main as m; m.main()",
        "serve",
    )


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
            await asyncio.wait_for(raw(service, HEAD, b"", times=1), 10)


async def many_connections(service: Service) -> None:
    """Come in, more often than the service may open files, and never say what for."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for _ in range(OPEN_FILES // 4):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            with suppress(ConnectionError):
                await loop.sock_connect(connection, ("127.0.0.1", service.port))
                await loop.sock_sendall(connection, HEAD)
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


ATTACKS = (
    *(unsigned_posts, forged_signatures, slow_bodies, silent_connections, many_connections),
    *(endless_headers, many_headers, endless_bodies, garbage),
)


@asynccontextmanager
async def attacked(service: Service, *attacks: Callable[[Service], Awaitable[None]]) -> AsyncIterator[None]:
    """Let some attackers of each kind do what they can, for as long as the context is open."""
    async with AsyncExitStack() as stack:
        tasks = [asyncio.ensure_future(attack(service)) for attack in attacks for _ in range(ATTACKERS)]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, (asyncio.CancelledError, OSError, httpx.TransportError)), outcome

        stack.push_async_callback(end)
        yield


def memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_acknowledged_traffic_goes_on_beside(
    attack: Callable[[Service], Awaitable[None]], service_to_attack: Service, attacked_server: Database
) -> None:
    service = service_to_attack
    crowded = attack is many_connections  # then one that has just come in may be sent away; it comes again
    async with Load(service.url, first=service.numbers(), is_new=crowded) as load:
        await load.has_acknowledged(50)
        before = memory(service.process.pid)
        async with attacked(service, attack):
            await load.has_acknowledged(DURING)
        grown = memory(service.process.pid) - before
    assert load.refused == []
    assert load.broken <= (len(load.acknowledged) if crowded else 0)
    assert load.slowest < ANSWER_WITHIN_SECONDS
    assert grown < MOST_GROWTH
    await service.is_drained()
    await assert_all_is_there(attacked_server, load.acknowledged)
    assert await attacked_server.fetch("SELECT mid FROM messages WHERE mid LIKE 'm_forged%'") == []
    note_figures(attacks=1, acknowledged=len(load.acknowledged), lost=0)


@pytest.fixture(scope="module")
async def attacked_server(own_server: Database) -> Database:
    await own_server.start()
    await own_server.empty()
    return own_server


@pytest.fixture(scope="module")
async def service_to_attack(
    attacked_server: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """One service for all attacks: it has to survive them."""
    folder = tmp_path_factory.mktemp("attacked")
    async with ServiceOfFewFiles(folder, attacked_server.dsn, LOG_LEVEL="error") as service:
        yield service
