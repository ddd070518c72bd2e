"""`/api/keys`: who may ask this API, and what for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from app.api.answers.common import Rows
from app.api.answers.keys import Key, NewKey
from app.api.wire import Json, Shape, path_id, read_json
from app.endpoint import Answer, Endpoint
from app.keys import Role, new_key
from app.problems import ProblemError
from sql.api_keys import add_key, list_keys, revoke_key

if TYPE_CHECKING:
    from starlette.requests import Request


class _Body(Shape):
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$", description="whose it is")]
    role: Literal["read", "operate", "admin"]


async def index(request: Request) -> Response:
    """Every key that was ever made, newest first; those of OPS_API_KEY are not among them."""
    async with request.state.pool.acquire() as connection:
        return Json({"data": await list_keys(connection)})


async def create(request: Request) -> Response:
    """Make a key. It is shown this once; only what proves it is stored."""
    body = await read_json(request, _Body)
    key_id, key, digest = new_key()
    async with request.state.pool.acquire() as connection:
        row = await add_key(
            connection,
            key_id,
            digest,
            name=body.name,
            role=body.role,
            created_by=request.scope["key"].id,
            now=datetime.now(UTC),
        )
    request.state.keys.forget()
    return Json({**row, "key": key}, 201, headers={"cache-control": "no-store"})


async def revoke(request: Request) -> Response:
    """Revoke a key: within seconds no process takes it any more."""
    key_id = path_id(request, "key_id")
    async with request.state.pool.acquire() as connection:
        if not await revoke_key(connection, key_id, datetime.now(UTC)):
            raise ProblemError(404, "no such key", field="key_id")
    request.state.keys.forget()
    return Response(status_code=204)


ENDPOINTS = [
    Endpoint("GET", "/keys", index, role=Role.ADMIN, answers={200: Answer("every key", Rows[Key])}),
    Endpoint("POST", "/keys", create, role=Role.ADMIN, body=_Body, answers={201: Answer("the key", NewKey)}),
    Endpoint("DELETE", "/keys/{key_id}", revoke, role=Role.ADMIN, answers={204: Answer("it is revoked")}),
]
