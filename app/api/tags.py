"""`/api/tags`: the owner's labels, and putting them on conversations and taking them off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import asyncpg
from pydantic import AfterValidator, Field
from starlette.responses import Response

from app.api.answers import conversations as told
from app.api.answers.common import Rows
from app.api.conditional import conditional
from app.api.conversations import elsewhere
from app.api.tag_names import TagName  # noqa: TC001 - pydantic reads it
from app.api.wire import Id, Json, NoQuery, Shape, path_id, read_json, read_query
from app.endpoint import ELSEWHERE, ETAG, LOCATION, NOT_MODIFIED, Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.tags import (
    Tagged,
    UnknownTagsError,
    change_tag,
    create_tag,
    delete_tag,
    list_tags,
    tag_conversations,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from sql.upsert import Connection

MOST_AT_ONCE = 10_000

Colour = Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$"), AfterValidator(str.lower)]


class _Query(Shape):
    page_id: Id | None = None


class _Tag(Shape):
    name: TagName
    colour: Colour | None = None


class _Change(Shape):
    name: TagName | None = None
    colour: Colour | None = None


class _Conversation(Shape):
    page_id: Id
    psid: Id


class _Bulk(Shape):
    conversations: list[_Conversation] = Field(min_length=1, max_length=MOST_AT_ONCE)
    add: list[TagName] = Field([], max_length=20)
    remove: list[TagName] = Field([], max_length=20)


async def index(request: Request) -> Response:
    """Every tag, with how many conversations carry it."""
    query = read_query(request, _Query)
    async with request.state.pool.acquire() as connection:
        return conditional(request, {"data": await list_tags(connection, page_id=query.page_id)})


async def create(request: Request) -> Response:
    """Make a tag: 201, or 409 when there is one of that name."""
    body = await read_json(request, _Tag)
    async with request.state.pool.acquire() as connection:
        if not await create_tag(connection, body.name, body.colour):
            raise ProblemError(409, f"there is a tag {body.name!r} already", field="name")
        tag = await _one(connection, body.name)
    address = f"{request.scope.get('root_path', '')}/tags/{quote(body.name, safe='')}"
    return Json(tag, 201, headers={"location": address})


async def show(request: Request) -> Response:
    """One tag."""
    query = read_query(request, _Query)
    async with request.state.pool.acquire() as connection:
        return conditional(request, await _one(connection, path_id(request, "tag"), query.page_id))


async def change(request: Request) -> Response:
    """Give a tag another name or colour; `null` takes the colour away."""
    body = await read_json(request, _Change)
    name = path_id(request, "tag")
    async with request.state.pool.acquire() as connection:
        try:
            found = await change_tag(
                connection,
                name,
                new_name=body.name,
                colour=body.colour,
                keep_colour="colour" not in body.model_fields_set,
            )
        except asyncpg.UniqueViolationError:
            raise ProblemError(409, f"there is a tag {body.name!r} already", field="name") from None
        if not found:
            raise _no_tag(name)
        return Json(await _one(connection, body.name or name))


async def delete(request: Request) -> Response:
    """Delete a tag, and take it off every conversation."""
    name = path_id(request, "tag")
    async with request.state.pool.acquire() as connection:
        if not await delete_tag(connection, name):
            raise _no_tag(name)
    return Response(status_code=204)


async def put_on(request: Request) -> Response:
    """Put a tag on a conversation; on it already, it stays."""
    return await _tag_one(request, add=True)


async def take_off(request: Request) -> Response:
    """Take a tag off a conversation; not on it, nothing happens."""
    return await _tag_one(request, add=False)


async def bulk(request: Request) -> Response:
    """Put tags on many conversations and take others off, all or nothing; tells those that there are none of."""
    body = await read_json(request, _Bulk)
    if not body.add and not body.remove:
        raise ProblemError(422, "name the tags to put on in add, and those to take off in remove", field="add")
    both = set(body.add) & set(body.remove)
    if both:
        raise ProblemError(422, f"to put on and to take off: {', '.join(sorted(both))}", field="remove")
    async with request.state.pool.acquire() as connection:
        try:
            tagged = await tag_conversations(
                connection,
                [(c.page_id, c.psid) for c in body.conversations],
                add=set(body.add),
                remove=set(body.remove),
            )
        except UnknownTagsError as error:
            field = "add" if set(error.names) & set(body.add) else "remove"
            raise ProblemError(404, str(error), field=field) from None
    unknown = [{"page_id": page_id, "psid": psid} for page_id, psid in tagged.unknown]
    return Json({"added": tagged.added, "removed": tagged.removed, "unknown": unknown})


async def _tag_one(request: Request, *, add: bool) -> Response:
    read_query(request, NoQuery)
    page_id, psid, tag = (path_id(request, name) for name in ("page_id", "psid", "tag"))
    async with request.state.pool.acquire() as connection:
        try:
            tagged: Tagged = await tag_conversations(
                connection, [(page_id, psid)], add=[tag] if add else [], remove=[] if add else [tag]
            )
        except UnknownTagsError:
            raise _no_tag(tag) from None
        if tagged.unknown:
            return await elsewhere(request, connection, page_id, psid, f"/tags/{quote(tag, safe='')}")
    return Response(status_code=204)


async def _one(connection: Connection, name: str, page_id: str | None = None) -> dict[str, Any]:
    rows = await list_tags(connection, page_id=page_id, name=name)
    if not rows:
        raise _no_tag(name)
    return dict(rows[0])


def _no_tag(name: str) -> ProblemError:
    return ProblemError(404, f"no tag {name!r}: make it with POST /api/tags", field="tag")


_ON_ONE = "/conversations/{page_id}/{psid}/tags/{tag}"
_CONFLICT = {409}
ENDPOINTS = [
    Endpoint(
        "GET",
        "/tags",
        index,
        role=Role.READ,
        query=_Query,
        answers={200: Answer("every tag", Rows[told.Tag], headers=ETAG), **NOT_MODIFIED},
    ),
    Endpoint(
        "POST",
        "/tags",
        create,
        role=Role.OPERATE,
        body=_Tag,
        answers={201: Answer("the tag", told.Tag, headers=LOCATION)},
        refuses=_CONFLICT,
    ),
    Endpoint(
        "GET",
        "/tags/{tag}",
        show,
        role=Role.READ,
        query=_Query,
        answers={200: Answer("the tag", told.Tag, headers=ETAG), **NOT_MODIFIED},
    ),
    Endpoint(
        "PATCH",
        "/tags/{tag}",
        change,
        role=Role.OPERATE,
        body=_Change,
        answers={200: Answer("the tag", told.Tag)},
        refuses=_CONFLICT,
    ),
    Endpoint("DELETE", "/tags/{tag}", delete, role=Role.OPERATE, answers={204: Answer("it is deleted")}),
    Endpoint(
        "POST",
        "/conversations/tags",
        bulk,
        role=Role.OPERATE,
        body=_Bulk,
        answers={200: Answer("what it did", told.Tagged)},
        refuses={404},
    ),
    Endpoint("PUT", _ON_ONE, put_on, role=Role.OPERATE, answers={204: Answer("it carries the tag"), **ELSEWHERE}),
    Endpoint(
        "DELETE", _ON_ONE, take_off, role=Role.OPERATE, answers={204: Answer("it does not carry the tag"), **ELSEWHERE}
    ),
]
