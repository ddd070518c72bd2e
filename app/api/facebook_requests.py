"""`/api/facebook-requests`: what Facebook asked for by its callbacks, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from app.api.answers.common import Paged
from app.api.answers.facebook_requests import FacebookRequest
from app.api.wire import Json, PageQuery, page_of, question_of, read_query
from app.endpoint import Answer, Endpoint
from app.keys import Role
from sql.facebook_requests import list_requests

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def index(request: Request) -> Response:
    """Requests, newest first; for what is `unmatched` its owner has to find the person, and erase."""
    query = read_query(request, PageQuery)
    question = question_of("facebook-requests")
    before = query.place(question, datetime, str)
    async with request.state.pool.acquire() as connection:
        rows = await list_requests(connection, limit=query.limit + 1, before=before)
    return Json(page_of(rows, query.limit, "received_at", "code", of=question))


ENDPOINTS = [
    Endpoint(
        "GET",
        "/facebook-requests",
        index,
        role=Role.ADMIN,
        query=PageQuery,
        answers={200: Answer("a page of requests", Paged[FacebookRequest])},
    ),
]
