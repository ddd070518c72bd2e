"""How often an answer with an `ETag` is written as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from app.api.conditional import conditional

if TYPE_CHECKING:
    from collections.abc import ItemsView

LINK = "https://scontent.xx.fbcdn.net/a.png?oh={}&oe=69A00000"


class Row:
    """A row as Postgres gives it, which counts how often it is written."""

    def __init__(self, **values: Any) -> None:
        self._values, self.written = values, 0

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def keys(self) -> list[str]:
        return list(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def items(self) -> ItemsView[str, Any]:
        self.written += 1
        return self._values.items()


def asking(tag: str = "") -> Request:
    return Request({"type": "http", "headers": [(b"if-none-match", tag.encode())]})


def test_an_answer_without_attachments_is_written_once() -> None:
    row = Row(mid="m_1", attachments=[])
    answer = conditional(asking(), {"data": [row], "next": None})
    assert row.written == 1
    assert json.loads(bytes(answer.body)) == {"data": [{"mid": "m_1", "attachments": []}], "next": None}
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


def test_the_neighbours_of_attachments_are_tagged_without_signatures_and_told_with_them() -> None:
    def page(signature: str, text: str = "hello", updated_at: int = 1) -> dict[str, Any]:
        attachments = [{"type": "image", "url": LINK.format(signature)}]
        changed = Row(mid="m_2", attachments=attachments, updated_at=updated_at)
        return {"data": [Row(mid="m_1", text=text, attachments=[]), changed]}

    first, second, *others = (
        conditional(asking(), page(*said)) for said in (("one",), ("two",), ("one", "bye"), ("one", "hello", 2))
    )
    assert first.headers["etag"] == second.headers["etag"]
    assert len({answer.headers["etag"] for answer in (first, *others)}) == 3
    assert [LINK.format("two").encode() in bytes(answer.body) for answer in (first, second)] == [False, True]


def test_what_is_known_already_is_written_only_for_its_tag() -> None:
    tag = conditional(asking(), {"data": [Row(mid="m_1")]}).headers["etag"]
    row = Row(mid="m_1")
    answer = conditional(asking(tag), {"data": [row]})
    assert (answer.status_code, answer.body, row.written) == (304, b"", 1)
