"""Answers with an `ETag`, and 304 to who has them already."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from app.api.wire import Json, json_bytes
from sql.attachments import unsigned

if TYPE_CHECKING:
    from starlette.requests import Request


def conditional(request: Request, content: dict[str, Any]) -> Response:
    """Answer with 200 and an `ETag`, or with 304 where `If-None-Match` names it.

    The tag is a weak one, of what the content says: links that were only signed anew don't change it.
    """
    told = {**content, "data": [_without_signatures(row) for row in content["data"]]} if "data" in content else content
    tag = f'W/"{blake2b(json_bytes(told), digest_size=16).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Json(content, headers=headers)


def _names(header: str, tag: str) -> bool:
    """Compare weakly (RFC 9110, 13.1.2): proxies turn a tag into a weak one, and back."""
    known = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in known or tag.removeprefix("W/") in known


def _without_signatures(row: Any) -> Any:
    attachments = row.get("attachments")
    return {**row, "attachments": [unsigned(a) for a in attachments]} if attachments else row
