"""What a call of the Graph API can end in, as types: who catches one knows what to do.

    GraphError
    ├── GraphUnavailable    temporary: worth another try
    ├── RateLimited         Meta asks us to wait
    ├── TokenDead           the Page's token no longer works: stop this Page, nothing else
    ├── AccessDenied        a permission or a role is missing: stop this Page
    ├── TooHeavy            ask for less, from the same cursor
    ├── FieldRefused        one field is not known there: drop it and ask again
    ├── NotFound            this object is gone, or not for us: skip it
    └── BadAnswer           anything else that is not an answer

The codes are from the Graph sheet, section 2.5 (Meta's error pages, and issues of other clients).
"""

from __future__ import annotations

import re
from typing import Any


class GraphError(Exception):
    """The Graph API did not answer as asked."""

    def __init__(self, message: str, *, code: int | None = None, subcode: int | None = None) -> None:
        super().__init__(message)
        self.code, self.subcode = code, subcode


class GraphUnavailable(GraphError):  # noqa: N818 - these are outcomes, named as such
    """Temporary: worth another try."""


class RateLimited(GraphError):  # noqa: N818
    """Meta asks us to wait."""


class TokenDead(GraphError):  # noqa: N818
    """The token no longer works."""


class AccessDenied(GraphError):  # noqa: N818
    """A permission or a role is missing."""


class TooHeavy(GraphError):  # noqa: N818
    """The query asks for too much data at once."""


class FieldRefused(GraphError):  # noqa: N818
    """A field is not known there; `field` names it where Graph did."""

    def __init__(self, message: str, field: str | None) -> None:
        super().__init__(message, code=100)
        self.field = field


class NotFound(GraphError):  # noqa: N818
    """The object does not exist, or is not visible to this token."""


class BadAnswer(GraphError):  # noqa: N818
    """The answer can't be used, and asking again would not help."""


_FIELD = re.compile(r"nonexisting field \((\w+)\)")
_BY_CODE: dict[int, type[GraphError]] = {
    **dict.fromkeys((-3, 1, 2, 99), GraphUnavailable),
    **dict.fromkeys((10, 104, 368, *range(200, 300)), AccessDenied),
    **dict.fromkeys((100, 230, 551, 803), NotFound),
    **dict.fromkeys((4, 17, 32, 613, 80001, 80002, 80006), RateLimited),
    **dict.fromkeys((102, 190), TokenDead),
}


def error_of(status: int, body: Any) -> GraphError:
    """Turn an answer that is not a success into its type. The text names codes and Meta's message, never a token."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        unreadable = GraphUnavailable if status >= 500 or status == 429 else BadAnswer
        return unreadable(f"HTTP {status} without a readable error")
    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    message = str(error.get("message") or "")[:300]
    text = f"Graph error {code}{f'/{subcode}' if subcode else ''} (HTTP {status}): {message}"
    kind = _BY_CODE.get(code, BadAnswer) if code is not None else BadAnswer
    if status == 429:
        kind = RateLimited
    elif code == 1 and "reduce the amount of data" in message:
        kind = TooHeavy
    elif code == 100 and "nonexisting field" in message:
        named = _FIELD.search(message)
        return FieldRefused(text, named[1] if named else None)
    elif kind not in {TokenDead, RateLimited} and (error.get("is_transient") is True or status >= 500):
        kind = GraphUnavailable
    return kind(text, code=code, subcode=subcode)


def _number(value: object) -> int | None:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return None
