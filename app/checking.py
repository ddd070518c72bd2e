"""Ask Graph whether a Page's token works and its webhooks are subscribed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.graph.errors import GraphError
from reconciler.tokens import TokenUnreadableError
from sql.pages import read_page

if TYPE_CHECKING:
    from reconciler.graph.client import GraphClient
    from reconciler.tokens import TokenBox
    from sql.pool import Pool

# what a full mirror needs (webhooks sheet, section 5); the rest of the catalogue is welcome, not needed
NEEDED_FIELDS = frozenset(
    {
        "messages",
        "message_echoes",
        "message_edits",
        "message_reactions",
        "message_reads",
        "message_deliveries",
        "messaging_postbacks",
        "standby",
    }
)


async def check_page(
    pool: Pool, graph: GraphClient, tokens: TokenBox, page_id: str, *, app_id: str | None
) -> list[str]:
    """Return what is wrong with a Page, each with what to do; nothing when all is well."""
    async with pool.acquire() as connection:
        page = await read_page(connection, page_id)
    if page is None:
        return ["it is not known, or was removed"]
    try:
        token = tokens.open(page.token_encrypted)
        me = await graph.get(token, page_id, "me", {"fields": "id"})
        apps = await graph.get(token, page_id, f"{page_id}/subscribed_apps", {})
    except TokenUnreadableError as error:
        return [str(error)]
    except GraphError as error:
        return [f"Graph refuses: {error}"]
    troubles = [] if me.data.get("id") == page_id else [f"its token is of Page {me.data.get('id')}: add it again"]
    missing = NEEDED_FIELDS - _subscribed(apps.data, app_id)
    if missing:
        troubles.append(
            f"webhooks not subscribed: {', '.join(sorted(missing))} "
            f"(POST /{page_id}/subscribed_apps?subscribed_fields=..., with the Page's token)"
        )
    return troubles


def _subscribed(answer: dict[str, Any], app_id: str | None) -> set[str]:
    """Fields that our app, or any where it has no id here, is subscribed to."""
    apps = answer.get("data")
    fields: set[str] = set()
    for app in apps if isinstance(apps, list) else []:
        if isinstance(app, dict) and (app_id is None or str(app.get("id")) == app_id):
            listed = app.get("subscribed_fields")
            fields.update(map(str, listed if isinstance(listed, list) else []))
    return fields
