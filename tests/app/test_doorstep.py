"""Connections that are slow to ask, to send or to take have a deadline, and make room for others."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import uvicorn

from app import doorstep
from app.bounded_http import BoundedHttp
from app.doorstep import Doorstep, raise_file_limit, room_for_connections
from tests.app.test_bounded_http import POST, QuietServer, echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

EXPECTING, CONTINUE = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"100 Continue\r\n\r\n"
SOON, NEVER = 0.05, 3600.0
LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: mirror\r\n\r\n"


@asynccontextmanager
async def door(
    app: ASGIApp = echo, *, room: int = 1000, head: float = NEVER, rest: float = NEVER, grace: float = 0
) -> AsyncIterator[Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]]:
    """A server with such a doorstep; gives what connects to it."""

    class Http(BoundedHttp):
        @staticmethod
        def new_doorstep() -> Doorstep:
            return Doorstep(room=room, head_seconds=head, rest_seconds=rest, grace_seconds=grace)

    writers: list[asyncio.StreamWriter] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, http=Http, lifespan="off", log_config=None, ws="none", timeout_keep_alive=int(NEVER)
        )
        server = QuietServer(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writers.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in writers:
                writer.transport.abort()
            server.should_exit = True
            await serving


async def told_until_the_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server ends the connection."""
    told = b""
    with suppress(ConnectionError):
        while data := await reader.read(2**16):
            told += data
    return told


@pytest.mark.parametrize("sent", [b"", b"P", POST, POST + b"X-Slow: "], ids=["nothing", "a byte", "a line", "a header"])
async def test_a_head_that_is_not_complete_in_time_is_408(sent: bytes) -> None:
    async with door(head=SOON) as connect:
        reader, writer = await connect()
        writer.write(sent)
        assert (await told_until_the_end(reader)).startswith(b"HTTP/1.1 408 ")


async def test_the_head_of_a_later_request_has_a_deadline_too() -> None:
    async with door(head=SOON) as connect:
        reader, writer = await connect()
        writer.write(GET + POST)
        told = await told_until_the_end(reader)
        assert told.startswith(b"HTTP/1.1 200 OK")
        assert told.count(b"HTTP/1.1 408 ") == 1


async def test_a_body_that_does_not_end_in_time_ends_the_connection() -> None:
    async with door(rest=SOON) as connect:
        reader, writer = await connect()
        writer.write(POST + b"Content-Length: 10\r\n\r\nx")
        assert await told_until_the_end(reader) == b""


async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def test_a_body_that_goes_on_after_its_answer_keeps_no_connection_open() -> None:
    async with door(refuse, rest=SOON) as connect:
        reader, writer = await connect()
        writer.write(POST + b"Content-Length: 10\r\n\r\nx")
        assert (await told_until_the_end(reader)).startswith(b"HTTP/1.1 401 ")


async def test_an_answer_that_nobody_takes_ends_the_connection() -> None:
    ended = asyncio.Event()

    async def pour(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
            await asyncio.sleep(0)
        assert (await gone)["type"] == "http.disconnect"
        ended.set()

    async with door(pour, rest=SOON) as connect:
        _, writer = await connect()
        writer.write(GET)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads has it
        await ended.wait()


async def test_what_is_in_time_is_left_alone_and_so_is_one_that_is_being_answered() -> None:
    answer, asked = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await answer.wait()
        await echo(scope, receive, send)

    async with door(slow, head=SOON, rest=SOON) as connect:
        reader, writer = await connect()
        writer.write(POST + b"Content-Length: 3\r\n\r\nabc")
        await asked.wait()
        other, silent = await connect()
        silent.write(b"G")
        assert (await told_until_the_end(other)).startswith(b"HTTP/1.1 408 ")  # by now both would be late
        answer.set()
        assert (await reader.readuntil(b"3 bytes")).startswith(b"HTTP/1.1 200 OK")


async def test_when_there_are_too_many_the_oldest_that_asked_for_nothing_goes_for_the_new_one() -> None:
    async with door(room=3) as connect:
        asking, writer = await connect()
        writer.write(POST + EXPECTING)
        await asking.readuntil(CONTINUE)
        oldest, first = await connect()
        first.write(POST)
        newer, second = await connect()
        last, third = await connect()
        assert await told_until_the_end(oldest) != b""
        for reader, its_writer, rest in ((asking, writer, b"abc"), (newer, second, GET), (last, third, GET)):
            its_writer.write(rest)
            assert (await reader.readuntil(b"bytes")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("has_just_come", [True, False])
async def test_an_idle_one_goes_before_who_has_only_just_come_in(has_just_come: bool) -> None:  # noqa: FBT001
    async with door(room=2, grace=NEVER if has_just_come else 0) as connect:
        idle, writer = await connect()
        writer.write(GET)
        await idle.readuntil(b"0 bytes")
        silent, asking = await connect()
        _, newest = await connect()
        assert await told_until_the_end(idle if has_just_come else silent) == (b"" if has_just_come else LATE)
        if has_just_come:
            asking.write(GET)
            assert (await silent.readuntil(b"bytes")).startswith(b"HTTP/1.1 200 OK")
        assert not newest.is_closing()


async def test_when_all_have_asked_an_idle_one_goes_and_then_one_whose_body_is_slow() -> None:
    async with door(room=2) as connect:
        idle, writer = await connect()
        writer.write(GET)
        await idle.readuntil(b"0 bytes")
        slow, writer = await connect()
        writer.write(POST + EXPECTING)
        await slow.readuntil(CONTINUE)
        third, writer = await connect()
        assert await told_until_the_end(idle) == b""
        writer.write(POST + EXPECTING)
        await third.readuntil(CONTINUE)
        await connect()
        assert await told_until_the_end(slow) == b""


WANTED = doorstep.MOST_CONNECTIONS + doorstep.OTHER_FILES


@pytest.mark.parametrize(
    ("limit", "raised"),
    [
        ((1024, 2**20), [(WANTED, 2**20)]),
        ((1024, 2048), [(2048, 2048)]),
        ((1024, resource.RLIM_INFINITY), [(WANTED, resource.RLIM_INFINITY)]),
        ((2**20, 2**20), []),
    ],
)
def test_a_process_may_open_as_many_files_as_it_is_allowed_to(
    limit: tuple[int, int], raised: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: made.append(limit))
    raise_file_limit()
    assert made == raised


@pytest.mark.parametrize(
    ("soft", "room"), [(1024, 928), (100, 50), (2**20, doorstep.MOST_CONNECTIONS), (-1, doorstep.MOST_CONNECTIONS)]
)
def test_connections_leave_the_process_the_files_that_it_needs_for_itself(
    soft: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert room_for_connections() == room
