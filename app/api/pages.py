"""`/api/pages`: which Pages are mirrored. Tokens go in, never out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr
from starlette.responses import Response

from app.adding import PageRefusedError, add_page
from app.api.answers.common import Rows
from app.api.answers.pages import ImportedPage, Page
from app.api.wire import Json, Shape, path_id, read_json, read_query
from app.endpoint import Answer, Endpoint
from app.importing import import_pages
from app.keys import Role
from app.problems import ProblemError
from app.reconciling import new_watchdog
from app.removing import StillSubscribedError
from app.removing import remove as remove_page
from reconciler.graph.errors import GraphError, GraphUnavailable, RateLimited
from reconciler.tokens import TokenUnreadableError
from sql.audits import coverage_of
from sql.loss import loss_since
from sql.pages import PageBusyError, list_pages, pause_page, resume_page, show_page

if TYPE_CHECKING:
    import asyncpg
    from starlette.requests import Request

    from reconciler.watchdog import Watchdog
    from sql.pool import Pool
    from sql.upsert import Connection


def _fits_a_header(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,2000}", value.get_secret_value()):
        raise ValueError("a token has 1 to 2000 visible ASCII characters, without spaces")
    return value


Token = Annotated[SecretStr, AfterValidator(_fits_a_header)]
PageId = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_-]+$")]


class _Body(Shape):
    access_token: Token
    page_id: PageId | None = None
    name: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")] | None = None


class _Import(Shape):
    user_access_token: Token
    page_ids: list[PageId] | None = Field(None, min_length=1, max_length=1000)


class _RemoveQuery(Shape):
    data: Literal["keep", "erase"] = Field("keep", description="what becomes of what was mirrored of it")
    unsubscribe: bool = Field(True, description="`false`: its webhooks go on, and what they bring is stored")


async def index(request: Request) -> Response:
    """Every Page."""
    async with request.state.pool.acquire() as connection:
        return Json({"data": await _in_full(connection, await list_pages(connection))})


async def create(request: Request) -> Response:
    """Add a Page, or give a known one a new token: 201 when it is new, else 200."""
    body = await read_json(request, _Body)
    state = request.state
    token = body.access_token.get_secret_value()
    try:
        page_id, is_new = await add_page(
            state.pool,
            state.graph,
            state.tokens,
            token,
            page_id=body.page_id,
            name=body.name,
            app_token=state.settings.app_token,
        )
    except PageRefusedError as error:
        raise _refused(error) from None
    except PageBusyError as error:
        raise ProblemError(409, str(error), field="page_id") from None
    return Json(await _show(state.pool, page_id), 201 if is_new else 200)


def _refused(error: PageRefusedError) -> ProblemError:
    return ProblemError(502 if error.is_temporary else 422, str(error), field=error.field)


async def take_all(request: Request) -> Response:
    """Add all Pages of a person, or some of them, by the person's user token, which is not kept."""
    body = await read_json(request, _Import)
    state = request.state
    try:
        pages = await import_pages(
            state.pool, state.graph, state.tokens, body.user_access_token.get_secret_value(), only=body.page_ids
        )
    except PageRefusedError as error:
        raise _refused(error) from None
    return Json({"data": [page._asdict() for page in pages]})


async def show(request: Request) -> Response:
    """One Page."""
    return Json(await _show(request.state.pool, path_id(request, "page_id")))


async def _show(pool: Pool, page_id: str) -> dict[str, Any]:
    async with pool.acquire() as connection:
        row = await show_page(connection, page_id)
        if row is None:
            raise _no_page(page_id)
        [page] = await _in_full(connection, [row])
    return page


def _no_page(page_id: str) -> ProblemError:
    return ProblemError(404, f"no Page {page_id}", field="page_id")


async def _in_full(connection: Connection, rows: list[asyncpg.Record]) -> list[dict[str, Any]]:
    """Add to Pages how much of each is verified, and what webhooks missed of it today."""
    now = datetime.now(UTC)
    coverage = await coverage_of(connection, [row["page_id"] for row in rows])
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    only = rows[0]["page_id"] if len(rows) == 1 else None
    loss = {row["page_id"]: row for row in await loss_since(connection, midnight, page_id=only, now=now)}
    none: dict[str, Any] = {"sent": 0, "missed": 0, "repaired": 0, "loss_percent": None}
    return [
        {
            **row,
            "audit": coverage[row["page_id"]].shown(),
            "loss_today": {name: loss.get(row["page_id"], none)[name] for name in none},
        }
        for row in rows
    ]


