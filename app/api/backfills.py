"""`/api/backfills`: an operator's request to read a window of the past again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from pydantic import Field

from app.api.answers.common import Paged
from app.api.answers.runs import Backfill, BackfillWithRuns
from app.api.wire import (
    Id,
    Instant,
    Json,
    NoQuery,
    PageQuery,
    Shape,
    check_range,
    page_of,
    question_of,
    read_json,
    read_query,
)
from app.endpoint import LOCATION, Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from reconciler.asking import MOST_ROWS, NESTED
from reconciler.estimate import estimate
from sql.backfills import cancel_backfill, create_backfill, list_backfills, runs_of_backfill, show_backfill
from sql.estimates import left_of_backfill
from sql.pages import list_pages

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class _Body(Shape):
    page_ids: list[Id] | None = Field(None, min_length=1)
    all: bool = False
    since: Instant
    until: Instant | None = None


async def create(request: Request) -> Response:
    """Queue a run per Page: 202 and where to look."""
    body = await read_json(request, _Body)
    _check(body, datetime.now(UTC))
    backfill_id = uuid4()
    async with request.state.pool.acquire() as connection:
        known = {page["page_id"]: page["state"] for page in await list_pages(connection)}
        page_ids = sorted(set(body.page_ids or [p for p, state in known.items() if state == "active"]))
        unknown = [page_id for page_id in page_ids if page_id not in known]
        if unknown:
            raise ProblemError(404, f"no such Pages: {', '.join(unknown[:10])}", field="page_ids")
        if not page_ids:
            raise ProblemError(422, "there is no active Page: add one with POST /api/pages", field="all")
        await create_backfill(connection, backfill_id, page_ids, since=body.since, until=body.until, requested_by="api")
    if request.state.worker is not None:
        await request.state.worker.wake()
    address = f"{request.scope.get('root_path', '')}/backfills/{backfill_id}"
    return Json(await _show(request, backfill_id), 202, headers={"location": address})


def _check(body: _Body, now: datetime) -> None:
    if body.all == (body.page_ids is not None):
        raise ProblemError(422, "name the Pages in page_ids, or set all to true", field="page_ids")
    check_range(body.since, body.until)
    if body.since > now:
        raise ProblemError(422, "since lies in the future", field="since")


async def index(request: Request) -> Response:
    """Backfills, newest first."""
    query = read_query(request, PageQuery)
    question = question_of("backfills")
    before = query.place(question, datetime, UUID)
    async with request.state.pool.acquire() as connection:
        rows = await list_backfills(connection, limit=query.limit + 1, before=before)
    return Json(page_of(rows, query.limit, "requested_at", "id", of=question))


async def show(request: Request) -> Response:
    """One backfill's progress, with its runs."""
    read_query(request, NoQuery)
    return Json(await _show(request, request.path_params["backfill_id"]))


async def cancel(request: Request) -> Response:
    """Cancel what has not ended of a backfill; what it stored stays."""
    backfill_id = request.path_params["backfill_id"]
    await _show(request, backfill_id)
    async with request.state.pool.acquire() as connection:
        await cancel_backfill(connection, backfill_id)
    return Json(await _show(request, backfill_id))


async def _show(request: Request, backfill_id: UUID) -> dict[str, Any]:
    settings = request.state.settings
    async with request.state.pool.acquire() as connection:
        row = await show_backfill(connection, backfill_id)
        if row is None:
            raise ProblemError(404, f"no backfill {backfill_id}", field="backfill_id")
        left = await left_of_backfill(connection, backfill_id, rows=MOST_ROWS, nested=NESTED)
        runs = await runs_of_backfill(connection, backfill_id)
    needed = estimate(
        left,
        rows=MOST_ROWS,
        calls_per_second=settings.graph_calls_per_second_per_page,
        concurrency=settings.sync_concurrency,
    )
    return {**row, "estimate": needed._asdict() if left else None, "runs": runs}


_ONE = "/backfills/{backfill_id:uuid}"
ENDPOINTS = [
    Endpoint(
        "POST",
        "/backfills",
        create,
        role=Role.OPERATE,
        body=_Body,
        answers={202: Answer("queued; `Location` shows its progress", BackfillWithRuns, headers=LOCATION)},
        refuses={404},
    ),
    Endpoint(
        "GET",
        "/backfills",
        index,
        role=Role.READ,
        query=PageQuery,
        answers={200: Answer("a page of backfills", Paged[Backfill])},
    ),
    Endpoint("GET", _ONE, show, role=Role.READ, answers={200: Answer("the backfill, with its runs", BackfillWithRuns)}),
    Endpoint("DELETE", _ONE, cancel, role=Role.OPERATE, answers={200: Answer("as it is now", BackfillWithRuns)}),
]
