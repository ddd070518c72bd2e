"""`/api/conversations/sync` and its kin: ask for sync runs, and wait for them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.answers.common import Rows
from app.api.answers.runs import Run
from app.api.wire import Id, Json, Shape, read_json, read_query, run_number
from app.endpoint import LOCATION, Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.pages import list_pages, show_page
from sql.sync_runs import ENDED, enqueue_run, show_runs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg
    from starlette.requests import Request
    from starlette.responses import Response

    from sql.pool import Pool

LOOK_EVERY_SECONDS = 0.25
HEARTBEAT_SECONDS = 15  # proxies close a connection on which nothing comes, many after 60 seconds
Mode = Literal["incremental", "full", "audit"]
WaitSeconds = Annotated[float, Field(ge=0, le=300)]


class _SyncBody(Shape):
    page_id: Id
    mode: Mode = "incremental"
    wait_seconds: WaitSeconds = 0


class _SyncAllBody(Shape):
    mode: Mode = "incremental"
    wait_seconds: WaitSeconds = 0


class _StreamQuery(Shape):
    page_id: Id
    mode: Mode = "incremental"


async def sync(request: Request) -> Response:
    """Sync one Page: 200 and the finished run, or 202 and where to look."""
    body = await read_json(request, _SyncBody)
    run_id = await _enqueue(request, body.page_id, body.mode)
    (run,) = await _wait(request, [run_id], body.wait_seconds)
    if run["state"] in ENDED:
        return Json(run)
    return Json(run, 202, headers={"location": _address(request, run_id)})


async def sync_all(request: Request) -> Response:
    """Sync every Page in parallel: one run per Page, 200 when all have ended."""
    body = await read_json(request, _SyncAllBody)
    async with request.state.pool.acquire() as connection:
        # a Page that can't be synced gets its run too: it fails, and says what to do
        run_ids = [
            await enqueue_run(connection, page["page_id"], body.mode, requested_by="api")
            for page in await list_pages(connection)
        ]
    await _wake(request)
    runs = await _wait(request, run_ids, body.wait_seconds)
    return Json({"data": runs}, 200 if all(run["state"] in ENDED for run in runs) else 202)


async def sync_stream(request: Request) -> Response:
    """Sync one Page and tell its progress as server-sent events: `progress`, then `complete` or `failed`.

    Each event's id is its run's: who comes back with it as `Last-Event-ID` follows that run and starts no other. The
    stream ends without either when the service ends, or the key is revoked.
    """
    query = read_query(request, _StreamQuery)
    pool = request.state.pool
    runs = await _read(pool, [run_number(request.headers.get("last-event-id", ""))])
    if runs and runs[0]["page_id"] == query.page_id:
        run_id = runs[0]["id"]
    else:
        run_id = await _enqueue(request, query.page_id, query.mode)
    return EventSourceResponse(_events(request, run_id), ping=HEARTBEAT_SECONDS)


async def _events(request: Request, run_id: int) -> AsyncIterator[ServerSentEvent]:
    state, key = request.state, request.scope["key"]
    last: asyncpg.Record | None = None
    while not state.ending.is_set() and await state.keys.is_good(key):
        (run,) = await _read(state.pool, [run_id])
        if run["state"] in ENDED:
            yield _event("complete" if run["state"] == "succeeded" else "failed", run)
            return
        if run != last:
            yield _event("progress", run)
        last = run
        await _pause(state.ending, LOOK_EVERY_SECONDS)


def _event(name: str, run: asyncpg.Record) -> ServerSentEvent:
    data = orjson.dumps(dict(run), default=str, option=orjson.OPT_UTC_Z).decode()
    return ServerSentEvent(data, event=name, id=str(run["id"]))


async def _enqueue(request: Request, page_id: str, mode: str) -> int:
    async with request.state.pool.acquire() as connection:
        if await show_page(connection, page_id) is None:
            raise ProblemError(404, f"no Page {page_id}: add it with POST /api/pages", field="page_id")
        run_id = await enqueue_run(connection, page_id, mode, requested_by="api")
    await _wake(request)
    return run_id


async def _wake(request: Request) -> None:
    """Start what is queued now, where this process has a worker; else another's next tick does."""
    if request.state.worker is not None:
        await request.state.worker.wake()


async def _wait(request: Request, run_ids: Sequence[int], seconds: float) -> list[asyncpg.Record]:
    """Look at runs until all have ended or the time is up, or this process is asked to end: its answer is then 202."""
    pool, ending, until = request.state.pool, request.state.ending, time.monotonic() + seconds
    while True:
        runs = await _read(pool, run_ids)
        if all(run["state"] in ENDED for run in runs) or time.monotonic() >= until or ending.is_set():
            return runs
        await _pause(ending, min(LOOK_EVERY_SECONDS, max(until - time.monotonic(), 0)))


async def _pause(ending: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ending.wait()


async def _read(pool: Pool, run_ids: Sequence[int]) -> list[Any]:
    async with pool.acquire() as connection:
        return await show_runs(connection, run_ids)


def _address(request: Request, run_id: int) -> str:
    return f"{request.scope.get('root_path', '')}/runs/{run_id}"


# before those of one conversation, which would take their paths for ids
ENDPOINTS = [
    Endpoint(
        "POST",
        "/conversations/sync",
        sync,
        role=Role.OPERATE,
        body=_SyncBody,
        answers={
            200: Answer("the run, which has ended", Run),
            202: Answer("the run, which goes on; `Location` shows it", Run, headers=LOCATION),
        },
        refuses={404},
    ),
    Endpoint(
        "POST",
        "/conversations/sync-all",
        sync_all,
        role=Role.OPERATE,
        body=_SyncAllBody,
        answers={
            200: Answer("a run of each Page, all of which have ended", Rows[Run]),
            202: Answer("a run of each Page, of which some go on", Rows[Run]),
        },
    ),
    Endpoint(
        "GET",
        "/conversations/sync-stream",
        sync_stream,
        role=Role.OPERATE,
        query=_StreamQuery,
        answers={
            200: Answer("events `progress`, then `complete` or `failed`: each a run", media_type="text/event-stream")
        },
        refuses={404},
    ),
]
