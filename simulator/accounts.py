"""Tokens, Pages of a user, and the subscription of webhooks (Graph sheet, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from simulator.cursors import new_cursor, read_cursor
from simulator.graph_errors import bad_parameter, bad_token, no_such_field
from simulator.items import ALL_FIELDS
from simulator.objects import CATEGORY
from simulator.reading import read_fields

if TYPE_CHECKING:
    from simulator.page import Page
    from simulator.reading import Window
    from simulator.world import World

_TASKS = ["ANALYZE", "ADVERTISE", "MESSAGING", "MODERATE", "CREATE_CONTENT", "MANAGE"]
_ACCOUNT_FIELDS = ("access_token", "category", "name", "id", "tasks")
_SCOPES = ["pages_show_list", "pages_messaging", "pages_manage_metadata", "pages_read_engagement"]


def me_accounts(world: World, window: Window, source: str | None, base: str) -> dict[str, Any]:
    """`GET /me/accounts` with a user's token: all Pages, with the fields of `source`. Links begin with `base`.

    Raises:
        GraphFailure: 100, a field that Pages do not have.

    """
    names = [field.name for field in read_fields(source)] or list(_ACCOUNT_FIELDS)
    for name in names:
        if name not in _ACCOUNT_FIELDS:
            raise no_such_field(name, "Page")
    now, limit = int(world.now().timestamp()), window.limit
    start = read_cursor(window.after, "accounts", now, max_age=None)[0] if window.after is not None else 0
    rows = world.pages[start : start + limit]
    accounts = [
        {"access_token": p.access_token, "category": CATEGORY, "name": p.name, "id": p.id, "tasks": _TASKS}
        for p in rows
    ]
    data = [{name: account[name] for name in dict.fromkeys([*names, "id"])} for account in accounts]
    if not rows:
        return {"data": data}
    before, after = (new_cursor("accounts", [n], now) for n in (start, start + limit))
    paging: dict[str, Any] = {"cursors": {"before": before, "after": after}}
    if start + limit < len(world.pages):
        query = {"access_token": world.user_token, "pretty": "0", "limit": str(limit), "after": after}
        if source:
            query["fields"] = source
        paging["next"] = f"{base}/me/accounts?{urlencode(query)}"
    return {"data": data, "paging": paging}


def debug_token(
    world: World, app_id: str, app_secret: str | None, params: dict[str, str], token: str | None
) -> dict[str, Any]:
    """`GET /debug_token?input_token=` with the app's token, APPID|SECRET, or one of its users'."""
    asked_by, _, secret = (token or "").partition("|")
    is_app = asked_by == app_id and bool(secret) and secret == (app_secret or secret)
    pages = {page.access_token: page for page in world.pages}
    if not is_app and token != world.user_token and token not in pages:
        raise bad_token()
    given = params.get("input_token")
    if given is None:
        raise bad_parameter("The parameter input_token is required")
    data: dict[str, Any] = {"app_id": app_id, "application": "messenger-mirror", "scopes": _SCOPES}
    page = pages.get(given)
    if page is None and given != world.user_token:
        error = {"code": 190, "message": "Invalid OAuth access token - Cannot parse access token"}
        return {"data": {"error": error, "is_valid": False, "scopes": []}}
    data |= {"type": "USER", "is_valid": True, "expires_at": 0, "user_id": "10215241773831025"}
    data["data_access_expires_at"] = int(world.now().timestamp()) + 90 * 86_400
    targets = [page.id] if page is not None else [page.id for page in world.pages]
    data["granular_scopes"] = [{"scope": scope, "target_ids": targets} for scope in _SCOPES]
    if page is not None:
        data |= {"type": "PAGE", "profile_id": page.id}
        if page.dead_token is not None:
            data["is_valid"] = False
            data["error"] = bad_token(page.dead_token).error
    return {"data": data}


def subscribed_apps(page: Page, app_id: str, method: str, params: dict[str, str]) -> dict[str, Any]:
    """`/{page}/subscribed_apps`: GET tells, POST replaces the fields, DELETE ends the subscription."""
    if method == "DELETE":
        page.subscribed_fields = None
        return {"success": True}
    if method == "POST":
        fields = [name for name in params.get("subscribed_fields", "").split(",") if name]
        if not fields:
            raise bad_parameter("The parameter subscribed_fields is required")
        for n, name in enumerate(fields):
            if name not in ALL_FIELDS:
                known = ", ".join(ALL_FIELDS)
                raise bad_parameter(f'Param subscribed_fields[{n}] must be one of {{{known}}} - got "{name[:40]}"')
        page.subscribed_fields = set(fields)
        return {"success": True}
    if page.subscribed_fields is None:
        return {"data": []}
    app = {"id": app_id, "name": "messenger-mirror", "link": "https://www.facebook.com/games/"}
    return {"data": [{**app, "subscribed_fields": sorted(page.subscribed_fields)}]}
