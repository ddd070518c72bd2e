"""Errors as `application/problem+json` (RFC 9457): one shape for all that this service refuses."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = "5"
# SQLSTATE classes: connection lost, rolled back in a conflict, out of resources, shutting down, disk trouble
_PASSING = {"08", "40", "53", "57", "58"}


class ProblemError(Exception):
    """A request that is refused. `field` names what is wrong in it, where one thing is; `more` are further members."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field = status, detail, field
        self.more, self.headers = more, headers


class ProblemResponse(JSONResponse):
    """A problem."""

    media_type = "application/problem+json"


def problem(
    status: int,
    detail: str,
    *,
    field: str | None = None,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Build the response; `more` are members of its own."""
    content: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    content["detail"] = detail
    if field is not None:
        content["field"] = field
    content.update(more or {})
    return ProblemResponse(content, status, headers)


async def on_problem(_request: Request, error: Exception) -> ProblemResponse:
    """Answer a `ProblemError`."""
    if not isinstance(error, ProblemError):
        raise error
    return problem(error.status, error.detail, field=error.field, more=error.more, headers=error.headers)


async def on_http_error(_request: Request, error: Exception) -> ProblemResponse:
    """Answer what the router refuses: an unknown path, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, error.detail, headers=error.headers)


async def on_database_error(request: Request, error: Exception) -> ProblemResponse:
    """Answer that the database is away, where that is it; what is a bug of ours is answered as one."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, ValueError) or (
        isinstance(error, asyncpg.PostgresError) and (state or "")[:2] not in _PASSING
    ):
        return await on_failure(request, error)
    log.error("database_away", reason=type(error).__name__)
    detail = "the database can't be asked now: try again"
    return problem(503, detail, headers={"retry-after": RETRY_AFTER_SECONDS})


async def on_failure(_request: Request, error: Exception) -> ProblemResponse:
    """Answer what nobody foresaw: the log has it, the client learns nothing of it."""
    log.error("request_failed", exc_info=error)
    return problem(500, "this request failed; the log of the service says why")
