"""`/api/conversations`: reading what is mirrored."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

from pydantic import Field
from starlette.responses import RedirectResponse

from app.api.answers.common import Paged
from app.api.answers.conversations import AuditedConversation, Conversations, Message
from app.api.conditional import conditional
from app.api.tag_names import TagNames  # noqa: TC001 - pydantic reads it
from app.api.wire import Id, Instant, NoQuery, PageQuery, check_range, page_of, path_id, question_of, read_query
from app.endpoint import ELSEWHERE, ETAG, NOT_MODIFIED, Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.audits import audit_of_conversation
from sql.conversation_lists import Wanted, list_conversations
from sql.conversations import person_of_thread, show_conversation
from sql.messages import list_messages

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from sql.upsert import Connection


class _ListQuery(PageQuery):
    page_id: Id | None = None
    include_tags: TagNames = Field((), description="names, comma-separated")
    match: Literal["all", "any"] = Field("all", description="of `include_tags`: it carries each, or one at least")
    exclude_tags: TagNames = Field((), description="names, comma-separated: it carries none of them")
    search: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")] | None = Field(
        None,
        description="words, each of which begins a word of one of its messages, or of the person's name, or stands "
        "anywhere in it, in scripts without spaces between words",
    )
    unread: bool | None = Field(None, description="whether the person waits to be read; not given: either")
    updated_from: Instant | None = Field(None, description="its last message was sent then or later")
    updated_to: Instant | None = Field(None, description="its last message was sent before")
    count: Literal["none", "exact"] = Field("none", description="`exact`: tells `total` too, which takes time")

    def wanted(self) -> Wanted:
        """What the list is of."""
        return Wanted(
            page_id=self.page_id,
            include_tags=self.include_tags,
            match_any=self.match == "any",
            exclude_tags=self.exclude_tags,
            unread=self.unread,
            updated_from=self.updated_from,
            updated_to=self.updated_to,
            search=self.search,
        )


async def index(request: Request) -> Response:
    """Conversations, newest activity first."""
    query = read_query(request, _ListQuery)
    check_range(query.updated_from, query.updated_to, names=("updated_from", "updated_to"))
    wanted = query.wanted()
    question = question_of("conversations", wanted)
    after = query.place(question, datetime, str, str)
    async with request.state.pool.acquire() as connection:
        rows, total = await list_conversations(
            connection, wanted, after=after, limit=query.limit + 1, count=query.count == "exact"
        )
    page = page_of(rows, query.limit, "last_message_at", "page_id", "psid", of=question)
    return conditional(request, page if total is None else {**page, "total": total})


async def show(request: Request) -> Response:
    """One conversation, and how it stood when it was last audited."""
    read_query(request, NoQuery)
    page_id, psid = path_id(request, "page_id"), path_id(request, "psid")
    async with request.state.pool.acquire() as connection:
        row = await show_conversation(connection, page_id, psid)
        if row is None:
            return await elsewhere(request, connection, page_id, psid)
        audit = await audit_of_conversation(connection, page_id, psid)
    return conditional(request, {**row, **audit})


async def messages(request: Request) -> Response:
    """A conversation's messages, newest first."""
    query = read_query(request, PageQuery)
    page_id, psid = path_id(request, "page_id"), path_id(request, "psid")
    # of the Page, not of the person: a conversation that moves to its person takes its cursors along
    question = question_of("messages", page_id)
    after = query.place(question, datetime, str)
    app_id = request.state.settings.facebook_app_id
    async with request.state.pool.acquire() as connection:
        rows = await list_messages(connection, page_id, psid, after=after, limit=query.limit + 1, app_id=app_id)
        if not rows and await show_conversation(connection, page_id, psid) is None:
            return await elsewhere(request, connection, page_id, psid, "/messages")
    return conditional(request, page_of(rows, query.limit, "sent_at", "mid", of=question))


async def elsewhere(
    request: Request, connection: Connection, page_id: str, thread_id: str, suffix: str = ""
) -> Response:
    """Send an old link, made while the thread's id stood in for its person, to the person."""
    psid = await person_of_thread(connection, page_id, thread_id)
    if psid is None:
        raise ProblemError(404, f"no conversation {thread_id} of Page {page_id} is known", field="psid")
    path = f"{request.scope.get('root_path', '')}/conversations/{quote(page_id, safe='')}/{quote(psid, safe='')}"
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{path}{suffix}{query}", 308)


ENDPOINTS = [
    Endpoint(
        "GET",
        "/conversations",
        index,
        role=Role.READ,
        query=_ListQuery,
        answers={200: Answer("a page of conversations", Conversations, headers=ETAG), **NOT_MODIFIED},
    ),
    Endpoint(
        "GET",
        "/conversations/{page_id}/{psid}",
        show,
        role=Role.READ,
        answers={200: Answer("the conversation", AuditedConversation, headers=ETAG), **NOT_MODIFIED, **ELSEWHERE},
    ),
    Endpoint(
        "GET",
        "/conversations/{page_id}/{psid}/messages",
        messages,
        role=Role.READ,
        query=PageQuery,
        answers={200: Answer("a page of messages", Paged[Message], headers=ETAG), **NOT_MODIFIED, **ELSEWHERE},
    ),
]
