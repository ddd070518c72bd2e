from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from simulator import Behaviour, Graph, TurnedClock, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "app-secret-of-tests"


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def world(clock: TurnedClock) -> World:
    return World(7, pages=2, conversations_per_page=60, messages_per_conversation=12, now=clock)


@pytest.fixture
def graph(world: World) -> Graph:
    """A Graph that shows at once what happened, so that no test has to turn the clock before it looks."""
    return Graph(world, behaviour=Behaviour(read_lag_seconds=0))


class Caller:
    """Calls the Graph API in this process, with the first Page's token."""

    def __init__(self, graph: Graph, http: httpx.AsyncClient) -> None:
        self.graph, self.http = graph, http
        self.page = graph.world.pages[0]

    async def get(self, path: str, **params: Any) -> httpx.Response:
        token = params.pop("token", self.page.access_token)
        headers = {"authorization": f"Bearer {token}"}
        return await self.http.get(f"/v26.0/{path}", params=params, headers=headers)

    async def json(self, path: str, **params: Any) -> Any:
        response = await self.get(path, **params)
        assert response.status_code == 200, response.text
        return response.json()

    async def error(self, path: str, **params: Any) -> Any:
        response = await self.get(path, **params)
        assert response.status_code >= 400, response.text
        return response.json()["error"]

    async def pages(self, path: str, **params: Any) -> AsyncIterator[list[Any]]:
        """Follow an edge's cursors to its end."""
        after: dict[str, str] = {}
        while True:
            edge = await self.json(path, **params, **after)
            yield edge["data"]
            if "next" not in edge.get("paging", {}):
                return
            after = {"after": edge["paging"]["cursors"]["after"]}

    async def all(self, path: str, **params: Any) -> list[Any]:
        return [row async for rows in self.pages(path, **params) for row in rows]


@pytest.fixture
async def call(graph: Graph) -> AsyncIterator[Caller]:
    transport = httpx.ASGITransport(graph.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://graph.test") as http:
        yield Caller(graph, http)
