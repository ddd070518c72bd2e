"""Take items out of a delivery's raw body, and leave every other byte as it came.

A journaled body is evidence, and may hold several persons' items: it is never parsed and written anew. Where an item
was, a mark stands that `explode` passes over.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from app.webhook.items import ENVELOPE, ERASED, Misshapen, explode
from sql.json_values import UnreadableJsonError, loads

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from app.webhook.items import RawItem

_MARK = '"' + ERASED + '":true'
_WHOLE = "{" + _MARK + "}"
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\[\]{}\"]+")
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")
_IN_ENTRY = re.compile(r"entry\[\d+\]")


class _Span(NamedTuple):
    """A value's place in the text. A member of an object begins with its key."""

    start: int
    end: int
    key: str = ""
    value: int = 0


class _NotThereError(ValueError):
    """The body is no JSON, or has nothing at a path."""


def redacted(body: bytes, paths: Collection[str]) -> bytes:
    """Return the body without the items at these paths, as `explode` names them.

    A body in which one can't be found is taken whole: what is to be erased must not stay because it is hard to find.
    """
    if "" in paths:
        return _WHOLE.encode()
    places = Places(body)
    try:
        spans = sorted({span for path in paths for span in places.covered(path)})
    except _NotThereError:
        return _WHOLE.encode()
    parts, at = [], 0
    for span in spans:
        if span.start < at:
            continue  # inside of what is gone
        parts += [places.text[at : span.start], _MARK if span.key else _WHOLE]
        at = span.end
    return "".join([*parts, places.text[at:]]).encode("utf-8", "surrogateescape")


def paths_of_pages(body: bytes, page_ids: Collection[str]) -> set[str]:
    """Where in a body Pages' items stand; what can't be read counts where it holds a Page's id."""
    try:
        found = list(explode(loads(body)))
    except UnreadableJsonError:
        found = [Misshapen("", "unreadable")]
    places = Places(body)
    return {item.path for item in found if _is_of(item, places, page_ids)}


def _is_of(item: RawItem | Misshapen, places: Places, page_ids: Collection[str]) -> bool:
    if isinstance(item, Misshapen):
        text = places.text_at(item.path)
        return any(page_id in text for page_id in page_ids)
    return item.page_id in page_ids


class Places:
    """Where things stand in a body. What was looked into is remembered: a body may hold thousands of items."""

    def __init__(self, body: bytes) -> None:
        self.text = body.decode("utf-8", "surrogateescape")
        self._children: dict[int, list[_Span]] = {}

    def text_at(self, path: str) -> str:
        """Return the raw text of what stands at a path; the whole body where nothing does."""
        try:
            span = self._find(path)
        except _NotThereError:
            return self.text
        return self.text[span.start : span.end]

    def covered(self, path: str) -> list[_Span]:
        """Return what has to go for an item to be gone.

        Raises:
            _NotThereError: the item can't be found.

        """
        span = self._find(path)
        # an item that stands directly in its entry: beside it, the entry may hold others'
        if _IN_ENTRY.fullmatch(path) and self.text[span.start] == "{":
            return [member for member in self._inside(span.start, "{") if member.key not in ENVELOPE]
        return [span]

    def _find(self, path: str) -> _Span:
        """Find a value; where a key repeats, its last, which is the one that parsers take."""
        span = _Span(_after_space(self.text, 0), len(self.text))
        for name, index in _STEP.findall(path):
            children = self._inside(span.start, "{" if name else "[")
            if name:
                members = [child for child in children if child.key == name]
                if not members:
                    raise _NotThereError
                span = _Span(members[-1].value, members[-1].end)
            else:
                if int(index) >= len(children):
                    raise _NotThereError
                span = children[int(index)]
        return span

    def _inside(self, start: int, bracket: str) -> list[_Span]:
        """Return an object's members, or a list's elements."""
        if self.text[start : start + 1] != bracket:
            raise _NotThereError
        if start not in self._children:
            self._children[start] = list(_children(self.text, start))
        return self._children[start]


def _children(text: str, start: int) -> Iterator[_Span]:
    is_object = text[start] == "{"
    end = "}" if is_object else "]"
    at = _after_space(text, start + 1)
    while text[at : at + 1] != end:
        child = _member(text, at) if is_object else _Span(at, _end(text, at))
        yield child
        at = _after_space(text, child.end)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != end:
            raise _NotThereError


def _member(text: str, start: int) -> _Span:
    key = _match(_STRING, text, start)
    colon = _after_space(text, key)
    if text[colon : colon + 1] != ":":
        raise _NotThereError
    value = _after_space(text, colon + 1)
    try:
        name = json.loads(text[start:key])
    except ValueError:
        raise _NotThereError from None
    return _Span(start, _end(text, value), name, value)


def _end(text: str, start: int) -> int:
    """Return where a value ends."""
    if text[start : start + 1] == '"':
        return _match(_STRING, text, start)
    if text[start : start + 1] not in {"{", "["}:
        return _match(_SCALAR, text, start)
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in {"{", "["}:
            depth += 1
        elif token[0] in {"}", "]"}:
            depth -= 1
            if depth == 0:
                return token.end()
    raise _NotThereError


def _match(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    if found is None:
        raise _NotThereError
    return found.end()


def _after_space(text: str, start: int) -> int:
    return _match(_SPACE, text, start)
