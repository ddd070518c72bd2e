"""All of `/api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.api import backfills, conversations, deliveries, loss, pages, runs, syncs

if TYPE_CHECKING:
    from starlette.routing import Route


def api_routes() -> list[Route]:
    """Every route under `/api`, in the order in which they are tried."""
    modules = (syncs, conversations, backfills, runs, pages, loss, deliveries)
    return [route for module in modules for route in module.routes()]
