from __future__ import annotations

from typing import Any

import pytest

from app.webhook.items import Misshapen, RawItem, explode, text_id

PAGE, PSID = "104203300000001", "7300000000000011"


def entry(**lists: Any) -> dict[str, Any]:
    return {"id": PAGE, "time": 7} | lists


def items_of(*entries: Any, kind: Any = "page") -> list[RawItem | Misshapen]:
    return list(explode({"object": kind, "entry": list(entries)}))


def test_every_item_of_every_list_of_every_entry_is_found_in_its_order() -> None:
    found = items_of(
        entry(messaging=[{"a": 1}, {"a": 2}], standby=[{"a": 3}]),
        entry(changes=[{"a": 4}], calls=[{"a": 5}]),
    )
    assert [(i.path, i.via, i.value["a"]) for i in found if isinstance(i, RawItem)] == [
        ("entry[0].messaging[0]", "messaging", 1),
        ("entry[0].messaging[1]", "messaging", 2),
        ("entry[0].standby[0]", "standby", 3),
        ("entry[1].changes[0]", "changes", 4),
        ("entry[1].calls[0]", "calls", 5),
    ]


def test_what_stands_directly_on_an_entry_is_an_item_of_its_own() -> None:
    found = items_of(entry(messaging=[{"a": 1}], call_settings={"audio": True}))
    assert [(i.path, i.via) for i in found if isinstance(i, RawItem)] == [
        ("entry[0].messaging[0]", "messaging"),
        ("entry[0]", "entry"),
    ]


@pytest.mark.parametrize(
    ("kind", "platform"),
    [
        ("page", "messenger"),
        ("instagram", "instagram"),
        ("permissions", "permissions"),
        ("user", "messenger"),
        (None, "messenger"),
        (["page"], "messenger"),
    ],
)
def test_the_platform_is_what_the_delivery_is_about(kind: object, platform: str) -> None:
    assert [i.platform for i in items_of(entry(messaging=[{}]), kind=kind) if isinstance(i, RawItem)] == [platform]


@pytest.mark.parametrize(
    ("page_id", "text"),
    [(PAGE, PAGE), (int(PAGE), PAGE), (10**30, "1" + "0" * 30), ("0", "0"), (0, "0")],
)
def test_the_page_is_the_entrys_id_as_text(page_id: object, text: str) -> None:
    assert [i.page_id for i in items_of({"id": page_id, "messaging": [{}]}) if isinstance(i, RawItem)] == [text]


@pytest.mark.parametrize("page_id", [None, "", True, 1.5, [], {}])
@pytest.mark.parametrize(
    ("item", "page"),
    [
        ({"sender": {"id": PSID}, "recipient": {"id": PAGE}}, PAGE),
        ({"sender": {"id": PAGE}, "recipient": {"id": PSID}, "message": {"is_echo": True}}, PAGE),
        ({"recipient": {"id": int(PAGE)}}, PAGE),
    ],
)
def test_where_the_entry_has_no_id_the_item_tells_the_page(page_id: object, item: dict[str, Any], page: str) -> None:
    assert [i.page_id for i in items_of({"id": page_id, "messaging": [item]}) if isinstance(i, RawItem)] == [page]


@pytest.mark.parametrize(
    ("payload", "places"),
    [
        (None, [""]),
        ([], [""]),
        ("text", [""]),
        ({}, [""]),
        ({"entry": None}, [""]),
        ({"entry": {"0": {}}}, [""]),
        ({"entry": [1, None, "x", []]}, ["entry[0]", "entry[1]", "entry[2]", "entry[3]"]),
        ({"entry": [entry(messaging={})]}, ["entry[0].messaging"]),
        ({"entry": [entry(messaging="x", calls=7)]}, ["entry[0].messaging", "entry[0].calls"]),
        ({"entry": [entry(standby=[1, None])]}, ["entry[0].standby[0]", "entry[0].standby[1]"]),
        ({"entry": [{"messaging": [{"message": 7}]}]}, ["entry[0].messaging[0]"]),
        ({"entry": [{"messaging": [{"recipient": 7}]}]}, ["entry[0].messaging[0]"]),
        ({"entry": [{"id": "9" * 101, "messaging": [{}]}]}, ["entry[0].messaging[0]"]),
    ],
)
def test_what_is_of_no_shape_is_told_with_its_place(payload: object, places: list[str]) -> None:
    found = list(explode(payload))
    assert [f.path for f in found] == places
    assert all(isinstance(f, Misshapen) and f.reason for f in found)


@pytest.mark.parametrize("payload", [{"entry": []}, {"entry": [{}]}, {"entry": [entry(messaging=[], standby=None)]}])
def test_an_empty_delivery_holds_nothing(payload: object) -> None:
    assert list(explode(payload)) == []


@pytest.mark.parametrize(
    ("value", "text"), [("7", "7"), (7, "7"), (True, None), ("", None), (None, None), (7.0, None), ([], None)]
)
def test_an_id_is_text_or_a_whole_number(value: object, text: str | None) -> None:
    assert text_id(value) == text
