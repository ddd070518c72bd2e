"""`/api/pages`: which Pages are mirrored. Tokens go in, never out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, SecretStr
from starlette.responses import Response

from app.adding import PageRefusedError, add_page
from app.api.answers import Page, Rows
from app.api.wire import Json, NoQuery, Shape, path_id, read_json, read_query
from app.endpoint import Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.audits import coverage_of
from sql.pages import list_pages, remove_page, show_page

if TYPE_CHECKING:
    import asyncpg
    from starlette.requests import Request

    from sql.pool import Pool
    from sql.upsert import Connection


def _fits_a_header(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,2000}", value.get_secret_value()):
        raise ValueError("a token has 1 to 2000 visible ASCII characters, without spaces")
    return value


class _Body(Shape):
    access_token: Annotated[SecretStr, AfterValidator(_fits_a_header)]
    page_id: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    name: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")] | None = None


async def index(request: Request) -> Response:
    """Every Page."""
    read_query(request, NoQuery)
    async with request.state.pool.acquire() as connection:
        return Json({"data": await _with_audits(connection, await list_pages(connection))})


async def create(request: Request) -> Response:
    """Add a Page, or give a known one a new token: 201 when it is new, else 200."""
    body = await read_json(request, _Body)
    state = request.state
    token = body.access_token.get_secret_value()
    try:
        page_id, is_new = await add_page(
            state.pool, state.graph, state.tokens, token, page_id=body.page_id, name=body.name
        )
    except PageRefusedError as error:
        raise ProblemError(502 if error.is_temporary else 422, str(error), field=error.field) from None
    return Json(await _show(state.pool, page_id), 201 if is_new else 200)


async def show(request: Request) -> Response:
    """One Page."""
    read_query(request, NoQuery)
    return Json(await _show(request.state.pool, path_id(request, "page_id")))


async def _show(pool: Pool, page_id: str) -> dict[str, Any]:
    async with pool.acquire() as connection:
        row = await show_page(connection, page_id)
        if row is None:
            raise ProblemError(404, f"no Page {page_id}")
        [page] = await _with_audits(connection, [row])
    return page


async def _with_audits(connection: Connection, rows: list[asyncpg.Record]) -> list[dict[str, Any]]:
    """Add to Pages how much of each is verified."""
    coverage = await coverage_of(connection, [row["page_id"] for row in rows])
    return [{**row, "audit": coverage[row["page_id"]].shown()} for row in rows]


async def remove(request: Request) -> Response:
    """Forget a Page's token and stop syncing it; what was mirrored stays."""
    page_id = path_id(request, "page_id")
    async with request.state.pool.acquire() as connection:
        if not await remove_page(connection, page_id):
            raise ProblemError(404, f"no Page {page_id}")
    return Response(status_code=204)


ENDPOINTS = [
    Endpoint("GET", "/pages", index, role=Role.READ, answers={200: Answer("every Page", Rows[Page])}),
    Endpoint(
        "POST",
        "/pages",
        create,
        role=Role.ADMIN,
        body=_Body,
        answers={201: Answer("the Page, which is new", Page), 200: Answer("the Page, which was known", Page)},
        refuses={502},
    ),
    Endpoint("GET", "/pages/{page_id}", show, role=Role.READ, answers={200: Answer("the Page", Page)}),
    Endpoint("DELETE", "/pages/{page_id}", remove, role=Role.ADMIN, answers={204: Answer("it is removed")}),
]
