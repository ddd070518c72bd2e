"""One call of the Graph API: whose it is, which moment it sees, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from simulator.cursors import new_cursor, read_cursor
from simulator.fields import Field, FieldSyntaxError, parse_fields
from simulator.graph_errors import GraphFailure, bad_parameter, no_such_field, too_heavy

if TYPE_CHECKING:
    from simulator.behaviour import Behaviour
    from simulator.page import Page
    from simulator.world import World

DEFAULT_LIMIT = 25
_PERSON_FIELDS = {"id", "name", "email"}
# what stands in a field's value, and what stands in that is named likewise
_INNER_FIELDS = {
    "participants": _PERSON_FIELDS,
    "senders": _PERSON_FIELDS,
    "former_participants": _PERSON_FIELDS,
    "from": _PERSON_FIELDS,
    "to": _PERSON_FIELDS,
    "tags": {"name"},
    "reactions": {"reaction", "users"},
    "users": {"id", "username"},
    "reply_to": {"id"},
    "shares": {"id", "link", "name", "description", "picture", "template"},
    "attachments": {
        "id", "mime_type", "name", "size", "file_url", "image_data", "video_data", "generic_template",
    },
    "image_data": {
        "width", "height", "max_width", "max_height", "url", "preview_url", "image_type", "render_as_sticker",
        "animated_gif_url", "animated_gif_preview_url", "animated_gif_preview_height", "animated_gif_preview_width",
    },
    "video_data": {"width", "height", "length", "video_type", "rotation", "url", "preview_url"},
    "generic_template": {"title", "subtitle", "media_url", "cta"},
    "cta": {"title", "type", "url"},
}  # fmt: skip


class Window(NamedTuple):
    """Which part of an edge: `limit` rows after, or before, a cursor."""

    limit: int
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One call's view: whose, and of which moment. `base` is what links begin with; `at` is in ms, `now` in seconds."""

    world: World
    page: Page
    behaviour: Behaviour
    base: str
    token: str
    at: int
    now: int

    def cursor(self, place: str, *position: int) -> str:
        """Make a cursor into an edge."""
        return new_cursor(place, list(position), self.now)

    def position(self, cursor: str, place: str) -> list[int]:
        """Read a cursor into an edge; a `GraphFailure` when it is no good."""
        return read_cursor(cursor, place, self.now, max_age=self.behaviour.cursor_seconds)

    def paging(
        self, path: str, ends: tuple[str, str], window: Window, fields: str | None, **more: Any
    ) -> dict[str, Any]:
        """An edge's `paging`. Its links hold the token and the fields, as the real ones do."""
        query = {"access_token": self.token, "pretty": "0", "limit": str(window.limit), **more.pop("params", {})}
        if fields:
            query["fields"] = fields
        link = f"{self.base}/{path}?"
        paging: dict[str, Any] = {"cursors": {"before": ends[0], "after": ends[1]}}
        if more.get("has_next"):
            paging["next"] = link + urlencode({**query, "after": ends[1]})
        if more.get("has_previous"):
            paging["previous"] = link + urlencode({**query, "before": ends[0]})
        return paging


def read_fields(source: str | None) -> tuple[Field, ...]:
    """Read the parameter `fields`.

    Raises:
        GraphFailure: 2500, its syntax.

    """
    try:
        return parse_fields(source or "")
    except FieldSyntaxError as error:
        raise GraphFailure(2500, str(error)) from None


def read_window(params: dict[str, str], behaviour: Behaviour) -> Window:
    """Read `limit`, `after` and `before`, of a query or of a field's modifiers.

    Raises:
        GraphFailure: 100, `limit` is no positive number.

    """
    text = params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) == 0:
        raise bad_parameter(f"Param limit must be a positive integer, not {text[:20]}")
    return Window(min(int(text), behaviour.max_limit), params.get("after"), params.get("before"))


def check_weight(behaviour: Behaviour, limit: int, fields: tuple[Field, ...]) -> None:
    """Refuse a query that asks for too many rows, those of nested edges counted.

    Raises:
        GraphFailure: 1, "reduce the amount of data".

    """
    if behaviour.max_rows is None:
        return
    rows = limit
    for field in fields:
        if field.name == "messages":
            rows += limit * read_window(field.modifiers, behaviour).limit
    if rows > behaviour.max_rows:
        raise too_heavy()


def inner_fields(field: Field, value: Any) -> Any:
    """Keep of a field's value what was asked for of it, however deep.

    Raises:
        GraphFailure: 100, an inner field that does not exist.

    """
    inner = field.inner
    if field.name == "shares" and inner is None:
        inner = (Field("id"),)  # the others must be asked for (2.2)
    for one in inner or ():
        if one.name not in _INNER_FIELDS.get(field.name, ()):
            raise no_such_field(one.name, field.name.title().replace("_", ""))
        inner_fields(one, None)
    if inner is None or value is None:
        return value
    if isinstance(value, list):
        return [_only(row, inner) for row in value]
    if "data" in value:
        return {**value, "data": [_only(row, inner) for row in value["data"]]}
    return _only(value, inner)


def _only(row: dict[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    kept = {field.name: inner_fields(field, row[field.name]) for field in fields if field.name in row}
    return kept | ({"id": row["id"]} if row.get("id") else {})
