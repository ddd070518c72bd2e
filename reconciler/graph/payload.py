"""The shapes of Graph's nodes, as far as they become rows. Fields without data are left out by Graph.

A field of another shape than documented costs only itself: it is as if it had been left out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.functional_validators import WrapValidator

from sql.mids import short_enough

_LARGEST_COUNT = 2**31 - 1  # the column's integer


def _graph_time(value: object) -> object:
    """Whole seconds with an offset without colon: 2021-07-23T09:28:50+0000."""
    if not isinstance(value, str):
        return value
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or in the first or the last hours of all
        raise ValueError("not a time") from None  # the error's own text quotes what was there


def _or_nothing(value: object, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Lenient = WrapValidator(_or_nothing)
Time = Annotated[datetime, BeforeValidator(_graph_time)]
Id = Annotated[str, Field(min_length=1), AfterValidator(short_enough)]
Text = Annotated[str | None, Lenient]
Number = Annotated[Annotated[int, Field(ge=0, le=_LARGEST_COUNT)] | None, Lenient]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True, frozen=True, hide_input_in_errors=True)


class Person(_Shape):
    """A participant, a sender, somebody who reacted."""

    id: Annotated[Id | None, Lenient] = None
    name: Text = None


class PersonList(_Shape):
    """An edge of persons."""

    data: list[Annotated[Person | None, Lenient]] = Field(default_factory=list)

    def persons(self) -> list[Person]:
        """Those that can be read."""
        return [person for person in self.data if person is not None]


class MessageNode(_Shape):
    """A message. With `id` and `created_time` alone it is a stub: Graph refused its details."""

    id: Id
    created_time: Annotated[Time | None, Lenient] = None
    sender: Annotated[Person | None, Lenient] = Field(None, alias="from")
    to: Annotated[PersonList | None, Lenient] = None
    message: Text = None
    attachments: Any = None
    shares: Any = None
    sticker: Text = None
    reply_to: Any = None
    reactions: Any = None

    @property
    def is_stub(self) -> bool:
        """Whether there is nothing but the id and the time."""
        return self.model_fields_set <= {"id", "created_time"}


class ConversationNode(_Shape):
    """A thread. `messages` is left as it is: each of its rows is read alone, so that a bad one costs no other."""

    id: Id
    updated_time: Time
    participants: Annotated[PersonList | None, Lenient] = None
    message_count: Number = None
    unread_count: Number = None
    can_reply: Annotated[bool | None, Lenient] = None
    messages: Any = None
