"""Take items out of a delivery's raw body, and leave every other byte as it came.

A journaled body is evidence, and may hold several persons' items: it is never parsed and written anew. Where an item
was, a mark stands that `explode` passes over.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from app.webhook.items import ENVELOPE, ERASED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MARK = '"' + ERASED + '":true'
_WHOLE = "{" + _MARK + "}"
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\[\]{}\"]+")
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]")


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
    text = _text(body)
    if "" in paths:
        return _WHOLE.encode()
    try:
        spans = sorted({span for path in paths for span in _covered(text, path)}, reverse=True)
    except _NotThereError:
        return _WHOLE.encode()
    for span in spans:
        mark = _MARK if span.key else _WHOLE
        text = text[: span.start] + mark + text[span.end :]
    return text.encode("utf-8", "surrogateescape")


def text_at(body: bytes, path: str) -> str:
    """Return the raw text of what stands at a path; the whole body where nothing does."""
    text = _text(body)
    try:
        span = _find(text, path)
    except _NotThereError:
        return text
    return text[span.start : span.end]


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")


def _covered(text: str, path: str) -> Iterator[_Span]:
    span = _find(text, path)
    # an item that stands directly in its entry: beside it, the entry may hold others'
    if re.fullmatch(r"entry\[\d+\]", path) and text[span.start] == "{":
        yield from (member for member in _members(text, span.start) if member.key not in ENVELOPE)
    else:
        yield span


def _find(text: str, path: str) -> _Span:
    """Find a value; where a key repeats, its last, which is the one that parsers take."""
    span = _Span(_after_space(text, 0), len(text))
    for name, index in _STEP.findall(path):
        children = list(_members(text, span.start) if name else _elements(text, span.start))
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


def _members(text: str, start: int) -> Iterator[_Span]:
    for first in _children(text, start, "{}"):
        key = _match(_STRING, text, first)
        colon = _after_space(text, key)
        if text[colon : colon + 1] != ":":
            raise _NotThereError
        value = _after_space(text, colon + 1)
        try:
            name = json.loads(text[first:key])
        except ValueError:
            raise _NotThereError from None
        yield _Span(first, _end(text, value), name, value)


def _elements(text: str, start: int) -> Iterator[_Span]:
    for first in _children(text, start, "[]"):
        yield _Span(first, _end(text, first))


def _children(text: str, start: int, brackets: str) -> Iterator[int]:
    """Yield where each child begins; whoever iterates has looked at it by the next."""
    if text[start : start + 1] != brackets[0]:
        raise _NotThereError
    at = _after_space(text, start + 1)
    while text[at : at + 1] != brackets[1]:
        yield at
        at = _end(text, at)
        at = _after_space(text, at)
        if text[at : at + 1] == ":":  # what was passed was a key
            at = _after_space(text, _end(text, _after_space(text, at + 1)))
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != brackets[1]:
            raise _NotThereError


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
