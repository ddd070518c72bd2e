"""`/healthz`, `/readyz` and `/metrics`: for whoever watches this process."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.api.answers.common import Readiness
from app.endpoint import Answer, Endpoint
from app.problems import problem
from sql.migrate import is_current

if TYPE_CHECKING:
    from starlette.requests import Request

    from sql.pool import Pool
    from sql.spool import Spool

READY_WITHIN_SECONDS = 3.0
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


async def healthz(_request: Request) -> Response:
    """Tell that the process lives and its event loop turns."""
    return PlainTextResponse("alive")


async def readyz(request: Request) -> Response:
    """Tell whether this process can do its work: 200 while a delivery that comes now is made durable.

    `ready`: all is well. `degraded`: the database went away, and deliveries are kept in the spool. 503: the database
    was not there since the start, or has another version's schema, or neither it nor the spool can take a delivery.
    """
    spool = request.state.spool
    trouble = None
    if not request.state.arrived.is_set():
        trouble = "the database is not there yet; deliveries are kept in the spool until it is"
        return _state(503, trouble, spool)
    # a task of its own: cancelling a query waits for the server's word, and a server that stands still has none
    asking = asyncio.create_task(_is_current(request.state.pool))
    done, _ = await asyncio.wait({asking}, timeout=READY_WITHIN_SECONDS)
    if not done:
        asking.add_done_callback(_ignore_outcome)
        asking.cancel()
        trouble = "the database does not answer: TimeoutError"
    else:
        try:
            if not await asking:
                trouble = "the database's schema is not this version's: run `messenger-mirror migrate`"
                return _state(503, trouble, spool)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            trouble = f"the database does not answer: {type(error).__name__}"
    if trouble is None:
        return _state(200, None, spool)
    spool_trouble = await spool.trouble()
    if spool_trouble is not None:
        return _state(503, f"{trouble}; {spool_trouble}", spool)
    return _state(200, f"{trouble}; deliveries are kept in the spool", spool)


def _state(status: int, trouble: str | None, spool: Spool) -> Response:
    oldest = spool.oldest
    age = max((datetime.now(UTC) - oldest).total_seconds(), 0.0) if oldest is not None else None
    held = {"deliveries": spool.depth, "bytes": spool.bytes, "oldest_seconds": age}
    if status != 200:
        return problem(status, trouble or "", more={"spool": held})
    return JSONResponse({"state": "ready" if trouble is None else "degraded", "detail": trouble, "spool": held})


async def _is_current(pool: Pool) -> bool:
    async with pool.acquire() as connection:
        return await is_current(connection)


def _ignore_outcome(asking: asyncio.Task[bool]) -> None:
    if not asking.cancelled():
        asking.exception()


async def metrics(request: Request) -> Response:
    """Give what is counted, of all processes of `serve --workers N`, and what the database tells."""
    registry = REGISTRY
    if MULTIPROCESS_DIR in os.environ:
        _forget_dead_processes(Path(os.environ[MULTIPROCESS_DIR]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    told = await request.state.numbers.text() if request.state.arrived.is_set() else b""
    return Response(generate_latest(registry) + told, media_type=CONTENT_TYPE_LATEST)


def _forget_dead_processes(folder: Path) -> None:
    """Leave out what a killed process was waiting for when it died; what it counted stays."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass  # it lives, as another user


HEALTH = [
    Endpoint("GET", "/healthz", healthz, role=None, answers={200: Answer("it lives", media_type="text/plain")}),
    Endpoint(
        "GET", "/readyz", readyz, role=None, answers={200: Answer("it can do its work", Readiness)}, refuses={503}
    ),
    Endpoint("GET", "/metrics", metrics, role=None, answers={200: Answer("what is counted", media_type="text/plain")}),
]
