"""The truth over HTTP, for who compares a mirror of another make: what rows must exist, now or at a moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from simulator.thread import NO_END
from simulator.truth import true_conversation, true_messages_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from simulator.graph import Graph
    from simulator.thread import Thread

PATH = "/simulator/truth"


def graph_and_truth(graph: Graph) -> Starlette:
    """Make an app of a Graph that also answers `GET /simulator/truth?page_id=&at=`.

    `at` is in epoch milliseconds; without it, whatever has happened. The answer is a line of JSON for each
    conversation, newest first, each followed by a line for each of its messages, oldest first.
    """
    world = graph.world

    async def tell(request: Request) -> Response:
        page = world.find_page(request.query_params.get("page_id", ""))
        if page is None:
            known = ", ".join(page.id for page in world.pages[:20])
            return JSONResponse({"error": f"page_id must be a Page's, such as {known}"}, 404)
        moment = request.query_params.get("at")
        if moment is not None and not (moment.isascii() and moment.isdigit() and len(moment) <= 15):
            return JSONResponse({"error": "at must be a time in epoch milliseconds"}, 400)
        at = int(moment) if moment is not None else NO_END
        threads = list(world.threads(page, at))
        return StreamingResponse(_lines(page.id, threads, at), media_type="application/x-ndjson")

    return Starlette(routes=[Route(PATH, tell), Mount("/", graph.app)])


async def _lines(page_id: str, threads: list[Thread], at: int) -> AsyncIterator[bytes]:
    for thread in threads:
        rows: list[dict[str, Any]] = [{"conversation": true_conversation(page_id, thread, at)}]
        rows += [{"message": message} for message in true_messages_of(page_id, thread, at)]
        yield b"".join(orjson.dumps(row) + b"\n" for row in rows)
        await asyncio.sleep(0)  # others' calls are answered in between
