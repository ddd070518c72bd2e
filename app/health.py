"""`/healthz`, `/readyz` and `/metrics`: for whoever watches this process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.problems import problem
from sql.migrate import is_current

if TYPE_CHECKING:
    from starlette.requests import Request

    from sql.pool import Pool

READY_WITHIN_SECONDS = 3.0
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


async def healthz(_request: Request) -> Response:
    """Tell that the process lives and its event loop turns."""
    return PlainTextResponse("alive")


async def readyz(request: Request) -> Response:
    """Tell whether the database answers and has this version's schema."""
    # a task of its own: cancelling a query waits for the server's word, and a server that stands still has none
    asking = asyncio.create_task(_is_current(request.state.pool))
    done, _ = await asyncio.wait({asking}, timeout=READY_WITHIN_SECONDS)
    if not done:
        asking.add_done_callback(_ignore_outcome)
        asking.cancel()
        return problem(503, "the database does not answer: TimeoutError")
    try:
        current = await asking
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return problem(503, f"the database does not answer: {type(error).__name__}")
    if not current:
        return problem(503, "the database's schema is not this version's: run `messenger-mirror migrate`")
    return PlainTextResponse("ready")


async def _is_current(pool: Pool) -> bool:
    async with pool.acquire() as connection:
        return await is_current(connection)


def _ignore_outcome(asking: asyncio.Task[bool]) -> None:
    if not asking.cancelled():
        asking.exception()


async def metrics(_request: Request) -> Response:
    """Give what is counted, of all processes of `serve --workers N`."""
    registry = REGISTRY
    if MULTIPROCESS_DIR in os.environ:
        _forget_dead_processes(Path(os.environ[MULTIPROCESS_DIR]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _forget_dead_processes(folder: Path) -> None:
    """Leave out what a killed process was waiting for when it died; what it counted stays."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass  # it lives, as another user


def health_routes() -> list[Route]:
    """The routes of this module."""
    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
