"""`/api/deliveries`: the journal, its dead letters, and their replay."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from app.api.answers.common import Paged
from app.api.answers.journal import Delivery, DeliveryWithBody, Replayed
from app.api.wire import (
    Id,
    Instant,
    Json,
    PageQuery,
    Shape,
    check_range,
    page_of,
    place_in,
    question_of,
    read_json,
    read_query,
    to_cursor,
)
from app.endpoint import Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from app.replay import replay
from sql.deliveries import JournalFilter, find_deliveries, list_deliveries, show_delivery

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class _Query(PageQuery):
    page_id: Id | None = Field(None, description="only what names this Page")
    state: Literal["dead"] | None = Field(None, description="only what has dead letters")
    since: Instant | None = Field(None, description="it came then or later")
    until: Instant | None = Field(None, description="it came before")


class _ReplayBody(Shape):
    state: Literal["dead"] | None = None
    ids: list[UUID] | None = Field(None, min_length=1, max_length=1000)
    since: Instant | None = None
    until: Instant | None = None
    wait_seconds: int = Field(20, ge=0, le=120, description="when this is over, `next` says where to go on")
    cursor: str | None = Field(None, description="the `next` of the answer before, to the same question")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.state is None and self.ids is None and self.since is None and self.until is None:
            raise ValueError('say what to replay: {"state": "dead"}, ids, or a time range in since and until')
        return self


async def index(request: Request) -> Response:
    """Deliveries, newest first, without their bodies; `state=dead` for those with dead letters.

    With `page_id` those that name the Page: each request looks through so many bodies, so a page may hold fewer than
    `limit`, or none, and `next` goes on.
    """
    query = read_query(request, _Query)
    check_range(query.since, query.until)
    which = JournalFilter(only_dead=query.state == "dead", since=query.since, until=query.until)
    question = question_of("deliveries", which, query.page_id)
    before = query.place(question, datetime, UUID)
    async with request.state.pool.acquire() as connection:
        if query.page_id is None:
            rows = await list_deliveries(connection, which, limit=query.limit + 1, before=before)
            return Json(page_of(rows, query.limit, "received_at", "id", of=question))
        rows, last = await find_deliveries(connection, which, query.page_id.encode(), before=before)
    last = rows[query.limit - 1] if len(rows) > query.limit else last
    shown = [{name: row[name] for name in Delivery.model_fields} for row in rows[: query.limit]]
    following = to_cursor(question, last["received_at"], last["id"]) if last is not None else None
    return Json({"data": shown, "next": following})


async def show(request: Request) -> Response:
    """One delivery with its raw body: as text, or in base64 where it is none."""
    delivery_id = request.path_params["delivery_id"]
    async with request.state.pool.acquire() as connection:
        row = await show_delivery(connection, delivery_id)
    if row is None:
        detail = f"no delivery {delivery_id}; the journal keeps them for JOURNAL_RETENTION_DAYS"
        raise ProblemError(404, detail, field="delivery_id")
    try:
        encoding, body = "utf-8", row["body"].decode()
    except UnicodeDecodeError:
        encoding, body = "base64", base64.b64encode(row["body"]).decode()
    return Json({**row, "encoding": encoding, "body": body})


async def start_replay(request: Request) -> Response:
    """Replay dead letters, deliveries by id, or a time range, oldest first.

    Answers when it is done, or after `wait_seconds`: then ask again with `next` as `cursor` to go on, until it is null.
    """
    body = await read_json(request, _ReplayBody)
    check_range(body.since, body.until)
    which = JournalFilter(
        only_dead=body.state == "dead",
        since=body.since,
        until=body.until,
        ids=tuple(body.ids) if body.ids is not None else None,
    )
    question = question_of("replay", which)
    after = place_in(body.cursor, question, datetime, UUID)
    done = await replay(request.state.pool, which, after=after, seconds=body.wait_seconds)
    told = {name: getattr(done, name) for name in Replayed.model_fields if name != "next"}
    return Json({**told, "next": to_cursor(question, *done.last) if done.last is not None else None})


ENDPOINTS = [
    Endpoint(
        "GET",
        "/deliveries",
        index,
        role=Role.READ,
        query=_Query,
        answers={200: Answer("a page of deliveries", Paged[Delivery])},
    ),
    Endpoint(
        "GET",
        "/deliveries/{delivery_id:uuid}",
        show,
        role=Role.OPERATE,
        answers={200: Answer("the delivery with its body", DeliveryWithBody)},
    ),
    Endpoint(
        "POST",
        "/deliveries/replay",
        start_replay,
        role=Role.OPERATE,
        body=_ReplayBody,
        answers={200: Answer("what it did", Replayed)},
    ),
]
