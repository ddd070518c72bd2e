"""`/api/changes`: what is new or reads differently, for who keeps a copy or reacts; by asking or as a stream."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api import place as places
from app.api.answers.changes import Changes
from app.api.wire import Id, Json, Limit, Shape, json_bytes, read_query
from app.endpoint import Answer, Endpoint
from app.keys import Role
from app.newest import LOOK_EVERY_SECONDS
from app.problems import ProblemError
from sql.changes import BEGINNING, read_changes
from sql.conversations import show_conversations
from sql.events import show_events
from sql.messages import show_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from starlette.requests import Request
    from starlette.responses import Response

    from sql.changes import ChangesRead, Place, ToldChange
    from sql.upsert import Connection

    _Told = tuple[list[tuple[Place, dict[str, Any]]], bool]

HEARTBEAT_SECONDS = 15  # proxies close a connection on which nothing comes, many after 60 seconds
AT_ONCE = 100  # changes that a stream reads at a time
NOW = "now"
_VALUES = ("message", "conversation", "event")
After = Annotated[str, Field(min_length=1, max_length=1000)]


class _Query(Shape):
    after: After | None = None
    page_id: Id | None = None
    limit: Limit = 100
    wait_seconds: Annotated[float, Field(ge=0, le=300)] = 0


class _StreamQuery(Shape):
    after: After | None = None
    page_id: Id | None = None


class _Reader:
    """One request's reading of the feed, on from its place."""

    def __init__(self, request: Request, after: str | None, page_id: str | None, *, field: str = "after") -> None:
        self._state, self._page_id, self._field = request.state, page_id, field
        self._key = request.scope["key"]
        self._from_now = after == NOW
        self._epoch: UUID | None = None
        self._place: Place = BEGINNING
        if after is not None and after != NOW:
            self._epoch, self._place = places.from_text(after, page_id, field)

    async def read(self, limit: int) -> _Told:
        """Read what comes next, at most so many changes, each with its place; and whether that was all.

        Raises:
            ProblemError: 410; something that came before it can't be read any more.

        """
        async with self._state.pool.acquire() as connection:
            read = await read_changes(connection, self._place, limit=limit, page_id=self._page_id)
            if self._epoch is not None:
                places.check_reachable(read, self._epoch, self._place, self._field)
            told = await self._told(connection, read)
        self._epoch, self._place = read.feed.epoch, read.place
        if self._from_now:
            self._from_now, self._place = False, read.horizon
            return [], True
        return told, read.is_all

    async def _told(self, connection: Connection, read: ChangesRead) -> list[tuple[Place, dict[str, Any]]]:
        if self._from_now:
            return []
        values = await _values(connection, read.changes, self._state.settings.facebook_app_id)
        return [
            (
                place,
                {
                    **change._asdict(),
                    "changed_at": changed_at,
                    "is_gone": value is None,
                    **{kind: value if kind == change.kind else None for kind in _VALUES},
                },
            )
            for (place, changed_at, change), value in zip(read.changes, values, strict=True)
        ]

    async def may_go_on(self) -> bool:
        """Tell whether who asked still may."""
        return bool(await self._state.keys.is_good(self._key))

    def after(self, place: Place | None = None) -> str:
        """Where the reading stands, or a place of it, as text."""
        if self._epoch is None:
            raise RuntimeError("nothing was read yet")
        return places.to_text(self._epoch, place or self._place, self._page_id)

    async def wait(self, seconds: float) -> None:
        """Wait until there may be more, so long at most, or this process is asked to end."""
        ending, until = self._state.ending, time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0 and not ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_EVERY_SECONDS, rest)):
                    await ending.wait()
            quiet_until = await self._state.newest.quiet_until(self._epoch, self._place, self._page_id)
            if quiet_until is None:
                return
            self._place = quiet_until


async def _values(connection: Connection, changes: Sequence[ToldChange], app_id: str | None) -> list[Any]:
    """What stands under each key now; None where nothing does."""
    keys = {
        kind: list({(c.change.page_id, c.change.key) for c in changes if c.change.kind == kind}) for kind in _VALUES
    }
    found: dict[str, Any] = {
        "message": await show_messages(connection, keys["message"], app_id=app_id) if keys["message"] else {},
        "conversation": await show_conversations(connection, keys["conversation"]) if keys["conversation"] else {},
        "event": await show_events(connection, keys["event"]) if keys["event"] else {},
    }
    return [found.get(c.change.kind, {}).get((c.change.page_id, c.change.key)) for c in changes]


async def index(request: Request) -> Response:
    """Messages, conversations and events that are new or read differently, in the order of their transactions.

    Without `after` from the oldest that is kept; `after=now` answers at once where the feed stands, to go on from. Each
    change comes at least once, with what stands under its key when it is told. With `wait_seconds` the answer comes as
    soon as there is a change, or then without one. Of one Page, an answer may hold fewer than `limit`, or none, and
    there may be more all the same: `next` goes on. 410: start over.
    """
    query = read_query(request, _Query)
    reader = _Reader(request, query.after, query.page_id)
    until = time.monotonic() + query.wait_seconds
    while True:
        changes, is_all = await reader.read(query.limit)
        rest = until - time.monotonic()
        if changes or rest <= 0 or query.after == NOW or request.state.ending.is_set():
            return Json({"data": [change for _, change in changes], "next": reader.after()})
        if is_all:
            await reader.wait(rest)


async def stream(request: Request) -> Response:
    """The same as server-sent events, named by kind; each event's id is where to go on after it.

    Who comes back with it as `Last-Event-ID` (which goes before `after`) misses nothing. An id comes now and then
    without an event, so that one Page's reader comes back to where it stood. The stream ends when the service ends,
    or the key is revoked.
    """
    query = read_query(request, _StreamQuery)
    last = request.headers.get("last-event-id", "")
    if last:
        reader = _Reader(request, last, query.page_id, field="Last-Event-ID")
    else:
        reader = _Reader(request, query.after, query.page_id)
    first = await reader.read(AT_ONCE)  # what can't be gone on from is refused before the stream begins
    return EventSourceResponse(_events(reader, first, request.state.ending), ping=HEARTBEAT_SECONDS)


async def _events(reader: _Reader, first: _Told, ending: asyncio.Event) -> AsyncIterator[ServerSentEvent]:
    changes, is_all = first
    told = ""
    while not ending.is_set():
        for place, change in changes:
            yield ServerSentEvent(json_bytes(change).decode(), event=change["kind"], id=reader.after(place))
        if (now := reader.after()) != told:
            yield ServerSentEvent(id=now)
            told = now
        if is_all:
            await reader.wait(HEARTBEAT_SECONDS)
        try:
            changes, is_all = await reader.read(AT_ONCE)
        except ProblemError:
            return  # who comes back is told
        if not await reader.may_go_on():
            return


ENDPOINTS = [
    Endpoint(
        "GET",
        "/changes",
        index,
        role=Role.READ,
        query=_Query,
        answers={200: Answer("changes, and where to go on", Changes)},
        refuses={410},
    ),
    Endpoint(
        "GET",
        "/changes/stream",
        stream,
        role=Role.READ,
        query=_StreamQuery,
        headers={"Last-Event-ID": "the id of the last event that came: it goes on after that"},
        answers={
            200: Answer(
                "events `message`, `conversation`, `event` and `page`: each a Change", media_type="text/event-stream"
            )
        },
        refuses={410},
    ),
]
