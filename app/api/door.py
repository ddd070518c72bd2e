"""The door of `/api`: who asks, how often, and whether the database is there to answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.problems import RETRY_AFTER_SECONDS, ProblemResponse, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.keys import Key, KeyRing

_FIELD = "authorization"
_CHALLENGE = {"www-authenticate": 'Bearer realm="api"'}


class Door:
    """Lets those past who have a key and don't ask too often; what a key may do is each endpoint's to say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or go on with the key in the scope."""
        if scope["type"] == "http":
            found = await _key(scope)
            if isinstance(found, ProblemResponse):
                await found(scope, receive, send)
                return
            scope["key"] = found
        await self._app(scope, receive, send)


async def _key(scope: Scope) -> Key | ProblemResponse:
    state = scope["state"]
    keys: KeyRing = state["keys"]
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, given = header.partition(b" ")
    if scheme.lower() != b"bearer":
        return problem(401, "send `Authorization: Bearer` and a key", field=_FIELD, headers=_CHALLENGE)
    key = keys.find_ops(given.strip())
    if not state["arrived"].is_set() and (key is not None or given.strip().startswith(b"mm_")):
        headers = {"retry-after": RETRY_AFTER_SECONDS}
        return problem(503, "the database is not there yet: try again", headers=headers)
    key = key or await keys.find(given.strip())
    if key is None:
        return problem(401, "this key is not known, or was revoked", field=_FIELD, headers=_CHALLENGE)
    wait = state["rate"].wait(key.id)
    if wait > 0:
        headers = {"retry-after": str(math.ceil(wait))}
        return problem(429, "this key asks too often: wait a little", field=_FIELD, headers=headers)
    return key
