"""The shapes of Facebook's webhook items, as far as they become rows; whatever else an item holds is kept beside.

Meta's lists of fields are incomplete and its samples disagree with them (ids as numbers, times in seconds, labels
swapped), so these shapes ask for what a row needs and let everything else be.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from sql.mids import short_enough

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FACEBOOK_BEGAN_MS = 1_075_593_600_000  # 2004-02-01: nothing on Facebook is older
_NO_LATER_THAN_MS = 4_102_444_800_000  # 2100-01-01
_MILLISECONDS_FROM = 10**12  # a smaller number is seconds: in ms it would be before September 2001


def read_time(value: object) -> datetime | None:
    """Read one of Facebook's times: epoch ms, or seconds (lead ads, calls, `changes`), as a number or text.

    None for what is absent or can't be a time of Facebook's.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    milliseconds = number if number >= _MILLISECONDS_FROM else number * 1000
    if not _FACEBOOK_BEGAN_MS <= milliseconds < _NO_LATER_THAN_MS:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds(at: datetime) -> int:
    """Epoch milliseconds, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


# What no index can hold is told at the door, not found out in the database.
MAX_ID = 100

Time = Annotated[datetime | None, BeforeValidator(read_time)]
_EMPTY_IS_NONE = BeforeValidator(lambda v: None if v == "" else v)
Text = Annotated[str | None, _EMPTY_IS_NONE]
Mid = Annotated[str, Field(min_length=1), AfterValidator(short_enough)]
MaybeMid = Annotated[Mid | None, _EMPTY_IS_NONE]
MaybeId = Annotated[Annotated[str, Field(max_length=MAX_ID)] | None, _EMPTY_IS_NONE]


def _is_true(value: object) -> bool:
    return isinstance(value, (int, str)) and value in {True, "true"}


Flag = Annotated[bool, BeforeValidator(_is_true)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, frozen=True, hide_input_in_errors=True)


class Party(_Shape):
    """A sender or recipient. `user_ref` or a phone number may stand where the id is not known."""

    id: MaybeId = None


class MessageBody(_Shape):
    """`message`: a message, an echo of one that the Page sent, or that one was unsent."""

    mid: Mid
    text: Text = None
    is_echo: Flag = False
    is_deleted: Flag = False
    app_id: Text = None
    sticker_id: Text = None
    reply_to: Any = None
    attachments: Any = None


class EditBody(_Shape):
    """`message_edit`."""

    mid: Mid
    text: str | None = None
    num_edit: int = Field(default=0, ge=0, lt=2**31)


class ReactionBody(_Shape):
    """`reaction`. `mid` is the message reacted to."""

    mid: Mid
    action: Literal["react", "unreact"]
    reaction: Text = None
    emoji: Text = None


class PostbackBody(_Shape):
    """`postback`. `mid` came with webhook version 11; `payload` is only for the app that sent the button."""

    mid: MaybeMid = None
    title: Text = None


class ReceiptBody(_Shape):
    """`delivery` or `read`. Instagram's `read` names a mid instead of a watermark."""

    watermark: Time = None
    mid: Text = None


class Item(_Shape):
    """One element of `entry[].messaging[]` or `standby[]`."""

    sender: Party | None = None
    recipient: Party | None = None
    timestamp: Time = None
    message: MessageBody | None = None
    message_edit: EditBody | None = None
    reaction: ReactionBody | None = None
    postback: PostbackBody | None = None
    delivery: ReceiptBody | None = None
    read: ReceiptBody | None = None
