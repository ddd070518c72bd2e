"""Add all Pages of a person: Graph lists them, each with a token of its own, for the person's user token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from app.adding import PageRefusedError, asked
from reconciler.graph.paging import Cursors, next_cursor, rows_of
from sql.pages import PageBusyError, put_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool

FIELDS = "id,name,access_token,tasks"
AT_ONCE = 100
# one of them lets a person's app read and write the Page's messages (Graph sheet, section 5)
TASKS = {"MESSAGING", "MODERATE", "MANAGE"}


class Imported(NamedTuple):
    """What became of a Page that Graph listed: added, updated (known, it has a new token), or skipped, and why."""

    page_id: str
    name: str | None
    outcome: str
    reason: str | None = None


async def import_pages(
    pool: Pool, graph: GraphClient, tokens: TokenBox, user_token: str, *, only: Collection[str] | None = None
) -> list[Imported]:
    """Add the Pages of a user token, or those of `only` among them, and give known ones their new tokens.

    The user token itself is not kept. Known ones become active again, as when they are added one by one.

    Raises:
        PageRefusedError: Graph refuses the token, can't be asked, or does not list one of `only`; what was read until
            then is added.

    """
    done: dict[str, Imported] = {}
    async for row in _listed(graph, user_token):
        page_id, name = row.get("id"), row.get("name")
        if not isinstance(page_id, str) or not page_id or (only is not None and page_id not in only):
            continue
        name = name if isinstance(name, str) and name else None
        done[page_id] = await _take(pool, tokens, page_id, name, row)
    missing = sorted(set(only or ()) - done.keys())
    if missing:
        raise PageRefusedError(f"Graph does not list these Pages for this token: {', '.join(missing)}", "page_ids")
    return [done[page_id] for page_id in sorted(done)]


async def _take(pool: Pool, tokens: TokenBox, page_id: str, name: str | None, row: dict[str, Any]) -> Imported:
    token, tasks = row.get("access_token"), row.get("tasks")
    if not isinstance(token, str) or not token:
        return Imported(page_id, name, "skipped", "Graph gives no token of it")
    if isinstance(tasks, list) and not TASKS & {str(task) for task in tasks}:
        return Imported(page_id, name, "skipped", "the person lacks the task MESSAGING on it")
    try:
        async with pool.acquire() as connection:
            is_new = await put_page(connection, page_id, tokens.seal(token), name, now=datetime.now(UTC))
    except PageBusyError as error:
        return Imported(page_id, name, "skipped", str(error))
    return Imported(page_id, name, "added" if is_new else "updated")


async def _listed(graph: GraphClient, user_token: str) -> AsyncIterator[dict[str, Any]]:
    cursors, after = Cursors(), None
    while True:
        params: dict[str, str | int] = {"fields": FIELDS, "limit": AT_ONCE}
        if after is not None:
            params["after"] = after
        with asked("user_access_token"):
            answer = await graph.get(user_token, "me", "me/accounts", params)
            rows, after = rows_of(answer.data), next_cursor(answer.data)
            cursors.follow(after)
        for row in rows:
            if isinstance(row, dict):
                yield row
        if after is None:
            return
