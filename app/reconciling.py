"""What a process that talks to Graph is made of, as the settings say."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from app import metrics
from reconciler.graph.client import GraphClient, new_http_client
from reconciler.repairs import EVERY_SECONDS as DECIDE_EVERY_SECONDS
from reconciler.repairs import Repairs
from reconciler.schedule import Job, Schedule
from reconciler.watchdog import EVERY_SECONDS, Watchdog
from reconciler.worker import Pace, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.settings import Settings
    from reconciler.tokens import TokenBox
    from sql.pool import Pool


class Reconciler(NamedTuple):
    """A worker and what keeps it busy: `begin` first, then the jobs."""

    worker: Worker
    begin: Callable[[], Awaitable[None]]
    jobs: list[Job]


@asynccontextmanager
async def graph_client(settings: Settings) -> AsyncIterator[GraphClient]:
    """Make the Graph client."""
    async with new_http_client() as http:
        yield GraphClient(
            http,
            url=settings.graph_api_url,
            version=settings.graph_api_version,
            app_secret=settings.app_secrets[0],
            calls_per_second=settings.graph_calls_per_second_per_page,
            lag_seconds=settings.graph_lag_seconds,
            on_call=lambda outcome: metrics.GRAPH_CALLS.labels(outcome).inc(),
        )


def new_worker(settings: Settings, pool: Pool, graph: GraphClient, tokens: TokenBox) -> Worker:
    """Make the worker."""
    interval = timedelta(seconds=settings.sync_interval_seconds)
    pace = Pace(interval, timedelta(seconds=settings.sync_overlap_seconds), settings.sync_concurrency)
    return Worker(
        pool,
        graph,
        tokens,
        pace,
        on_end=lambda kind, state: metrics.RUNS.labels(kind, state).inc(),
    )


def new_watchdog(settings: Settings, pool: Pool, graph: GraphClient, tokens: TokenBox) -> Watchdog:
    """Make the watchdog over subscriptions."""
    return Watchdog(
        pool,
        graph,
        tokens,
        app_id=settings.facebook_app_id,
        on_repair=lambda _page_id: metrics.SUBSCRIPTIONS_REPAIRED.inc(),
    )


@asynccontextmanager
async def reconciler(settings: Settings, pool: Pool, graph: GraphClient, tokens: TokenBox) -> AsyncIterator[Reconciler]:
    """Open a worker; its jobs are for the caller to schedule."""
    async with new_worker(settings, pool, graph, tokens) as worker:
        schedule = Schedule(
            pool,
            worker,
            interval=timedelta(seconds=settings.sync_interval_seconds),
            audit_share=settings.audit_budget_share,
        )
        watchdog = new_watchdog(settings, pool, graph, tokens)
        repairs = Repairs(pool, on_missed=metrics.REPAIRED.inc)
        jobs = [
            schedule.job(),
            Job("subscriptions", watchdog.run_once, EVERY_SECONDS),
            Job("repairs", repairs.run_once, DECIDE_EVERY_SECONDS),
        ]
        yield Reconciler(worker, schedule.begin, jobs)
