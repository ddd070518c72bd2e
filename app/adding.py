"""Add a Page: what its owner did not say is read from Graph with the token itself."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.graph.errors import (
    AccessDenied,
    FieldRefused,
    GraphError,
    GraphUnavailable,
    RateLimited,
    TokenDead,
)
from sql.pages import put_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool


_PAGE_ONLY_FIELD = "category"
_A_PERSONS = (
    "this token is a person's, not a Page's: POST /api/pages/import, or `messenger-mirror pages import`, takes it and "
    "adds all Pages of that person"
)


class PageRefusedError(Exception):
    """The Page can't be added; the text says why and what to do."""

    def __init__(self, message: str, field: str, *, is_temporary: bool = False) -> None:
        super().__init__(message)
        self.field, self.is_temporary = field, is_temporary


async def add_page(
    pool: Pool,
    graph: GraphClient,
    tokens: TokenBox,
    access_token: str,
    *,
    page_id: str | None = None,
    name: str | None = None,
    app_token: str | None = None,
) -> tuple[str, bool]:
    """Store a Page and its token, encrypted; returns its id and whether it is new.

    With a Page's token, Graph's `/me` is the Page (Graph sheet, section 5), with a person's it is the person. It is
    asked when the id or the name is missing, and then also whose the token is, for which `app_token` helps; with both
    given, nothing is asked, so that Pages can be added while Graph is away.

    Raises:
        PageRefusedError: Graph refuses the token, can't be asked, or says that it is another Page's or a person's.
        PageBusyError: what was mirrored of it is still being erased.

    """
    if page_id is None or name is None:
        found_id, found_name = await _ask(graph, access_token)
        if await _is_a_persons(graph, access_token, found_id, app_token):
            raise PageRefusedError(_A_PERSONS, "access_token")
        if page_id is not None and page_id != found_id:
            raise PageRefusedError(f"this token is of Page {found_id}, not of {page_id}", "page_id")
        page_id, name = found_id, name or found_name
    async with pool.acquire() as connection:  # not before: Graph may take its time
        is_new = await put_page(connection, page_id, tokens.seal(access_token), name, now=datetime.now(UTC))
    return page_id, is_new


async def _ask(graph: GraphClient, access_token: str) -> tuple[str, str | None]:
    with asked("access_token"):
        answer = await graph.get(access_token, "me", "me", {"fields": "id,name"})
    page_id, name = answer.data.get("id"), answer.data.get("name")
    if not isinstance(page_id, str) or not page_id:
        raise PageRefusedError("Graph does not show a Page for this token: its answer has no id", "access_token")
    return page_id, name if isinstance(name, str) and name else None


async def _is_a_persons(graph: GraphClient, token: str, found_id: str, app_token: str | None) -> bool:
    """Whether Graph says clearly that a token is a person's; where it says nothing of it, the token is taken.

    A person has no field that only Pages have: Graph refuses it, and names the type of node. A Graph that passes over
    it is asked for the token's type (`debug_token`), which it tells to the app's own token.
    """
    try:
        if _PAGE_ONLY_FIELD in (await graph.get(token, found_id, "me", {"fields": _PAGE_ONLY_FIELD})).data:
            return False
    except FieldRefused as error:
        if (error.field, error.node_type) == (_PAGE_ONLY_FIELD, "User"):
            return True
    except GraphError:
        pass
    if app_token is None:
        return False
    try:
        told = await graph.debug_token(app_token, found_id, token)
    except GraphError:
        return False
    return told is not None and told.get("type") == "USER"


@contextmanager
def asked(field: str) -> Iterator[None]:
    """Ask Graph with a token that the owner gave in `field`.

    Raises:
        PageRefusedError: Graph refuses it, or can't be asked.

    """
    try:
        yield
    except (TokenDead, AccessDenied) as error:
        raise PageRefusedError(f"Graph refuses this token: {error}", field) from None
    except (GraphUnavailable, RateLimited) as error:
        more = ", or give page_id and name" if field == "access_token" else ""
        told = f"Graph can't be asked now ({error}): try again{more}"
        raise PageRefusedError(told, field, is_temporary=True) from None
    except GraphError as error:
        raise PageRefusedError(f"Graph does not show a Page for this token: {error}", field) from None
