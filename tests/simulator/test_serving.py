from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.responses import PlainTextResponse

from simulator import Faults, Graph, serving
from simulator.graph import hang_until_the_client_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from simulator import TurnedClock, World


async def test_a_served_graph_sends_the_worlds_date_and_no_other(graph: Graph, clock: TurnedClock) -> None:
    async with serving(graph.app) as url, httpx.AsyncClient(base_url=url) as http:
        response = await http.get("/v26.0/me", params={"access_token": graph.world.pages[0].access_token})
    (date,) = response.headers.get_list("date")
    assert parsedate_to_datetime(date) == clock()
    assert response.json()["id"] == graph.world.pages[0].id


async def test_the_next_link_of_a_served_graph_can_be_followed(graph: Graph) -> None:
    page = graph.world.pages[0]
    async with serving(graph.app) as url, httpx.AsyncClient(base_url=url) as http:
        first = await http.get(f"/v26.0/{page.id}/conversations", params={"access_token": page.access_token})
        second = await http.get(first.json()["paging"]["next"])
    assert second.json()["data"]
    assert second.json()["data"] != first.json()["data"]


async def test_answers_wait_for_no_acknowledgement_of_those_before() -> None:
    delayed: list[int] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        delayed.extend(
            accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for accepted in sockets_of_this_process()
            if accepted.getsockname() == tuple(scope["server"]) and not is_listening(accepted)
        )
        await PlainTextResponse("here")(scope, _receive, send)

    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        await http.get("/")
    assert delayed == [1]


def is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def sockets_of_this_process() -> Iterator[socket.socket]:
    for descriptor in map(int, [entry.name for entry in Path("/proc/self/fd").iterdir()]):
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family == socket.AF_INET and sock.type == socket.SOCK_STREAM:
                yield sock


async def test_a_call_that_times_out_is_never_answered(world: World) -> None:
    graph = Graph(world)
    graph.faults.add("timeout#1x1")
    query = {"access_token": world.pages[0].access_token}
    async with serving(graph.app) as url, httpx.AsyncClient(base_url=url) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/v26.0/me", params=query, timeout=httpx.Timeout(30, read=0.05))
        assert (await http.get("/v26.0/me", params=query)).status_code == 200


async def test_a_call_that_is_never_answered_does_not_hold_up_the_end(world: World) -> None:
    hung, query = asyncio.Event(), {"access_token": world.pages[0].access_token}

    async def hang(request: Request) -> None:
        hung.set()
        await hang_until_the_client_leaves(request)

    graph = Graph(world, faults=Faults(["timeout"]), hang=hang)
    async with httpx.AsyncClient(timeout=None) as http, serving(graph.app) as url:
        call = asyncio.create_task(http.get(f"{url}/me", params=query))
        await hung.wait()
    with pytest.raises(httpx.TransportError):
        await call


async def test_a_call_that_is_answered_late_does_not_hold_up_the_end(world: World) -> None:
    asleep, query = asyncio.Event(), {"access_token": world.pages[0].access_token}

    async def sleep(_seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    graph = Graph(world, faults=Faults(["latency@9999"]), sleep=sleep)
    async with httpx.AsyncClient(timeout=None) as http, serving(graph.app) as url:
        call = asyncio.create_task(http.get(f"{url}/me", params=query))
        await asleep.wait()
    with pytest.raises(httpx.TransportError):
        await call


async def test_a_port_that_is_taken_is_an_error(graph: Graph) -> None:
    async with serving(graph.app) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
            async with serving(graph.app, port=port):
                pass
