"""What a call of the Graph API can end in, as types: who catches one knows what to do.

    GraphError
    ├── GraphUnavailable    temporary: worth another try
    ├── RateLimited         Meta asks us to wait
    ├── TokenDead           the Page's token no longer works: stop this Page, nothing else
    ├── AccessDenied        a permission or a role is missing: stop this Page
    ├── Blocked             Meta takes us for abusive: stop this Page until a person has looked
    ├── TooHeavy            ask for less, from the same cursor
    ├── FieldRefused        one field is not known there: drop it and ask again
    ├── NotFound            this object is gone, or not for us, or a cursor to it is stale
    └── BadAnswer           anything else that is not an answer

The codes are from the Graph sheet, section 2.5 (Meta's error pages, and issues of other clients).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal, NamedTuple


class GraphError(Exception):
    """The Graph API did not answer as asked. `code` is None when the answer was not even an error of Graph's."""

    def __init__(self, message: str, *, code: int | None = None, subcode: int | None = None) -> None:
        super().__init__(message)
        self.code, self.subcode = code, subcode


class GraphUnavailable(GraphError):  # noqa: N818 - these are outcomes, named as such
    """Temporary: worth another try."""


class Pause(NamedTuple):
    """How long to wait when Meta does not say: `first`, doubled at each repetition, up to `longest`."""

    first: timedelta
    longest: timedelta


FOR_QUOTA = Pause(timedelta(minutes=5), timedelta(hours=1))  # of a rolling hour or day: it comes back slowly
FOR_RATE = Pause(timedelta(seconds=5), timedelta(minutes=1))  # calls a second: "seconds to a minute"


class RateLimited(GraphError):  # noqa: N818
    """Meta asks us to wait.

    `scope` is what has to wait: one Page, or all of the app. `wait` is how long Meta said, None when it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        subcode: int | None = None,
        scope: Literal["app", "page"] = "page",
        pause: Pause = FOR_QUOTA,
        wait: timedelta | None = None,
    ) -> None:
        super().__init__(message, code=code, subcode=subcode)
        self.scope, self.pause, self.wait = scope, pause, wait


class TokenDead(GraphError):  # noqa: N818
    """The token no longer works."""


class AccessDenied(GraphError):  # noqa: N818
    """A permission or a role is missing."""


class Blocked(GraphError):  # noqa: N818
    """Meta blocks us as abusive: not to be tried again without a person's look."""


class TooHeavy(GraphError):  # noqa: N818
    """The query asks for too much data at once."""


class FieldRefused(GraphError):  # noqa: N818
    """A field is not known there; `field` names it where Graph did, and `node_type` what lacks it (`User`)."""

    def __init__(self, message: str, field: str | None, node_type: str | None = None) -> None:
        super().__init__(message, code=100)
        self.field, self.node_type = field, node_type


class NotFound(GraphError):  # noqa: N818
    """The object does not exist, or is not visible to this token."""


class BadAnswer(GraphError):  # noqa: N818
    """The answer can't be used, and asking again would not help."""


# Meta writes "nonexisting field (x)"; a Page must not stop over how it is spelled
_FIELD = re.compile(
    r"(?:non-?exist\w*|unknown|invalid|unsupported|deprecated) fields?:? ['\"(]?(\w+)"
    r"|field ['\"(](\w+)['\")] does not exist",
    re.IGNORECASE,
)
_NODE_TYPE = re.compile(r"on node type \((\w+)\)")
_BY_CODE: dict[int, type[GraphError]] = {
    **dict.fromkeys((-3, 1, 2, 99), GraphUnavailable),
    **dict.fromkeys((10, 104, *range(200, 300)), AccessDenied),
    **dict.fromkeys((100, 230, 551, 803, *range(2018000, 2019000)), NotFound),
    **dict.fromkeys((4, 17, 32, 613, 80001, 80002, 80006), RateLimited),
    **dict.fromkeys((102, 190), TokenDead),
    368: Blocked,
}
_APP_IS_LIMITED = 4
_TOO_FAST = 613


def error_of(status: int, body: Any, *, token: str | None = None, wait: timedelta | None = None) -> GraphError:
    """Turn an answer that is not a success into its type. `wait` is how long its headers ask to wait.

    The text names codes and Meta's message, without the token: "Malformed access token" repeats it.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        text = f"HTTP {status} without a readable error"
        if status == 429:
            return RateLimited(text, pause=FOR_RATE, wait=wait)
        return GraphUnavailable(text) if status >= 500 or status == 408 else BadAnswer(text)
    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    message = str(error.get("message") or "")
    message = (message.replace(token, "(token)") if token else message)[:300]
    text = f"Graph error {code}{f'/{subcode}' if subcode else ''} (HTTP {status}): {message}"
    named = _FIELD.search(message) if code == 100 else None
    if named is not None:
        of_type = _NODE_TYPE.search(message)
        return FieldRefused(text, named[1] or named[2], of_type[1] if of_type is not None else None)
    kind = _BY_CODE.get(code, BadAnswer) if code is not None else BadAnswer
    if code == 1 and "reduce the amount of data" in message:
        kind = TooHeavy
    elif kind is RateLimited or status == 429:
        scope: Literal["app", "page"] = "app" if code == _APP_IS_LIMITED else "page"
        pause = FOR_RATE if code == _TOO_FAST or kind is not RateLimited else FOR_QUOTA
        return RateLimited(text, code=code, subcode=subcode, scope=scope, pause=pause, wait=wait)
    elif kind is not TokenDead and (error.get("is_transient") is True or status >= 500):
        kind = GraphUnavailable
    return kind(text, code=code, subcode=subcode)


def _number(value: object) -> int | None:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return None
