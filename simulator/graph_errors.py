"""Graph's errors, as they are answered (Graph sheet, 2.5). What a sheet calls unconfirmed is so here too."""

from __future__ import annotations

from hashlib import blake2b
from itertools import count
from typing import Any

_TRACE = count(1)


class GraphFailure(Exception):  # noqa: N818 - what a call ends in
    """A call that ends in an error: its HTTP status and Graph's error object."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 400,
        subcode: int | None = None,
        kind: str = "OAuthException",
        is_transient: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.status = code, status
        self.error: dict[str, Any] = {"message": message, "type": kind, "code": code}
        if subcode is not None:
            self.error["error_subcode"] = subcode
        if is_transient is not None:
            self.error["is_transient"] = is_transient

    def body(self) -> dict[str, Any]:
        """The answer's JSON, with a trace id of its own."""
        trace = blake2b(str(next(_TRACE)).encode(), digest_size=8).hexdigest()
        return {"error": {**self.error, "fbtrace_id": f"A{trace}"}}


def bad_token(subcode: int | None = None) -> GraphFailure:
    """190: the token does not work."""
    texts = {
        458: "Error validating access token: The user has not authorized application.",
        459: "Error validating access token: You cannot access the app till you log in and follow the instructions.",
        460: "Error validating access token: The session has been invalidated because the password was changed.",
        463: "Error validating access token: Session has expired.",
        464: "Error validating access token: Sessions for the user are not allowed: not a confirmed user.",
        467: "Error validating access token: The session is invalid because the user logged out.",
        492: "Error validating access token: The user must be an administrator or editor of the page.",
    }
    text = "Invalid OAuth access token - Cannot parse access token"
    return GraphFailure(190, texts.get(subcode or 0, text), subcode=subcode)


def not_found(object_id: str, method: str = "get") -> GraphFailure:
    """100/33: missing, not allowed, or not supported: Graph does not say which."""
    return GraphFailure(
        100,
        f"Unsupported {method} request. Object with ID '{object_id}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation",
        subcode=33,
        kind="GraphMethodException",
    )


def no_such_field(name: str, node_type: str) -> GraphFailure:
    """100, naming the field."""
    return GraphFailure(100, f"(#100) Tried accessing nonexisting field ({name}) on node type ({node_type})")


def bad_parameter(message: str) -> GraphFailure:
    """100, other."""
    return GraphFailure(100, f"(#100) {message}")


def too_heavy() -> GraphFailure:
    """1, with HTTP 500: not load but the query (issues of other clients)."""
    return GraphFailure(
        1, "Please reduce the amount of data you're asking for, then retry your request", status=500, kind="Exception"
    )


def too_many_calls() -> GraphFailure:
    """613: more calls a second than a Page has."""
    return GraphFailure(613, "(#613) Calls to this api have exceeded the rate limit.")


def throttled() -> GraphFailure:
    """80006: the calls of a day are used up."""
    return GraphFailure(
        80006,
        "(#80006) There have been too many calls to this Messenger account. Wait a bit and try again. For more "
        "info, please refer to https://developers.facebook.com/docs/graph-api/overview/rate-limiting.",
    )
