"""What is taken out of a raw body is gone, and every other byte of it stays as it came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.webhook import redaction
from app.webhook.items import Misshapen, explode
from app.webhook.redaction import Places, redacted
from sql.json_values import loads

if TYPE_CHECKING:
    from collections.abc import Iterator

# as Facebook may write it: escapes, odd spaces, numbers that no double holds
BODY = (
    b'{"object":"page", "entry":[\n {"id":"1","time":2,"messaging":[{"a":"\\u00e9]}\\""},\t'
    b'{"sender":{"id":"7"},"n":1e400},[ ] ]},{"id":"1","standby":[{"b":{}}],"call":{"id":"7"},"x" : null}]}'
)


def test_an_item_is_replaced_by_a_mark_and_its_neighbours_keep_every_byte() -> None:
    assert redacted(BODY, {"entry[0].messaging[1]"}) == BODY.replace(
        b'{"sender":{"id":"7"},"n":1e400}', b'{"erased":true}'
    )


def test_several_items_are_taken_out_at_once() -> None:
    body = redacted(BODY, {"entry[0].messaging[0]", "entry[1].standby[0]", "entry[0].messaging[2]"})
    assert body == (
        b'{"object":"page", "entry":[\n {"id":"1","time":2,"messaging":[{"erased":true},\t'
        b'{"sender":{"id":"7"},"n":1e400},{"erased":true} ]},'
        b'{"id":"1","standby":[{"erased":true}],"call":{"id":"7"},"x" : null}]}'
    )


def test_an_item_that_stands_in_its_entry_goes_and_leaves_the_entrys_lists() -> None:
    body = redacted(BODY, {"entry[1]"})
    assert body.endswith(b'{"id":"1","standby":[{"b":{}}],"erased":true,"erased":true}]}')
    assert body.startswith(BODY[:100])


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("entry[0].messaging[0]", {"entry[0].messaging[0]"}),
        ("entry[0].messaging[2]", {"entry[0].messaging[2]"}),
        ("entry[0].messaging", {f"entry[0].messaging[{n}]" for n in range(3)}),
        ("entry[1]", {"entry[1]"}),
    ],
)
def test_a_reader_passes_over_the_mark_and_finds_the_rest(path: str, gone: set[str]) -> None:
    before = {item.path: item for item in explode(loads(BODY))}
    after = {item.path: item for item in explode(loads(redacted(BODY, {path})))}
    assert after == {at: item for at, item in before.items() if at not in gone}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1, 2",
        b'{"entry":[{]}',
        b'{"entry" 1}',
        b'{"entry":[{"messaging":["',
        b'{"entry":{}}',
        b"\xff",
    ],
)
def test_a_body_in_which_an_item_cant_be_found_is_taken_whole(body: bytes) -> None:
    left = redacted(body, {"entry[0].messaging[0]"})
    assert left == b'{"erased":true}'
    assert list(explode(loads(left))) == []


def test_bytes_that_are_no_text_stay_as_they_came() -> None:
    body = b'{"entry":[{"id":"1","messaging":[{"t":"\xff\xed\xa0\x80"},{"u":1}]}]}'
    assert redacted(body, {"entry[0].messaging[1]"}) == body.replace(b'{"u":1}', b'{"erased":true}')


def test_where_a_key_repeats_the_one_that_readers_take_is_meant() -> None:
    body = b'{"entry":[],"entry":[{"id":"1","messaging":[{"t":1}]}]}'
    assert (
        redacted(body, {"entry[0].messaging[0]"}) == b'{"entry":[],"entry":[{"id":"1","messaging":[{"erased":true}]}]}'
    )


def test_depth_is_no_hindrance() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"entry":[{"id":"1","messaging":[{"t":%s},{"u":1}]}]}' % deep
    assert redacted(body, {"entry[0].messaging[0]"}) == b'{"entry":[{"id":"1","messaging":[{"erased":true},{"u":1}]}]}'


def test_what_stands_at_a_path_can_be_looked_at() -> None:
    places = Places(BODY)
    assert places.text_at("entry[1].standby[0]") == '{"b":{}}'
    assert places.text_at("entry[7]") == BODY.decode()


def test_an_item_inside_of_another_that_goes_is_gone_with_it() -> None:
    body = b'{"entry":[{"id":"1","messaging":[{"t":1},{"u":1}],"standby":[{"v":1}]}]}'
    left = redacted(body, {"entry[0].messaging", "entry[0].messaging[1]"})
    assert left == b'{"entry":[{"id":"1","messaging":{"erased":true},"standby":[{"v":1}]}]}'


def test_a_body_is_looked_through_once_however_many_items_go(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_into: list[int] = []
    look = redaction._children

    def counted(text: str, start: int) -> Iterator[Any]:
        looked_into.append(start)
        return look(text, start)

    monkeypatch.setattr(redaction, "_children", counted)
    items = [{"n": n} for n in range(500)]
    body = json.dumps({"entry": [{"id": "1", "messaging": items}]}).encode()
    left = redacted(body, {f"entry[0].messaging[{n}]" for n in range(500)})
    assert list(explode(loads(left))) == []
    assert len(looked_into) == 4  # the body, its entries, the one of them, its items


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(items=st.lists(values, min_size=1, max_size=4), indent=st.sampled_from([None, 0, 2]), data=st.data())
def test_any_items_but_those_named_are_read_as_before(
    items: list[Any], indent: int | None, data: st.DataObject
) -> None:
    payload = {"object": "page", "entry": [{"id": "1", "time": 5, "messaging": items}]}
    body = json.dumps(payload, indent=indent, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    gone = data.draw(st.sets(st.sampled_from([f"entry[0].messaging[{n}]" for n in range(len(items))])))
    before = [item for item in explode(loads(body)) if item.path not in gone]
    after = list(explode(loads(redacted(body, gone))))
    assert after == before
    assert not any(isinstance(item, Misshapen) and item.path in gone for item in after)
