"""Edges of Graph: their rows, and the cursor to what follows.

`paging.next` is a whole URL that holds the token: it tells that there is more, and nothing of it but the cursor leaves
this file.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from reconciler.graph.errors import BadAnswer


def rows_of(edge: object) -> list[Any]:
    """Return the rows of an edge that was asked for.

    Raises:
        BadAnswer: there is no list of rows, so nothing can be said of what it holds.

    """
    data = edge.get("data") if isinstance(edge, dict) else None
    if not isinstance(data, list):
        raise BadAnswer("an answer without a list of rows")
    return data


def next_cursor(edge: object) -> str | None:
    """Return the cursor of an edge's next page, None when there is none.

    An edge has a next page if and only if it has `paging.next`; a page may be short, or empty, and still have one.

    Raises:
        BadAnswer: there is a next page but no cursor to it.

    """
    paging = edge.get("paging") if isinstance(edge, dict) else None
    if not isinstance(paging, dict) or not paging.get("next"):
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if not after:
        try:
            after = next(iter(parse_qs(urlsplit(str(paging["next"])).query).get("after", [])), None)
        except ValueError:
            after = None
    if not after:
        raise BadAnswer("a next page without a cursor to it")
    return str(after)


class Cursors:
    """The cursors that were followed. An edge that leads back to one of them would be read for ever."""

    def __init__(self) -> None:
        self._followed: set[int] = set()

    def follow(self, cursor: str | None) -> None:
        """Note that a cursor is followed.

        Raises:
            BadAnswer: it was followed before.

        """
        if cursor is None:
            return
        if hash(cursor) in self._followed:
            raise BadAnswer("the cursor to the next page leads back to a page that was read")
        self._followed.add(hash(cursor))
