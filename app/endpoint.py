"""An endpoint: a route that says what it takes, what it answers, and whose key it needs, in one place."""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.routing import Route

from app.api.wire import NoQuery, read_query
from app.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from pydantic import BaseModel
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.api.wire import Shape
    from app.keys import Role


class Answer(NamedTuple):
    """What an endpoint answers with one status: JSON of a model, or content of another kind, or nothing.

    `schema` is of content that no model stands for: text where it is not given. `headers` are those that a client may
    want to read: {name: what it says}.
    """

    means: str
    model: type[BaseModel] | None = None
    media_type: str | None = None
    schema: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = {}


LOCATION = {"Location": "where to look"}
ETAG = {"ETag": "what it says, in short: send it as `If-None-Match` to be told whether it says something else now"}
ELSEWHERE = {308: Answer("it was a thread's id, whose person is known now: go to `Location`", headers=LOCATION)}
NOT_MODIFIED = {304: Answer("it says what `If-None-Match` names", headers=ETAG)}


class Endpoint(Route):
    """One method of one path. `role` is the least that a key needs, None where no key is asked for.

    `query` and `body` are the shapes that the handler reads, `headers` what it heeds besides: {name: what it says};
    `takes_any` JSON, where no shape stands for it. `refuses` are statuses of problems besides those that follow from
    the rest. A handler that is an ASGI application reads for itself.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Callable[[Request], Awaitable[Response]] | ASGIApp,
        *,
        role: Role | None,
        answers: Mapping[int, Answer],
        query: type[Shape] = NoQuery,
        body: type[BaseModel] | None = None,
        body_type: str = "application/json",
        takes_any: bool = False,
        headers: Mapping[str, str] | None = None,
        refuses: Collection[int] = (),
        about: str | None = None,
    ) -> None:
        self.method, self.role, self.answers = method, role, answers
        self.query, self.body, self.body_type, self.takes_any = query, body, body_type, takes_any
        self.headers = headers or {}
        self.about = inspect.cleandoc(about or handler.__doc__ or "")
        self.refuses = {*refuses, *self._follows(path)}
        super().__init__(path, self._guarded(handler) if inspect.isfunction(handler) else handler, methods=[method])
        self.allowed = self.methods or set()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse a method that the path does not have and name all that it has (RFC 9110, 15.5.6)."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"allow": ", ".join(sorted(self.allowed))})
        await super().handle(scope, receive, send)

    @property
    def template(self) -> str:
        """The path as it is written for people: without the router's kinds."""
        return re.sub(r":\w+}", "}", self.path)

    def _follows(self, path: str) -> set[int]:
        found = {401, 403, 429, 503} if self.role is not None else set()
        if self.role is not None and "{" in path:
            found.add(404)
        if self.role is not None:
            found.add(422)
        return found | ({413} if self.body is not None else set())

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(handler)
        async def guarded(request: Request) -> Response:
            request.scope["endpoint_declared"] = self
            if self.role is not None:
                check_role(request.scope["key"].role, self.role)
            if self.query is NoQuery and self.role is not None:  # what isn't known is told, here too
                read_query(request, NoQuery)
            return await handler(request)

        return guarded


def on_their_paths(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Let each know the methods of those that have its path."""
    endpoints = list(endpoints)
    for endpoint in endpoints:
        endpoint.allowed = {m for other in endpoints if other.path == endpoint.path for m in other.methods or ()}
    return endpoints


def check_role(given: Role, needed: Role) -> None:
    """Refuse a key that may not do this.

    Raises:
        ProblemError: 403, naming the role that it takes.

    """
    if given < needed:
        more: dict[str, Any] = {"needed_role": needed.word}
        detail = f"this key's role is {given.word}: this takes {needed.word}"
        raise ProblemError(403, detail, field="authorization", more=more)
