"""`/facebook`: Meta's callbacks besides webhooks, and the page that tells a person how far a deletion is."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import HTMLResponse, PlainTextResponse

from app.api.answers.facebook_requests import DeletionAnswer
from app.api.wire import Json
from app.endpoint import Answer, Endpoint
from app.facebook.signed_request import NotSignedError, UnreadableRequestError, read_signed_request
from app.problems import RETRY_AFTER_SECONDS, ProblemError
from sql.facebook_requests import put_request, show_request

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from app.facebook.signed_request import SignedRequest

log = structlog.get_logger(__name__)

MAX_BODY = 64 * 1024
_FORM = "application/x-www-form-urlencoded"


class _Signed(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    signed_request: str = Field(description="`<signature>.<payload>`, both in base64url")


async def data_deletion(request: Request) -> Response:
    """Take a person's request that their data go, from Facebook: answers where to see how far it is, and its code.

    Data Deletion Request Callback in Meta's docs: a JSON object of `url` and `confirmation_code`.
    """
    code = await _record(request, "data_deletion", await _signed(request))
    base = request.state.settings.public_url or str(request.base_url)
    url = f"{base.rstrip('/')}/facebook/data-deletion/{code}"
    return Json({"url": url, "confirmation_code": code})


async def deauthorize(request: Request) -> Response:
    """Take from Facebook that a person, or a Page, took back what they allowed this app: tokens are looked at."""
    await _record(request, "deauthorize", await _signed(request))
    return PlainTextResponse("ok")


async def status(request: Request) -> Response:
    """Tell whoever has a request's code how far it is."""
    _check_database(request)
    code = request.path_params["code"]
    async with request.state.pool.acquire() as connection:
        found = await show_request(connection, code) if "\x00" not in code else None
    if found is None or found["kind"] != "data_deletion":
        return _page("No such request", "There is no request with this code.", 404)
    asked = f"You asked on {found['received_at']:%d %B %Y} that what this service keeps about you be deleted."
    return _page(f"Request {code}", f"{asked} {_progress(found['state'], found['persons'], found['is_complete'])}")


def _progress(state: str, persons: int, is_complete: bool) -> str:  # noqa: FBT001 - a row's column
    if state == "received":
        return "It is being looked for; this takes minutes, or some days while Facebook can't be asked."
    if state == "unmatched":
        return (
            "Facebook does not tell which conversations with which Page are yours. If you wrote to a Page, ask that "
            "Page to delete the conversation, and give this code."
        )
    if not persons:
        return "Nothing about you is stored."
    if not is_complete:
        return "Your conversations are deleted; copies in the log of received notifications are being deleted."
    return "It is done: your conversations and all copies of them are deleted."


def _page(title: str, text: str, status_code: int = 200) -> Response:
    content = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=robots content=noindex>"
        f"<title>{escape(title)}</title><h1>{escape(title)}</h1><p>{escape(text)}</p></html>"
    )
    headers = {"content-security-policy": "default-src 'none'", "cache-control": "no-store"}
    return HTMLResponse(content, status_code, headers)


async def _signed(request: Request) -> SignedRequest:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ProblemError(413, f"a request has at most {MAX_BODY} bytes")
    try:
        given = parse_qs(body.decode("ascii"), max_num_fields=10).get("signed_request", [])
    except ValueError:
        given = []
    if len(given) != 1:
        raise ProblemError(422, "signed_request: send one, form-encoded", field="signed_request")
    try:
        return read_signed_request(given[0], [secret.encode() for secret in request.state.settings.app_secrets])
    except NotSignedError:
        log.warning("facebook_request_not_signed", path=request.url.path)
        raise ProblemError(403, "the signature is missing or wrong", field="signed_request") from None
    except UnreadableRequestError as error:
        raise ProblemError(422, f"signed_request: {error}", field="signed_request") from None


async def _record(request: Request, kind: str, signed: SignedRequest) -> str:
    _check_database(request)
    async with request.state.pool.acquire() as connection:
        code = await put_request(
            connection,
            secrets.token_hex(10),
            signed.digest,
            kind=kind,
            user_id=signed.user_id,
            page_id=signed.page_id,
            now=datetime.now(UTC),
        )
    log.info("facebook_request", kind=kind, code=code)
    return code


def _check_database(request: Request) -> None:
    if not request.state.arrived.is_set():
        headers = {"retry-after": RETRY_AFTER_SECONDS}
        raise ProblemError(503, "the database is not there yet: try again", headers=headers)


_REFUSES = {403, 413, 422, 503}
FACEBOOK = [
    Endpoint(
        "POST",
        "/facebook/data-deletion",
        data_deletion,
        role=None,
        body=_Signed,
        body_type=_FORM,
        answers={200: Answer("it is recorded", DeletionAnswer)},
        refuses=_REFUSES,
    ),
    Endpoint(
        "GET",
        "/facebook/data-deletion/{code}",
        status,
        role=None,
        answers={
            200: Answer("a page for the person", media_type="text/html"),
            404: Answer("there is none", media_type="text/html"),
        },
        refuses={503},
    ),
    Endpoint(
        "POST",
        "/facebook/deauthorize",
        deauthorize,
        role=None,
        body=_Signed,
        body_type=_FORM,
        answers={200: Answer("it is recorded", media_type="text/plain")},
        refuses=_REFUSES,
    ),
]
