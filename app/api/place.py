"""A reader's place in the feed of changes, as the text that it keeps between two requests."""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from app.api.wire import MAX_ID
from app.problems import ProblemError

if TYPE_CHECKING:
    from sql.changes import ChangesRead, Place

_CHECK_BYTES = 6


def to_text(epoch: UUID, place: Place, page_id: str | None) -> str:
    """Pack a place in the feed of that epoch, of one Page's changes or of all."""
    packed = orjson.dumps([epoch.hex, *place, page_id])
    return base64.urlsafe_b64encode(_check(packed) + packed).rstrip(b"=").decode()


def from_text(text: str, page_id: str | None, field: str) -> tuple[UUID, Place]:
    """Unpack a place: the epoch that it is of, and where in it.

    Raises:
        ProblemError: 422; it is none that this API gave for these parameters.

    """
    try:
        raw = text.encode()
        unpacked = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
        check, packed = unpacked[:_CHECK_BYTES], unpacked[_CHECK_BYTES:]
        epoch, xid, seq, of_page = orjson.loads(packed)
        # a text has more than one base64 form: only ours is taken
        is_ours = check == _check(packed) and text == to_text(UUID(epoch), (xid, seq), of_page)
        if not is_ours or of_page != page_id or not all(type(n) is int and 0 <= n <= MAX_ID for n in (xid, seq)):
            raise _bad(field)
        return UUID(epoch), (xid, seq)
    except (TypeError, ValueError, AttributeError):
        raise _bad(field) from None


def _check(packed: bytes) -> bytes:
    """Tell what was cut or mistyped from a place: no secret, as a place gives nobody more than its key does."""
    return blake2b(packed, digest_size=_CHECK_BYTES, person=b"place").digest()


def _bad(field: str) -> ProblemError:
    return ProblemError(422, f"{field}: not one that this API gave for these parameters", field=field)


def check_reachable(read: ChangesRead, epoch: UUID, after: Place, field: str) -> None:
    """Make sure that what was read after a place is all that came after it.

    Raises:
        ProblemError: 410; the reader has to start over.

    """
    if epoch != read.feed.epoch or after > read.horizon:
        why = "the database was restored since, or is another one"
    elif read.feed.dropped is not None and after < read.feed.dropped:
        why = "changes are kept for CHANGES_RETENTION_DAYS, and some after it are gone"
    else:
        return
    raise ProblemError(
        410, f"{field}: {why}. Start over: take `after=now`, list everything, and go on from there", field=field
    )
