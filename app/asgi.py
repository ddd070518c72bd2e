"""The web application: its routes, and the lifespan that makes every resource and hands it down."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

import asyncpg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from app import metrics
from app.arrival import arrival
from app.collector import calm_collector
from app.database import held_database
from app.ending import note_failure, told_to_end
from app.erasing import EVERY_SECONDS as ERASING_EVERY_SECONDS
from app.erasing import JournalEraser
from app.facebook.requests import EVERY_SECONDS as REQUESTS_EVERY_SECONDS
from app.facebook.requests import FacebookRequests
from app.housekeeping import EVERY_SECONDS as HOUSEKEEPING_EVERY_SECONDS
from app.housekeeping import Housekeeping
from app.keys import KeyRing
from app.lateness import note_lateness
from app.logs import configure_logging
from app.newest import Newest
from app.numbers import DatabaseNumbers
from app.problems import ProblemError, on_database_error, on_failure, on_http_error, on_problem
from app.rate import Rate
from app.reconciling import graph_client, reconciler
from app.removing import EVERY_SECONDS as REMOVING_EVERY_SECONDS
from app.removing import PageEraser
from app.routes import all_routes
from app.settings import Settings, load_settings
from app.webhook.delivery_reader import DeliveryReader
from app.webhook.drain import ADOPT_EVERY_SECONDS, Drain
from app.webhook.drain import EVERY_SECONDS as DRAIN_EVERY_SECONDS
from app.webhook.durable import Durable
from app.webhook.group_commit import GroupCommit
from app.webhook.last_seen import EVERY_SECONDS as LAST_SEEN_EVERY_SECONDS
from app.webhook.last_seen import LastSeen
from app.webhook.receiver import Receiver
from app.webhook.redaction import redacted
from app.words import EVERY_SECONDS as WORDS_EVERY_SECONDS
from app.words import Words
from reconciler.downtime import EVERY_SECONDS as HEARTBEAT_EVERY_SECONDS
from reconciler.downtime import Heartbeat
from reconciler.schedule import Job, scheduled
from reconciler.tokens import TokenBox
from sql.ingest import Ingestor
from sql.pool import Pool, open_pool
from sql.spool import Spool

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from reconciler.graph.client import GraphClient
    from reconciler.worker import Worker
    from sql.ingest import Ingest

INGEST_CONNECTIONS = 3  # of its own: no reader and no sync run can keep a webhook waiting for a connection
OTHER_CONNECTIONS = 12


class State(TypedDict):
    """What requests find in `request.state`."""

    settings: Settings
    pool: Pool
    receiver: Receiver
    spool: Spool
    keys: KeyRing
    rate: Rate
    numbers: DatabaseNumbers
    newest: Newest
    graph: GraphClient
    tokens: TokenBox
    worker: Worker | None
    arrived: asyncio.Event
    ending: asyncio.Event


def make_app(settings: Settings) -> Starlette:
    """Build the application; nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            try:
                state = await stack.enter_async_context(resources(settings))
            except Exception as error:
                note_failure(error)
                raise
            yield state

    return Starlette(
        routes=all_routes(),
        exception_handlers={
            ProblemError: on_problem,
            HTTPException: on_http_error,
            **dict.fromkeys((asyncpg.PostgresError, asyncpg.InterfaceError, OSError), on_database_error),
            Exception: on_failure,
        },
        lifespan=lifespan,
    )


@asynccontextmanager
async def resources(settings: Settings) -> AsyncIterator[State]:
    """Open everything, in the order in which it is needed, and close it the other way round.

    Raises:
        DatabaseError, MigrationError, EmbeddedPostgresError: the start can't go on.

    """
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(held_database(settings))
        spool = await stack.enter_async_context(Spool(settings.spool_folder, max_bytes=settings.spool_max_bytes))
        # no connection is made before one is needed: the database may not be there yet
        pool = await stack.enter_async_context(open_pool(dsn, min_size=0, max_size=OTHER_CONNECTIONS))
        ingest_pool = await stack.enter_async_context(open_pool(dsn, min_size=0, max_size=INGEST_CONNECTIONS))
        last_seen, reader = LastSeen(pool), DeliveryReader()
        ingestor = Ingestor(ingest_pool, redacted=redacted, on_refused=metrics.DEAD_LETTERS.inc)
        durable = Durable(GroupCommit(ingestor), spool, reader, is_away=True)

        def note(stored: Ingest) -> None:
            last_seen.note(stored)
            note_lateness(stored)

        drain = Drain(spool, ingest_pool, ingestor, reader, durable, on_stored=note)
        await stack.enter_async_context(drain)
        await stack.enter_async_context(durable.group_commit)
        graph = await stack.enter_async_context(graph_client(settings))
        tokens = TokenBox(settings.encryption_keys)
        housekeeping = Housekeeping(
            pool, retention_days=settings.journal_retention_days, changes_days=settings.changes_retention_days
        )
        heartbeat = Heartbeat(pool, "receiver", interval=timedelta(seconds=settings.sync_interval_seconds))
        requests = FacebookRequests(pool, graph, tokens, settings)
        jobs = [
            Job("heartbeat", heartbeat.run_once, HEARTBEAT_EVERY_SECONDS),
            Job("journal", housekeeping.run_once, HOUSEKEEPING_EVERY_SECONDS),
            Job("erasures", JournalEraser(pool).run_once, ERASING_EVERY_SECONDS),
            Job("facebook-requests", requests.run_once, REQUESTS_EVERY_SECONDS),
            Job("page-erasures", PageEraser(pool).run_once, REMOVING_EVERY_SECONDS),
            Job("words", Words(pool).run_once, WORDS_EVERY_SECONDS),
            Job("last-seen", last_seen.run_once, LAST_SEEN_EVERY_SECONDS),
            Job("spool", drain.run_once, DRAIN_EVERY_SECONDS),
            Job("spool-adopt", spool.adopt, ADOPT_EVERY_SECONDS),
        ]
        reconciling = None
        if settings.reconciler_enabled:
            reconciling = await stack.enter_async_context(reconciler(settings, pool, graph, tokens))
            jobs += reconciling.jobs

        @asynccontextmanager
        async def live() -> AsyncIterator[None]:
            """Do what needs the database."""
            await housekeeping.run_once()
            await heartbeat.run_once()
            await drain.run_once()
            if reconciling is not None:
                await reconciling.begin()
            async with scheduled(jobs):
                yield

        yield State(
            settings=settings,
            pool=pool,
            receiver=Receiver(
                durable,
                secrets=settings.app_secrets,
                verify_tokens=settings.verify_tokens,
                on_stored=note,
            ),
            spool=spool,
            keys=KeyRing(pool, settings.api_keys),
            rate=Rate(settings.api_requests_per_second),
            numbers=DatabaseNumbers(pool),
            newest=Newest(pool),
            graph=graph,
            tokens=tokens,
            worker=reconciling.worker if reconciling is not None else None,
            arrived=await stack.enter_async_context(arrival(dsn, live)),
            ending=stack.enter_context(told_to_end()),
        )


def from_environment() -> Starlette:
    """Build the application from the environment: what `serve` gives to uvicorn."""
    settings = load_settings(Settings)
    configure_logging(settings.log_level)
    app = make_app(settings)
    calm_collector()
    return app
