"""What all of `/api` shares: values in and out of HTTP."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.responses import Response

from app.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

MAX_BODY = 1 << 20
MAX_ID = 2**63 - 1


class Json(Response):
    """JSON whose field names are the columns' names."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write rows and values."""
        return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """Write rows and values as JSON."""
    return orjson.dumps(content, default=_plain, option=orjson.OPT_UTC_Z)


def _plain(value: object) -> Any:
    if hasattr(value, "items"):  # a row
        return dict(value.items())
    return str(value)


class Shape(BaseModel):
    """What a request holds; what it does not know is refused, so that a typing error is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NoQuery(Shape):
    """The query of an endpoint that takes none."""


def _instant(value: object) -> datetime:
    """Read a time as it is written, never as a number: 2026 is no second of the year 1970."""
    try:
        given = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        instant = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):
        instant = None
    # before 1970 there was nothing, and sums with such a time may leave what a time can hold
    if instant is None or instant.year < 1970:
        raise ValueError("not a time since 1970: write 2026-01-31 or 2026-01-31T18:00:00Z")
    return instant


Instant = Annotated[datetime, BeforeValidator(_instant)]
Limit = Annotated[int, Field(ge=1, le=500)]
Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
AnyShape = TypeVar("AnyShape", bound=Shape)


class PageQuery(Shape):
    """The query of a list that is told page by page."""

    limit: Limit = 50
    cursor: str | None = Field(None, description="the `next` of the page before, asked for with the same parameters")

    def place(self, question: str, *kinds: type[str | int | datetime | UUID]) -> Any:
        """Read where in the answers to a question to go on; None: at the beginning.

        Raises:
            ProblemError: 422; the cursor is none of ours, or is one of another question.

        """
        return place_in(self.cursor, question, *kinds)


async def read_json(request: Request, shape: type[AnyShape]) -> AnyShape:
    """Read a request's body.

    Raises:
        ProblemError: 413 or 422, naming the field.

    """
    _check_declared(request, "body", shape)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ProblemError(413, f"a request has at most {MAX_BODY} bytes")
    try:
        return shape.model_validate_json(body or b"{}", strict=True)  # false is no number, and "5" neither
    except ValidationError as error:
        raise _refusal(error, shape) from None


def read_query(request: Request, shape: type[AnyShape]) -> AnyShape:
    """Read a request's query. A parameter that is given more than once is a list.

    Raises:
        ProblemError: 422, naming the parameter.

    """
    _check_declared(request, "query", shape)
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        given.setdefault(name, []).append(value)
    try:
        return shape.model_validate({name: v if len(v) > 1 else v[0] for name, v in given.items()})
    except ValidationError as error:
        raise _refusal(error, shape) from None


def _check_declared(request: Request, what: str, shape: type[Shape]) -> None:
    """Make sure that an endpoint reads what it says it does: the documentation is made of that."""
    declared = getattr(request.scope.get("endpoint_declared"), what, shape)
    if declared is not shape:
        raise TypeError(f"this endpoint reads {shape.__name__} as its {what}, and declares {declared}")


def _refusal(error: ValidationError, shape: type[Shape]) -> ProblemError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"not known here; known: {', '.join(shape.model_fields) or 'none'}"
    return ProblemError(422, f"{field}: {message}" if field else message, field=field or None)


def check_range(begins: datetime | None, ends: datetime | None, *, names: tuple[str, str] = ("since", "until")) -> None:
    """Make sure that a range of time, which ends before its second instant, can hold anything.

    Raises:
        ProblemError: 422, naming the end.

    """
    if begins is not None and ends is not None and begins >= ends:
        raise ProblemError(422, f"{names[1]} must be later than {names[0]}", field=names[1])


def path_id(request: Request, name: str) -> str:
    """Read an id out of the path.

    Raises:
        ProblemError: 404; nothing can have such an id.

    """
    value = str(request.path_params[name])
    if "\x00" in value:
        raise ProblemError(404, f"nothing has such a {name}", field=name)
    return value


def run_number(text: str) -> int:
    """Read a run's id, 0 (no run has it) for what is none; the router's own numbers fail on thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(MAX_ID)) else 0


def to_cursor(*values: str | int | datetime | UUID) -> str:
    """Pack a position into a cursor: opaque, and safe in a URL."""
    return base64.urlsafe_b64encode(orjson.dumps(values, default=str)).rstrip(b"=").decode()


def from_cursor(cursor: str, *kinds: type[str | int | datetime | UUID]) -> Any:
    """Unpack a cursor into values of these kinds.

    Raises:
        ProblemError: 422; it is none of ours.

    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return tuple(_unpacked(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (TypeError, ValueError, OverflowError):
        raise bad_cursor() from None


def _unpacked(value: object, kind: type[str | int | datetime | UUID]) -> str | int | datetime | UUID:
    if kind is int and type(value) is int and 0 <= value <= MAX_ID:
        return value
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError
    if kind is datetime:
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind is UUID:
        return UUID(value)
    if kind is str:
        return value
    raise ValueError


def bad_cursor() -> ProblemError:
    """Make the refusal of a cursor that this API did not give, or gave to another question."""
    return ProblemError(422, "cursor: not one that this API gave for these parameters", field="cursor")


def question_of(name: str, *asked: object) -> str:
    """What a cursor is for, a list and what of it was asked for: to another question it would skip what it answers."""
    return blake2b(repr((name, *asked)).encode(), digest_size=6).hexdigest()


def place_in(cursor: str | None, question: str, *kinds: type[str | int | datetime | UUID]) -> Any:
    """Unpack a cursor, `next` of an answer to this question, into values of these kinds; None: none was given.

    Raises:
        ProblemError: 422; the cursor is none of ours, or is one of another question.

    """
    if cursor is None:
        return None
    asked, *place = from_cursor(cursor, str, *kinds)
    if asked != question:
        raise bad_cursor()
    return tuple(place)


def page_of(rows: Sequence[Any], limit: int, *keys: str, of: str) -> dict[str, Any]:
    """Make a page of at most `limit` rows of the `limit + 1` read, with the cursor to the next one, or null.

    `of` is the question that the cursor is for.
    """
    shown = rows[:limit]
    last = shown[-1] if len(rows) > limit else None
    return {"data": shown, "next": to_cursor(of, *(last[key] for key in keys)) if last is not None else None}
