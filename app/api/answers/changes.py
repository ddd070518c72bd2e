"""What is told of changes."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotations
from typing import Any, Literal

from pydantic import Field

from app.api.answers.common import Told
from app.api.answers.conversations import Conversation, Message  # noqa: TC001


class Event(Told):
    """An item of a webhook that is neither a message nor a state of one, kept whole."""

    page_id: str
    event_key: str
    psid: str | None = Field(description="null where Facebook named no person")
    kind: str
    via: Literal["messaging", "standby", "changes", "calls", "entry"]
    mid: str | None
    occurred_at: datetime
    payload: dict[str, Any]
    received_at: datetime
    updated_at: datetime


class Change(Told):
    """A key under which something else is to be read, and what is to be read there when this is told."""

    kind: Literal["message", "conversation", "event", "page"] = Field(
        description="`page`: all that was mirrored of the Page was erased"
    )
    page_id: str
    key: str = Field(
        description="a message's `mid`, a conversation's `psid`, an event's `event_key`, a Page's `page_id`"
    )
    psid: str | None = Field(description="whose it is; null where that is not known, and of a Page")
    changed_at: datetime
    is_gone: bool = Field(description="there is none any more: it was erased, or moved to another key")
    message: Message | None
    conversation: Conversation | None
    event: Event | None


class Changes(Told):
    """Changes in their order."""

    data: list[Change]
    next: str = Field(description="pass it as `after` to go on; there always is one")
