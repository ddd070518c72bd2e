"""`/webhook`: Meta's handshake, and the door by which every delivery comes in.

A plain ASGI endpoint: under load, what a framework adds to each request costs more than the work itself.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse

from app import metrics
from app.problems import problem
from app.webhook.deadlines import Deadlines
from app.webhook.group_commit import NotDurableError
from app.webhook.projection import Door
from app.webhook.signature import HEADER, matching_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message, Receive, Scope, Send

    from app.webhook.durable import Durable
    from sql.ingest import Ingest

log = structlog.get_logger(__name__)

MAX_BODY = 4 * 2**20  # bodies over 300 KB were seen (nyaruka/courier PR 508); Meta documents no limit
BODY_WITHIN_SECONDS = 5.0  # then nobody at Facebook waits for the answer any more
RETRY_AFTER_SECONDS = b"5"
_HEADER = HEADER.encode()
_OK = b"EVENT_RECEIVED"
_OK_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(_OK)).encode())],
}
_OK_BODY: Message = {"type": "http.response.body", "body": _OK}


class BodyTooLargeError(Exception):
    """The body is larger than any delivery of Facebook's."""


class _Reading:
    """A body on its way in, read by the current task, which `give_up` interrupts."""

    __slots__ = ("_is_late", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._is_late = False

    def done(self) -> bool:
        return self._task is None

    def end(self) -> None:
        self._task = None

    def give_up(self) -> None:
        if self._task is not None:
            self._is_late = True
            self._task.cancel()

    def was_given_up(self) -> bool:
        """Whether it was this that cancelled the task, and nobody else beside it."""
        return self._is_late and self._task is not None and self._task.uncancel() == 0


class Receiver:
    """The endpoint. `secrets` are the app's, current first; without any, nothing is let in."""

    def __init__(
        self,
        durable: Durable,
        *,
        secrets: Sequence[str],
        verify_tokens: Sequence[str],
        on_stored: Callable[[Ingest], None] = lambda _delivery: None,
    ) -> None:
        self._durable = durable
        self._on_stored = on_stored
        self._secrets = [secret.encode() for secret in secrets]
        self._verify_tokens = [token.encode() for token in verify_tokens]
        self._random = random.SystemRandom().getrandbits(64)
        self._count = 0
        self._readings: Deadlines[_Reading] = Deadlines(_Reading.give_up)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._handshake(QueryParams(scope["query_string"]))(scope, receive, send)

    def _handshake(self, query: QueryParams) -> PlainTextResponse:
        """Answer Meta's verification: the challenge, and only to who knows the token."""
        mode, token, challenge = (query.get(f"hub.{name}") for name in ("mode", "verify_token", "challenge"))
        if mode is None or token is None or challenge is None:
            return PlainTextResponse("hub.mode, hub.verify_token and hub.challenge are needed", 400)
        given = token.encode("utf-8", "surrogatepass")
        known = [hmac.compare_digest(given, t) for t in self._verify_tokens]
        if mode != "subscribe" or not any(known):
            return PlainTextResponse("hub.verify_token does not match", 403)
        return PlainTextResponse(challenge)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        length = signature = None
        for name, value in scope["headers"]:
            if name == _HEADER:
                signature = value
            elif name == b"content-length":
                length = value
        try:
            if length is not None and length.isdigit() and int(length[:20]) > MAX_BODY:
                raise BodyTooLargeError
            body = await self._read_in_time(receive, began + BODY_WITHIN_SECONDS)
        except BodyTooLargeError:
            log.error("delivery_too_large", declared=(length or b"").decode("ascii", "replace")[:20], limit=MAX_BODY)
            await self._refuse(scope, receive, send, 413, "too_large", f"a delivery has at most {MAX_BODY} bytes")
            return
        except TimeoutError:
            await self._refuse(scope, receive, send, 408, "slow", "the body took too long")
            return
        if body is None:
            return
        which = matching_secret(body, signature, self._secrets)
        if which is None:
            log.warning("delivery_not_signed", bytes=len(body), signature="wrong" if signature else "missing")
            await self._refuse(scope, receive, send, 403, "not_signed", "the signature is missing or wrong")
            return
        if which > 0:
            metrics.DELIVERIES.labels("previous_secret").inc()
        try:
            stored = await self._durable.keep(self._door(), body, began=began)
        except NotDurableError as error:
            log.error("delivery_not_durable", bytes=len(body), reason=str(error))
            await self._refuse(scope, receive, send, 503, "not_durable", "could not be stored now: send it again")
            return
        if stored is not None:
            self._on_stored(stored)
        _ACKNOWLEDGED.inc()
        metrics.ACK_SECONDS.observe(time.monotonic() - began)
        await send(_OK_START)
        await send(_OK_BODY)

    async def _read_in_time(self, receive: Receive, deadline: float) -> bytes | None:
        """Read the body; None when the client went away.

        Raises:
            BodyTooLargeError, TimeoutError: it is, or was not there by the deadline.

        """
        reading = _Reading()
        self._readings.add(deadline, reading)
        try:
            return await self._read(receive)
        except asyncio.CancelledError:
            if reading.was_given_up():
                raise TimeoutError from None
            raise
        finally:
            reading.end()

    async def _read(self, receive: Receive) -> bytes | None:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            return None
        if not message.get("more_body", False):
            if len(body) > MAX_BODY:
                raise BodyTooLargeError
            return body
        chunks, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > MAX_BODY:
                raise BodyTooLargeError
        return b"".join(chunks)

    def _door(self) -> Door:
        """Give the delivery its identity."""
        received_at = datetime.now(UTC)
        return Door(received_at, received_at.date(), self._new_id(received_at))

    def _new_id(self, received_at: datetime) -> UUID:
        """Make an id that sorts by time: neighbours in the journal's index, unique across processes."""
        self._count += 1
        tail = (self._random + self._count * 0x9E3779B97F4A7C15) & (2**64 - 1)
        ms = int(received_at.timestamp() * 1000)
        number = (ms << 80) | (7 << 76) | ((self._count & 0xFFF) << 64) | (tail >> 2) | (2 << 62)
        return UUID(int=number)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, outcome: str, detail: str) -> None:
        metrics.DELIVERIES.labels(outcome).inc()
        response = problem(status, detail)
        if status == 503:
            response.headers["retry-after"] = RETRY_AFTER_SECONDS.decode()
        if status in {408, 413}:
            response.headers["connection"] = "close"  # the rest of the body was not read
        await response(scope, receive, send)


_ACKNOWLEDGED = metrics.DELIVERIES.labels("acknowledged")
