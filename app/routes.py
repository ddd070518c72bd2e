"""Every route that the application serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.routing import Mount

from app.api.door import Door
from app.api.routes import api_routes
from app.documentation import documentation
from app.endpoint import on_their_paths
from app.facebook.endpoints import FACEBOOK
from app.health import HEALTH
from app.webhook.endpoints import WEBHOOK

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from app.endpoint import Endpoint

API = "/api"


def open_endpoints() -> list[Endpoint]:
    """What asks for no key: Facebook signs, and the rest tells nothing of anybody."""
    return [*WEBHOOK, *FACEBOOK, *HEALTH, *documentation(all_endpoints)]


def all_routes() -> list[BaseRoute]:
    """The routes, in the order in which they are tried: the one under load first."""
    api = Mount(API, routes=on_their_paths(api_routes()), middleware=[Middleware(Door)])
    return [*on_their_paths(open_endpoints()), api]


def all_endpoints() -> list[tuple[str, Endpoint]]:
    """Every endpoint with what stands before its path."""
    return [*(("", endpoint) for endpoint in open_endpoints()), *((API, endpoint) for endpoint in api_routes())]
