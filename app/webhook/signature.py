"""Facebook's signature of a delivery."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = "x-hub-signature-256"
_PREFIX = b"sha256="


def sign(body: bytes, secret: bytes) -> bytes:
    """Return the header's value for a body: `sha256=` and 64 hex digits."""
    return _PREFIX + hmac.digest(secret, body, "sha256").hex().encode()


def matching_secret(body: bytes, header: bytes | None, secrets: Sequence[bytes]) -> int | None:
    """Return which secret signed the raw body (0 is the current one), or None.

    The body on the wire already is the escaped text that Meta signs (messenger4j #16; Meta's own sample app): it is
    never parsed and written anew. Every secret is tried in constant time; without secrets nothing matches.
    """
    if header is None or not header.startswith(_PREFIX):
        return None
    given = header.lower()
    found = None
    for index, secret in enumerate(secrets):
        if hmac.compare_digest(sign(body, secret), given) and found is None:
            found = index
    return found
