"""The shapes of Graph's nodes, as far as they become rows. Fields without data are left out by Graph."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _graph_time(value: object) -> object:
    """Whole seconds with an offset without colon: 2021-07-23T09:28:50+0000."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


Time = Annotated[datetime, BeforeValidator(_graph_time)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True, frozen=True)


class Person(_Shape):
    """A participant, a sender, somebody who reacted."""

    id: str | None = None
    name: str | None = None


class PersonList(_Shape):
    """An edge of persons."""

    data: list[Person] = Field(default_factory=list)


class MessageNode(_Shape):
    """A message. With `id` and `created_time` alone it is a stub: Graph refused its details."""

    id: str = Field(min_length=1)
    created_time: Time | None = None
    sender: Person | None = Field(None, alias="from")
    to: PersonList | None = None
    message: str | None = None
    attachments: Any = None
    shares: Any = None
    sticker: str | None = None
    reply_to: Any = None
    reactions: Any = None


class ConversationNode(_Shape):
    """A thread. `messages` is left as it is: each of its rows is read alone, so that a bad one costs no other."""

    id: str = Field(min_length=1)
    updated_time: Time
    participants: PersonList | None = None
    message_count: int | None = None
    unread_count: int | None = None
    can_reply: bool | None = None
    messages: Any = None