async def pause(request: Request) -> Response:
    """Stop syncing a Page, and expect no webhooks of it; what they bring all the same is stored."""
    page_id = path_id(request, "page_id")
    async with request.state.pool.acquire() as connection:
        if not await pause_page(connection, page_id, now=datetime.now(UTC)):
            raise _no_page(page_id)
    return Json(await _show(request.state.pool, page_id))


async def resume(request: Request) -> Response:
    """Sync a paused Page again, at once; a Page that is synced stays so."""
    page_id = path_id(request, "page_id")
    async with request.state.pool.acquire() as connection:
        before = await resume_page(connection, page_id, now=datetime.now(UTC))
    if before is None:
        raise _no_page(page_id)
    if before == "needs_reauth":
        raise ProblemError(409, "its token is dead: add the Page again with a new one", field="page_id")
    if request.state.worker is not None:
        await request.state.worker.wake()
    return Json(await _show(request.state.pool, page_id))


async def subscribe(request: Request) -> Response:
    """Subscribe a Page's webhooks, and keep them subscribed from now on."""
    page_id = path_id(request, "page_id")
    before = await _show(request.state.pool, page_id)
    found = await _watchdog(request).subscribe(page_id)
    page = await _show(request.state.pool, before["page_id"])
    if found is None:
        raise ProblemError(502, f"Graph can't be asked now, which is tried again: {page['subscription_error']}")
    return Json(page)


async def unsubscribe(request: Request) -> Response:
    """End a Page's webhooks, and leave them ended: it is only synced."""
    page_id = path_id(request, "page_id")
    try:
        if not await _watchdog(request).unsubscribe(page_id):
            raise _no_page(page_id)
    except (GraphUnavailable, RateLimited) as error:
        raise ProblemError(502, f"Graph can't be asked now: {error}") from None
    except (GraphError, TokenUnreadableError) as error:
        raise ProblemError(409, f"Graph does not end them: {error}", field="page_id") from None
    return Json(await _show(request.state.pool, page_id))


def _watchdog(request: Request) -> Watchdog:
    state = request.state
    return new_watchdog(state.settings, state.pool, state.graph, state.tokens)


async def remove(request: Request) -> Response:
    """End a Page's webhooks, forget its token and stop syncing it; what was mirrored is kept, or erased as asked."""
    query = read_query(request, _RemoveQuery)
    page_id = path_id(request, "page_id")
    try:
        removed = await remove_page(
            request.state.pool,
            _watchdog(request),
            page_id,
            unsubscribe=query.unsubscribe,
            erase=query.data == "erase",
        )
    except StillSubscribedError as error:
        raise ProblemError(
            502, f"{error}; try again, or leave them on with unsubscribe=false", field="unsubscribe"
        ) from None
    if removed is None:
        raise _no_page(page_id)
    return Response(status_code=202 if query.data == "erase" else 204)


_THE_PAGE = {200: Answer("the Page as it is now", Page)}
ENDPOINTS = [
    Endpoint("GET", "/pages", index, role=Role.READ, answers={200: Answer("every Page", Rows[Page])}),
    Endpoint(
        "POST",
        "/pages",
        create,
        role=Role.ADMIN,
        body=_Body,
        answers={201: Answer("the Page, which is new", Page), 200: Answer("the Page, which was known", Page)},
        refuses={409, 502},
    ),
    Endpoint(
        "POST",
        "/pages/import",
        take_all,
        role=Role.ADMIN,
        body=_Import,
        answers={200: Answer("what became of each", Rows[ImportedPage])},
        refuses={502},
    ),
    Endpoint("GET", "/pages/{page_id}", show, role=Role.READ, answers={200: Answer("the Page", Page)}),
    Endpoint("POST", "/pages/{page_id}/pause", pause, role=Role.OPERATE, answers=_THE_PAGE),
    Endpoint("POST", "/pages/{page_id}/resume", resume, role=Role.OPERATE, answers=_THE_PAGE, refuses={409}),
    Endpoint("POST", "/pages/{page_id}/subscribe", subscribe, role=Role.ADMIN, answers=_THE_PAGE, refuses={502}),
    Endpoint(
        "POST", "/pages/{page_id}/unsubscribe", unsubscribe, role=Role.ADMIN, answers=_THE_PAGE, refuses={409, 502}
    ),
    Endpoint(
        "DELETE",
        "/pages/{page_id}",
        remove,
        role=Role.ADMIN,
        query=_RemoveQuery,
        answers={
            204: Answer("it is removed"),
            202: Answer("it is removed, and its data is being erased"),
        },
        refuses={502},
    ),
]
