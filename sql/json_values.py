"""JSON from outside, read so that Postgres can hold every value of it.

Postgres' text and jsonb refuse NUL characters and lone surrogates; orjson refuses lone surrogates, numbers past a
double, NaN and great depth. None of that may cost a message, so what is unusual is read once more with care:

- NUL, lone surrogates and U+001A itself become U+001A and four hex digits: `escape`, undone by `unescape`;
- numbers that a double or a 64-bit integer can't hold become their text;
- what is nested deeper than 64 becomes the text of its JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

MAX_DEPTH = 64
_ESCAPE = "\x1a"
_REFUSED = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")
# what the fast reading would let through and Postgres refuse, or would read inexactly
_REFUSED_ESCAPE = re.compile(rb"\\u00(?:00|1[aA])")
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?\d{19,}")
_DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else ord(" ") for byte in range(256))
# a quote that begins no whole string: nothing behind it can be JSON, so nothing there needs to be looked at
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.DOTALL)
_INT64 = 2**63
_CONTAINERS = {dict, list}


class UnreadableJsonError(ValueError):
    """These bytes are not JSON."""


def loads(body: bytes) -> Any:
    """Read JSON into values that Postgres can hold.

    Raises:
        UnreadableJsonError: the bytes are not JSON at all; its text says where, and quotes nothing.

    """
    if not _needs_care(body):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        else:
            if body.count(b"[") + body.count(b"{") <= MAX_DEPTH or not _is_too_deep(value):
                return value
    return _loads_with_care(body)


def _needs_care(body: bytes) -> bool:
    # plain searches first: the expressions cost many times as much, and every webhook comes by here
    if b"\\u00" in body and _REFUSED_ESCAPE.search(body):
        return True
    return b"0" * 19 in body.translate(_DIGITS_AS_ZEROS) and _LONG_NUMBER.search(body) is not None


def escape(text: str) -> str:
    """Replace what Postgres refuses in text; reversible."""
    return _REFUSED.sub(lambda m: f"{_ESCAPE}{ord(m[0]):04x}", text) if _REFUSED.search(text) else text


def unescape(text: str) -> str:
    """Undo `escape`."""
    return _ESCAPED.sub(lambda m: chr(int(m[1], 16)), text)


def dumps(value: Any) -> str:
    """Write JSON text for a jsonb value."""
    return orjson.dumps(value).decode()


def canonical(value: Any) -> bytes:
    """Write a value so that equal ones are equal bytes: keys sorted, numbers as text."""
    return orjson.dumps(_numbers_as_text(value), option=orjson.OPT_SORT_KEYS)


def _numbers_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers_as_text(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_numbers_as_text(v) for v in value]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _is_too_deep(value: Any) -> bool:
    """Whether anything is nested deeper than `MAX_DEPTH`; level by level, as a recursion would have to stop itself."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return True


def _loads_with_care(body: bytes) -> Any:
    text = _without_depth(body.decode("utf-8", "surrogateescape"))
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=str)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise UnreadableJsonError(f"not JSON: {reason}") from None
    return _escaped(value)


def _integer(digits: str) -> int | str:
    if len(digits) > 20:
        return digits
    value = int(digits)
    return value if -_INT64 <= value < _INT64 else digits


def _float(digits: str) -> float | str:
    value = float(digits)
    return value if abs(value) != float("inf") else digits


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {escape(key): _escaped(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return value


def _without_depth(text: str) -> str:
    """Turn what is nested too deep into strings that hold its JSON."""
    pieces: list[str] = []
    depth = done = start = 0
    for token in _TOKEN.finditer(text):
        character = token[0]
        if character in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                start = token.start()
        elif character == '"' and len(token[0]) == 1:
            break
        elif character in "]}":
            if depth == MAX_DEPTH + 1:
                pieces += (text[done:start], json.dumps(text[start : token.end()]))
                done = token.end()
            depth -= 1
    return "".join((*pieces, text[done:]))
