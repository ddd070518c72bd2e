"""Ask Graph whether a Page's token works and its webhooks are subscribed, and subscribe what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.graph.errors import GraphError
from reconciler.tokens import TokenUnreadableError
from sql.pages import read_page

if TYPE_CHECKING:
    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from reconciler.watchdog import Watchdog
    from sql.pool import Pool


async def check_page(pool: Pool, graph: GraphClient, tokens: TokenBox, watchdog: Watchdog, page_id: str) -> list[str]:
    """Return what is wrong with a Page and stays so; nothing when all is well."""
    async with pool.acquire() as connection:
        page = await read_page(connection, page_id)
    if page is None:
        return ["it is not known, or was removed"]
    try:
        me = await graph.get(tokens.open(page.token_encrypted), page_id, "me", {"fields": "id"})
    except (TokenUnreadableError, GraphError) as error:
        return [str(error)]
    if me.data.get("id") != page_id:
        return [f"its token is of Page {me.data.get('id')}: add it again"]
    found = await watchdog.check(page_id)
    if found is None:
        return ["its webhook subscription could not be checked: `pages list` says why"]
    if found.refused:
        return [f"Graph refuses to subscribe webhooks of {', '.join(sorted(found.refused))}: {found.error}"]
    return []
