from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sql.json_values import MAX_DEPTH, UnreadableJsonError, canonical, dumps, escape, loads, unescape

REFUSED = ["\x00", "\x1a", "\ud800", "\udfff"]
ANY_TEXT = st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from(REFUSED)))
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ANY_TEXT, inner, max_size=4)),
    max_leaves=20,
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def levels(value: Any) -> int:
    count = 0
    while isinstance(value, list):
        count += 1
        value = value[0] if value else None
    return count


@given(ANY_TEXT)
def test_an_escape_is_undone_whatever_the_text(text: str) -> None:
    escaped = escape(text)
    escaped.encode()
    assert "\x00" not in escaped
    assert unescape(escaped) == text


def test_ordinary_text_is_left_as_it_is() -> None:
    assert escape("Żółć 👩‍👩‍👧\n\t") == "Żółć 👩‍👩‍👧\n\t"


@given(ANY_JSON)
def test_any_json_is_read_as_something_that_can_be_written_again(value: Any) -> None:
    read = loads(json.dumps(value).encode())
    assert orjson.loads(dumps(read)) == read
    canonical(read)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'{"a":"x\u0000y"}', {"a": "x\x1a0000y"}),
        (rb'{"k\u0000":1}', {"k\x1a0000": 1}),
        (rb'["\ud800"]', ["\x1ad800"]),
        (rb'["\udfff x \ud83d\ude00"]', ["\x1adfff x 😀"]),
        (rb'["\u001a"]', ["\x1a001a"]),
        (rb'["\u001A"]', ["\x1a001a"]),
        (b'["\xff"]', ["\x1adcff"]),
        (b"[1e308]", [1e308]),
        (b"[1e400]", ["1e400"]),
        (b"[-1e400]", ["-1e400"]),
        (b"[NaN]", ["NaN"]),
        (b"[-Infinity]", ["-Infinity"]),
        (b"[9223372036854775807]", [2**63 - 1]),
        (b"[9223372036854775808]", ["9223372036854775808"]),
        (b"[ -9223372036854775809]", ["-9223372036854775809"]),
        (b'{"id":99999999999999999999999}', {"id": "99999999999999999999999"}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'["\\\\u0000"]', ["\\u0000"]),
        (b"7", 7),
    ],
)
def test_what_postgres_would_refuse_is_read_as_what_it_takes(body: bytes, value: Any) -> None:
    assert loads(body) == value


@pytest.mark.parametrize("digits", [5_000, 100_000])
def test_a_number_of_many_digits_keeps_them(digits: int) -> None:
    assert loads(b'{"n":' + b"9" * digits + b"}") == {"n": "9" * digits}


@pytest.mark.parametrize("depth", [1, MAX_DEPTH])
def test_a_depth_that_is_allowed_is_kept(depth: int) -> None:
    assert levels(loads(nested(depth))) == depth


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 255, 1_025, 100_000])
def test_what_is_deeper_becomes_the_text_of_its_json(depth: int) -> None:
    value = loads(nested(depth))
    while isinstance(value, list):
        value = value[0]
    assert value == nested(depth - MAX_DEPTH).decode()


def test_many_brackets_that_are_not_deep_stay_as_they_are() -> None:
    body = b"[" + b"[{}]," * 10_000 + b'"]["]'
    assert loads(body) == orjson.loads(body)


def test_brackets_and_escapes_in_text_are_no_depth() -> None:
    body = json.dumps([("[{" * 100) + '"\\\x00', nested(70).decode()]).encode()
    assert loads(body) == ["[{" * 100 + '"\\\x1a0000', nested(70).decode()]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a":}', b"\x00", b"\xff", b'["', b"[" * 100_000, b'{"a":1}}', b'["' + b'\\"' * 500_000, b"'a'"],
)
def test_what_is_not_json_is_told_so_without_quoting_it(body: bytes) -> None:
    with pytest.raises(UnreadableJsonError, match=r"^not JSON: "):
        loads(body)


def test_an_error_quotes_nothing_of_the_body() -> None:
    with pytest.raises(UnreadableJsonError) as caught:
        loads(b'{"text": "private" oops}')
    assert "private" not in str(caught.value)
    assert "oops" not in str(caught.value)


def test_equal_values_are_equal_bytes_whatever_the_order_of_keys_and_the_form_of_numbers() -> None:
    one = canonical({"sender": {"id": 7}, "a": [1.5, None, True]})
    other = canonical({"a": [1.5, None, True], "sender": {"id": "7"}})
    assert one == other
    assert canonical({"a": True}) != canonical({"a": 1})
    assert canonical(["a", "b"]) != canonical(["b", "a"])
