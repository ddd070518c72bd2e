"""Metrics that are read from the database when somebody asks. Every process tells the same of them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from sql.numbers import Numbers, read_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sql.pool import Pool

log = structlog.get_logger(__name__)

MOST_PAGES = 20  # that get a label: the furthest behind, and those with the least left of their budgets
KEPT_SECONDS = 5.0
WITHIN_SECONDS = 2.0


class DatabaseNumbers:
    """Reads the numbers, at most every few seconds, and never waits long: whoever watches must not hang."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._clock = pool, clock
        self._text = b""
        self._read_at = float("-inf")

    async def text(self) -> bytes:
        """Return them as Prometheus reads them; only that the database is away, where it is."""
        if self._clock() - self._read_at < KEPT_SECONDS:
            return self._text
        # a task of its own: cancelling a query waits for the server's word, and a server that stands still has none
        reading = asyncio.create_task(self._read())
        done, _ = await asyncio.wait({reading}, timeout=WITHIN_SECONDS)
        numbers = None
        if not done:
            reading.add_done_callback(_ignore_outcome)
            reading.cancel()
        elif reading.exception() is None:
            numbers = reading.result()
        else:
            log.warning("numbers_not_read", reason=type(reading.exception()).__name__)
        registry = CollectorRegistry()
        registry.register(_Told(numbers))
        self._text, self._read_at = generate_latest(registry), self._clock()
        return self._text

    def forget(self) -> None:
        """Read them anew when somebody asks next."""
        self._read_at = float("-inf")

    async def _read(self) -> Numbers:
        async with self._pool.acquire() as connection:
            return await read_numbers(connection, most=MOST_PAGES)


def _ignore_outcome(reading: asyncio.Task[Numbers]) -> None:
    if not reading.cancelled():
        reading.exception()


class _Told:
    """The numbers as metrics."""

    def __init__(self, numbers: Numbers | None) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Give each metric with its samples."""
        numbers = self._numbers
        yield GaugeMetricFamily(
            "mirror_database_answers", "1 when the database answered in time", value=float(numbers is not None)
        )
        if numbers is None:
            return
        pages = GaugeMetricFamily("mirror_pages", "Pages by state", labels=["state"])
        for state in ("active", "paused", "needs_reauth"):
            pages.add_metric([state], numbers.pages.get(state, 0))
        yield pages
        runs = GaugeMetricFamily("mirror_runs", "Sync runs that wait or go on", labels=["kind", "state"])
        for kind in ("incremental", "full", "backfill", "audit"):
            for state in ("queued", "running"):
                runs.add_metric([kind, state], numbers.runs.get((kind, state), 0))
        yield runs
        yield from _of_pages("lag_seconds", "Seconds since an active Page's last sync that succeeded", numbers.lag)
        yield from _of_pages(
            "budget_used_ratio", "Which part of its daily calls of Graph a Page has used", numbers.budget
        )
        yield from _of_pages(
            "failing_conversations", "Conversations that could not be read when the last run ended", numbers.failing
        )
        yield GaugeMetricFamily(
            "mirror_erasures_open", "Erased persons whom the journal may still hold", value=numbers.erasures
        )
        yield GaugeMetricFamily("mirror_page_erasures_open", "Pages being erased", value=numbers.page_erasures)
        yield GaugeMetricFamily(
            "mirror_deletion_requests_unmatched",
            "Requests that a person's data go for which Facebook does not tell who it is",
            value=numbers.unmatched,
        )
        yield GaugeMetricFamily(
            "mirror_changes_horizon_lag_seconds",
            "For how long the oldest change that is not told yet waits for a transaction that goes on",
            value=numbers.held_changes,
        )


def _of_pages(name: str, text: str, values: dict[str, float]) -> Iterable[GaugeMetricFamily]:
    each = GaugeMetricFamily(f"mirror_page_{name}", f"{text}: the {MOST_PAGES} worst", labels=["page_id"])
    for page_id, value in values.items():
        each.add_metric([page_id], value)
    yield each
    yield GaugeMetricFamily(f"mirror_pages_{name}_max", f"{text}: the worst", value=max(values.values(), default=0.0))
