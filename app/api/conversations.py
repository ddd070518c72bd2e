"""`/api/conversations`: reading what is mirrored."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from app.api.wire import Id, Json, Limit, NoQuery, Shape, bad_cursor, from_cursor, page_of, path_id, read_query
from app.problems import ProblemError
from sql.audits import audit_of_conversation
from sql.conversations import (
    count_conversations,
    list_conversations,
    list_messages,
    person_of_thread,
    show_conversation,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from sql.upsert import Connection


class _ListQuery(Shape):
    page_id: Id | None = None
    limit: Limit = 50
    cursor: str | None = None
    count: Literal["none", "exact"] = "none"


class _MessagesQuery(Shape):
    limit: Limit = 50
    cursor: str | None = None


async def index(request: Request) -> Response:
    """Conversations, newest activity first."""
    query = read_query(request, _ListQuery)
    after = None
    if query.cursor is not None:
        after = from_cursor(query.cursor, datetime, str, str)
        if query.page_id not in {None, after[1]}:
            raise bad_cursor()
    async with request.state.pool.acquire() as connection:
        rows = await list_conversations(connection, page_id=query.page_id, after=after, limit=query.limit + 1)
        page = page_of(rows, query.limit, "last_message_at", "page_id", "psid")
        if query.count == "exact":
            page["total"] = await count_conversations(connection, page_id=query.page_id)
    return Json(page)


async def show(request: Request) -> Response:
    """One conversation, and how it stood when it was last audited."""
    read_query(request, NoQuery)
    page_id, psid = path_id(request, "page_id"), path_id(request, "psid")
    async with request.state.pool.acquire() as connection:
        row = await show_conversation(connection, page_id, psid)
        if row is None:
            return await _elsewhere(request, connection, page_id, psid)
        audit = await audit_of_conversation(connection, page_id, psid)
    return Json({**row, **audit})


async def messages(request: Request) -> Response:
    """A conversation's messages, newest first."""
    query = read_query(request, _MessagesQuery)
    page_id, psid = path_id(request, "page_id"), path_id(request, "psid")
    after = None
    if query.cursor is not None:
        after = from_cursor(query.cursor, datetime, str)
    async with request.state.pool.acquire() as connection:
        rows = await list_messages(connection, page_id, psid, after=after, limit=query.limit + 1)
        if not rows and await show_conversation(connection, page_id, psid) is None:
            return await _elsewhere(request, connection, page_id, psid, "/messages")
    return Json(page_of(rows, query.limit, "sent_at", "mid"))


async def _elsewhere(
    request: Request, connection: Connection, page_id: str, thread_id: str, suffix: str = ""
) -> Response:
    """Send an old link, made while the thread's id stood in for its person, to the person."""
    psid = await person_of_thread(connection, page_id, thread_id)
    if psid is None:
        raise ProblemError(404, f"no conversation {thread_id} of Page {page_id} is known")
    path = f"{request.scope.get('root_path', '')}/conversations/{quote(page_id, safe='')}/{quote(psid, safe='')}"
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{path}{suffix}{query}", 308)


def routes() -> list[Route]:
    """The routes of this module."""
    return [
        Route("/conversations", index),
        Route("/conversations/{page_id}/{psid}", show),
        Route("/conversations/{page_id}/{psid}/messages", messages),
    ]
