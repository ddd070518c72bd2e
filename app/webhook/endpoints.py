"""`/webhook` as endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from app.api.wire import Shape
from app.endpoint import Answer, Endpoint

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class _Webhook:
    """Facebook's door, without what a framework adds to each request: under load that is more than the work itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["receiver"](scope, receive, send)


class _Handshake(Shape):
    mode: str = Field(alias="hub.mode", description="`subscribe`")
    verify_token: str = Field(alias="hub.verify_token", description="FACEBOOK_VERIFY_TOKEN")
    challenge: str = Field(alias="hub.challenge", description="what to answer")


_TEXT = "text/plain"
WEBHOOK = [
    Endpoint(
        "POST",
        "/webhook",
        _Webhook(),
        role=None,
        about="Take a delivery of Facebook's: once it is answered 200 it is durable.",
        headers={"X-Hub-Signature-256": "`sha256=` and the HMAC of the raw body by the app's secret, in hex"},
        takes_any=True,
        answers={200: Answer("it is durable", media_type=_TEXT)},
        refuses={403, 408, 413, 503},
    ),
    Endpoint(
        "GET",
        "/webhook",
        _Webhook(),
        role=None,
        about="Answer Meta's handshake, by which an owner's word proves whose this address is.",
        query=_Handshake,
        answers={
            200: Answer("the challenge", media_type=_TEXT),
            400: Answer("a parameter is missing", media_type=_TEXT),
            403: Answer("the word is another", media_type=_TEXT),
        },
    ),
]
