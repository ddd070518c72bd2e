"""The real application with routes to compare it with, in a process of its own.

- `/bench/noop`: the same endpoint, which checks the signature and reads the JSON, and writes nothing;
- `/bench/rows`: the same, which also turns the items into rows;
- `/bench/each`: the same endpoint with a transaction per request, as one writes it: a statement per table;
- `/bench/call`: the same, with all of the transaction in the one call that groups are written with;
- `/bench/fed`: groups, as the product writes them;
- `/bench/unfed`: the same in every way, but that what it tells the feed of changes goes nowhere.
"""

from __future__ import annotations

import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.routing import Route

from app.asgi import INGEST_CONNECTIONS, make_app
from app.collector import calm_collector
from app.logs import configure_logging
from app.settings import Settings
from app.webhook.delivery_reader import DeliveryReader
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.receiver import Receiver
from sql.deliveries import journal_deliveries
from sql.ingest import Ingest, Ingestor
from sql.json_values import loads
from sql.pool import open_pool
from sql.rows import Rows
from sql.upsert import upsert
from tests.bench.feed import UNFED_PATH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

    from app.webhook.projection import Door
    from sql.pool import Pool
    from sql.spool import Spool


class _Unread(Durable):
    """Reads the JSON, makes no rows of it, and writes nothing."""

    async def keep(self, door: Door, body: bytes, *, began: float | None = None) -> Ingest | None:  # noqa: ARG002
        loads(body)
        return None


class _Unwritten(Durable):
    """Makes rows, and writes nothing."""

    async def keep(self, door: Door, body: bytes, *, began: float | None = None) -> Ingest | None:  # noqa: ARG002
        return await self._reader.read(door, body)


class _Each(Durable):
    """A transaction per request, a statement per table."""

    pool: Pool

    async def keep(self, door: Door, body: bytes, *, began: float | None = None) -> Ingest | None:  # noqa: ARG002
        delivery = await self._reader.read(door, body)
        rows = Rows()
        for item in delivery.items:
            rows.add(item.rows)
        async with self.pool.acquire() as connection, connection.transaction():
            await journal_deliveries(connection, [delivery.delivery()])
            await upsert(connection, rows)
        return delivery


class _Call(Durable):
    """A transaction per request, in one call."""

    ingestor: Ingestor

    async def keep(self, door: Door, body: bytes, *, began: float | None = None) -> Ingest | None:  # noqa: ARG002
        delivery = await self._reader.read(door, body)
        await self.ingestor.write([delivery])
        return delivery


@asynccontextmanager
async def _groups(dsn: str, spool: Spool, search_path: str) -> AsyncIterator[Durable]:
    """Groups with connections of their own, which look for functions along a path of schemas."""
    settings = {"search_path": search_path}
    async with (
        open_pool(dsn, min_size=0, max_size=INGEST_CONNECTIONS, server_settings=settings) as pool,
        GroupCommit(Ingestor(pool)) as group_commit,
    ):
        yield Durable(group_commit, spool, DeliveryReader())


class _Endpoint:
    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"][self._name](scope, receive, send)


def bench_app(settings: Settings, dsn: str) -> Starlette:
    """Build the product's application on a database and put the routes for comparison beside its own."""
    app = make_app(settings)
    own = app.router.lifespan_context
    known: dict[str, Any] = {"secrets": settings.app_secrets, "verify_tokens": settings.verify_tokens}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            state = await stack.enter_async_context(own(app))
            assert state is not None
            ingestor = Ingestor(state["pool"])
            parts = GroupCommit(ingestor), state["spool"], DeliveryReader()
            each, call = _Each(*parts), _Call(*parts)
            each.pool, call.ingestor = state["pool"], ingestor
            fed, unfed = [
                await stack.enter_async_context(_groups(dsn, state["spool"], path)) for path in ("public", UNFED_PATH)
            ]
            yield {
                **state,
                "noop": Receiver(_Unread(*parts), **known),
                "rows": Receiver(_Unwritten(*parts), **known),
                "each": Receiver(each, **known),
                "call": Receiver(call, **known),
                "fed": Receiver(fed, **known),
                "unfed": Receiver(unfed, **known),
            }

    app.router.lifespan_context = lifespan
    for name in ("noop", "rows", "each", "call", "fed", "unfed"):
        app.router.routes.insert(0, Route(f"/bench/{name}", _Endpoint(name), methods=["GET", "POST"]))
    return app


def main() -> None:
    """Serve on the listening socket whose descriptor is the first argument, with settings from the environment.

    The second one is the address of the database that those settings lead to.
    """
    settings = Settings()
    configure_logging(settings.log_level)
    config = uvicorn.Config(
        bench_app(settings, sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
    )
    calm_collector()
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
