"""`/api/runs`: sync runs, past and present."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from app.api.answers.common import Paged
from app.api.answers.runs import Run
from app.api.wire import Id, Json, NoQuery, PageQuery, page_of, question_of, read_query, run_number
from app.endpoint import Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.sync_runs import list_runs, show_runs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class _Query(PageQuery):
    page_id: Id | None = None
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None


async def index(request: Request) -> Response:
    """Runs, newest first."""
    query = read_query(request, _Query)
    question = question_of("runs", query.page_id, query.state)
    (before,) = query.place(question, int) or (None,)
    async with request.state.pool.acquire() as connection:
        rows = await list_runs(
            connection, page_id=query.page_id, state=query.state, before=before, limit=query.limit + 1
        )
    return Json(page_of(rows, query.limit, "id", of=question))


async def show(request: Request) -> Response:
    """One run."""
    read_query(request, NoQuery)
    run_id = run_number(request.path_params["run_id"])
    async with request.state.pool.acquire() as connection:
        rows = await show_runs(connection, [run_id])
    if not rows:
        raise ProblemError(404, "no such run", field="run_id")
    return Json(rows[0])


ENDPOINTS = [
    Endpoint("GET", "/runs", index, role=Role.READ, query=_Query, answers={200: Answer("a page of runs", Paged[Run])}),
    Endpoint("GET", "/runs/{run_id}", show, role=Role.READ, answers={200: Answer("the run", Run)}),
]
