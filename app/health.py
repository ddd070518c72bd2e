"""`/healthz`, `/readyz` and `/metrics`: for whoever watches this process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import asyncpg
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.problems import problem
from sql.migrate import is_current

if TYPE_CHECKING:
    from starlette.requests import Request

READY_WITHIN_SECONDS = 3.0
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


async def healthz(_request: Request) -> Response:
    """Tell that the process lives and its event loop turns."""
    return PlainTextResponse("alive")


async def readyz(request: Request) -> Response:
    """Tell whether the database answers and has this version's schema."""
    try:
        async with asyncio.timeout(READY_WITHIN_SECONDS), request.state.pool.acquire() as connection:
            current = await is_current(connection)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return problem(503, f"the database does not answer: {type(error).__name__}")
    if not current:
        return problem(503, "the database's schema is not this version's: run `messenger-mirror migrate`")
    return PlainTextResponse("ready")


async def metrics(_request: Request) -> Response:
    """Give what is counted, of all processes of `serve --workers N`."""
    registry = REGISTRY
    if MULTIPROCESS_DIR in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def health_routes() -> list[Route]:
    """The routes of this module."""
    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
