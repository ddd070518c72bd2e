from __future__ import annotations

from typing import Any

import pytest

from reconciler.graph.errors import BadAnswer
from reconciler.graph.paging import Cursors, next_cursor, rows_of

NEXT = "https://graph.facebook.com/v26.0/1/conversations?access_token=EAAsecret&after=fromnext&limit=5"


@pytest.mark.parametrize(
    ("edge", "cursor"),
    [
        ({"paging": {"cursors": {"before": "b", "after": "a"}, "next": NEXT}}, "a"),
        ({"paging": {"next": NEXT}}, "fromnext"),
        ({"paging": {"cursors": {"before": "b"}, "next": NEXT}}, "fromnext"),
        ({"paging": {"cursors": {"before": "b", "after": "a"}}}, None),
        ({"paging": {"cursors": {"after": "a"}, "next": ""}}, None),
        ({"paging": {}}, None),
        ({"paging": None}, None),
        ({"data": []}, None),
        (None, None),
    ],
)
def test_there_is_a_next_page_only_when_paging_has_next(edge: Any, cursor: str | None) -> None:
    assert next_cursor(edge) == cursor


@pytest.mark.parametrize("link", ["https://graph.facebook.com/1/conversations?access_token=EAAsecret", "http://[", 7])
def test_a_next_page_without_a_cursor_is_a_bad_answer_that_does_not_quote_the_link(link: object) -> None:
    with pytest.raises(BadAnswer) as caught:
        next_cursor({"paging": {"next": link}})
    assert "EAAsecret" not in str(caught.value)


@pytest.mark.parametrize("edge", [None, {}, {"data": None}, {"data": {}}, [], "text"])
def test_an_edge_without_rows_is_not_an_empty_one(edge: object) -> None:
    with pytest.raises(BadAnswer):
        rows_of(edge)


def test_an_empty_edge_has_no_rows() -> None:
    assert rows_of({"data": []}) == []


def test_a_cursor_that_leads_back_is_noticed() -> None:
    cursors = Cursors()
    for cursor in (None, "a", "b"):
        cursors.follow(cursor)
    with pytest.raises(BadAnswer, match="leads back"):
        cursors.follow("a")
