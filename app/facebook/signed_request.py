"""A `signed_request`: how Facebook signs what its callbacks other than webhooks say."""

from __future__ import annotations

import base64
import hmac
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from sql.json_values import UnreadableJsonError, loads

if TYPE_CHECKING:
    from collections.abc import Sequence

# what a path of Graph's can hold as it stands: with anything else in it, nobody could ever be asked whose it is
_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)


class NotSignedError(ValueError):
    """It is not signed by any of our secrets."""


class UnreadableRequestError(ValueError):
    """It is signed, and says nothing that can be understood."""


class SignedRequest(NamedTuple):
    """What was signed. `user_id` is the person's id for our app, `page_id` the Page's that it is about.

    `digest` is the same for the same request, however often it comes.
    """

    user_id: str | None
    page_id: str | None
    digest: bytes


def read_signed_request(text: str, secrets: Sequence[bytes]) -> SignedRequest:
    """Read `<signature>.<payload>`, both base64url without padding.

    The HMAC-SHA256 is that of the payload as it stands there, before it is decoded (webhooks sheet, section 2). It is
    compared in constant time, with each of the app's secrets.

    It has no end of its own: `expires` is when the `oauth_token` in it expires (Meta's reference, Signed Request), and
    whose token is over may still ask that their data go. One that comes again is known by its digest.

    Raises:
        NotSignedError, UnreadableRequestError: it is one of these.

    """
    signature, dot, payload = text.partition(".")
    given = _decoded(signature)
    signed = payload.encode("utf-8", "surrogatepass")
    matches = [hmac.compare_digest(hmac.digest(secret, signed, "sha256"), given) for secret in secrets]
    if not dot or not any(matches):
        raise NotSignedError
    try:
        told = loads(_decoded(payload))
    except UnreadableJsonError as error:
        raise UnreadableRequestError("the payload is not JSON") from error
    if not isinstance(told, dict):
        raise UnreadableRequestError("the payload is not an object")
    algorithm = told.get("algorithm")
    if not isinstance(algorithm, str) or algorithm.upper() != "HMAC-SHA256":
        raise UnreadableRequestError("algorithm: must be HMAC-SHA256")
    user_id, page_id = _id(told, "user_id"), _id(told, "profile_id")
    if user_id is None and page_id is None:
        raise UnreadableRequestError("user_id: names nobody")
    return SignedRequest(user_id, page_id, sha256(signed).digest())


def sign_request(payload: bytes, secret: bytes) -> str:
    """Write a signed request, as Facebook does."""
    encoded = base64.urlsafe_b64encode(payload).rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(secret, encoded, "sha256")).rstrip(b"=")
    return f"{signature.decode()}.{encoded.decode()}"


def _decoded(text: str) -> bytes:
    """Decode base64url; b"" for what is none."""
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        return b""


def _id(told: dict[str, Any], name: str) -> str | None:
    """An id as text; None for none. Facebook writes 0 where a Page did what a person may do, too."""
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if text.strip("0") and _ID.fullmatch(text) else None
