"""Answers with an `ETag`, and 304 to who has them already."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from app.api.wire import json_bytes

if TYPE_CHECKING:
    from starlette.requests import Request


def conditional(request: Request, content: dict[str, Any]) -> Response:
    """Answer with 200 and an `ETag`, or with 304 where `If-None-Match` names it.

    The tag is a weak one, of what the content says: links that were only signed anew don't change it. So it is made
    without attachments: `updated_at` says whether they say something else, and taking signatures out of each link costs
    a hundred times as much as writing it.
    """
    told = _without_attachments(content)
    written = json_bytes(told)
    tag = f'W/"{blake2b(written, digest_size=16).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if _names(",".join(request.headers.getlist("if-none-match")), tag):
        return Response(status_code=304, headers=headers)
    body = written if told is content else json_bytes(content)
    return Response(body, headers=headers, media_type="application/json")


def _names(header: str, tag: str) -> bool:
    """Compare weakly (RFC 9110, 13.1.2): proxies turn a tag into a weak one, and back."""
    known = {part.strip().removeprefix("W/") for part in header.split(",")}
    return "*" in known or tag.removeprefix("W/") in known


def _without_attachments(content: dict[str, Any]) -> dict[str, Any]:
    """Return what does not change with the signatures of links: the content itself where it has no attachments."""
    if not any(row.get("attachments") for row in content.get("data", ())):
        return content
    return {**content, "data": [_but_attachments(row) for row in content["data"]]}


def _but_attachments(row: Any) -> Any:
    if not row.get("attachments"):
        return row
    return {name: value for name, value in row.items() if name != "attachments"}
