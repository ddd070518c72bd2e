"""All of `/api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.api import (
    backfills,
    changes,
    conversations,
    deliveries,
    facebook_requests,
    keys,
    loss,
    pages,
    runs,
    syncs,
    tags,
)

if TYPE_CHECKING:
    from app.endpoint import Endpoint

_MODULES = (syncs, tags, conversations, changes, backfills, runs, pages, loss, deliveries, facebook_requests, keys)


def api_routes() -> list[Endpoint]:
    """Every route under `/api`, in the order in which they are tried."""
    return [endpoint for module in _MODULES for endpoint in module.ENDPOINTS]
