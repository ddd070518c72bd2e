"""`/healthz`, `/readyz` and `/metrics`: for whoever watches this process."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app.api.answers.common import Readiness
from app.endpoint import Answer, Endpoint
from app.problems import problem
from reconciler.downtime import DOWN_AFTER
from sql.migrate import is_current
from sql.pace import since_beat

if TYPE_CHECKING:
    from starlette.requests import Request

    from sql.pool import Pool
    from sql.spool import Spool

READY_WITHIN_SECONDS = 3.0
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"


async def healthz(_request: Request) -> Response:
    """Tell that the process lives and its event loop turns."""
    return PlainTextResponse("alive")


class _Seen(NamedTuple):
    """What the database tells; `reconciler_seconds`: since somebody last scheduled syncs, None when nobody ever did."""

    is_current: bool
    reconciler_seconds: float | None = None


async def readyz(request: Request) -> Response:
    """Tell whether this process can do its work: 200 while a delivery that comes now is made durable.

    `ready`: all is well. `degraded`: the database went away, and deliveries are kept in the spool; or the reconciler,
    where it is to run here, has stood still for a while. 503: the database was not there since the start, or has
    another version's schema, or neither it nor the spool can take a delivery.
    """
    spool = request.state.spool
    if not request.state.arrived.is_set():
        return _state(503, "the database is not there yet; deliveries are kept in the spool until it is", spool, None)
    # a task of its own: cancelling a query waits for the server's word, and a server that stands still has none
    asking = asyncio.create_task(_look(request.state.pool))
    done, _ = await asyncio.wait({asking}, timeout=READY_WITHIN_SECONDS)
    if done:
        try:
            seen = await asking
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            trouble = f"the database does not answer: {type(error).__name__}"
        else:
            return _state(*_told(seen, has_reconciler=request.state.worker is not None), spool, seen)
    else:
        asking.add_done_callback(_ignore_outcome)
        asking.cancel()
        trouble = "the database does not answer: TimeoutError"
    spool_trouble = await spool.trouble()
    if spool_trouble is not None:
        return _state(503, f"{trouble}; {spool_trouble}", spool, None)
    return _state(200, f"{trouble}; deliveries are kept in the spool", spool, None)


def _told(seen: _Seen, *, has_reconciler: bool) -> tuple[int, str | None]:
    if not seen.is_current:
        return 503, "the database's schema is not this version's: run `messenger-mirror migrate`"
    seconds = seen.reconciler_seconds
    if has_reconciler and (seconds is None or seconds > DOWN_AFTER.total_seconds()):
        return 200, "the reconciler stands still: nothing is synced"
    return 200, None


def _state(status: int, trouble: str | None, spool: Spool, seen: _Seen | None) -> Response:
    oldest = spool.oldest
    age = max((datetime.now(UTC) - oldest).total_seconds(), 0.0) if oldest is not None else None
    told = {
        "spool": {"deliveries": spool.depth, "bytes": spool.bytes, "oldest_seconds": age},
        "reconciler": {"heartbeat_seconds": seen.reconciler_seconds if seen is not None else None},
    }
    if status != 200:
        return problem(status, trouble or "", more=told)
    return JSONResponse({"state": "ready" if trouble is None else "degraded", "detail": trouble, **told})


async def _look(pool: Pool) -> _Seen:
    async with pool.acquire() as connection:
        if not await is_current(connection):
            return _Seen(is_current=False)
        return _Seen(True, await since_beat(connection, "schedule"))


def _ignore_outcome(asking: asyncio.Task[_Seen]) -> None:
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
