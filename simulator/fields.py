"""Graph's `fields` parameter: names, with modifiers and the fields of what they lead to.

id,updated_time,messages.limit(20){id,from{id,name}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODIFIER = re.compile(r"\.([a-z_]+)\(([^()]*)\)")
MAX_DEPTH = 10


class FieldSyntaxError(ValueError):
    """The text is no list of fields; the message says where."""


@dataclass(frozen=True, slots=True)
class Field:
    """One name. `inner_source` is the text between its braces, None without: what a `next` link repeats."""

    name: str
    modifiers: dict[str, str] = field(default_factory=dict)
    inner: tuple[Field, ...] | None = None
    inner_source: str | None = None


def parse_fields(source: str) -> tuple[Field, ...]:
    """Read a `fields` parameter; an empty one has no fields.

    Raises:
        FieldSyntaxError: it can't be read.

    """
    if not source:
        return ()
    fields, end = _list(source, 0, 0)
    if end != len(source):
        raise FieldSyntaxError(f'Syntax error "Expected end of string instead of "{source[end]}"." at character {end}')
    return fields


def _list(source: str, at: int, depth: int) -> tuple[tuple[Field, ...], int]:
    if depth > MAX_DEPTH:
        raise FieldSyntaxError(f"fields are nested more than {MAX_DEPTH} deep")
    found: list[Field] = []
    while True:
        one, at = _one(source, at, depth)
        found.append(one)
        if at >= len(source) or source[at] != ",":
            return tuple(found), at
        at += 1


def _one(source: str, at: int, depth: int) -> tuple[Field, int]:
    name = _NAME.match(source, at)
    if name is None:
        raise FieldSyntaxError(f'Syntax error "Expected name." at character {at}')
    at, modifiers = name.end(), {}
    while modifier := _MODIFIER.match(source, at):
        modifiers[modifier[1]] = modifier[2]
        at = modifier.end()
    if at >= len(source) or source[at] != "{":
        return Field(name[0], modifiers), at
    inner, end = _list(source, at + 1, depth + 1)
    if end >= len(source) or source[end] != "}":
        raise FieldSyntaxError(f'Syntax error "Expected }}." at character {end}')
    return Field(name[0], modifiers, inner, source[at + 1 : end]), end + 1
