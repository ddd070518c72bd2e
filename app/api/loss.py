"""`/api/loss`: what webhooks missed, when, and how late it was repaired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from app.api.answers.pages import Loss
from app.api.wire import Id, Instant, Json, Shape, check_range, read_query
from app.endpoint import Answer, Endpoint
from app.keys import Role
from app.problems import ProblemError
from sql.loss import MISSED_AFTER, loss_by_hour, outages

if TYPE_CHECKING:
    import asyncpg
    from starlette.requests import Request
    from starlette.responses import Response

    from sql.pool import Pool

LONGEST = timedelta(days=92)
BY_DEFAULT = timedelta(days=1)


class _Query(Shape):
    page_id: Id | None = None
    since: Instant | None = None
    until: Instant | None = None


async def index(request: Request) -> Response:
    """The report of [since, until): by default the last day."""
    query = read_query(request, _Query)
    now = datetime.now(UTC)
    check_range(query.since, query.until)
    until = query.until or now
    since = query.since or until - BY_DEFAULT
    if since >= until:
        raise ProblemError(422, "since lies in the future", field="since")
    if until - since > LONGEST:
        raise ProblemError(422, f"a report covers at most {LONGEST.days} days", field="since")
    return Json(await loss_report(request.state.pool, since=since, until=until, page_id=query.page_id, now=now))


async def loss_report(
    pool: Pool, *, since: datetime, until: datetime, page_id: str | None, now: datetime
) -> dict[str, Any]:
    """Read the report: per Page and hour, and the outage windows. Lateness is in seconds."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        hours = await loss_by_hour(connection, since=since, until=until, page_id=page_id, now=now)
        windows = await outages(connection, since=since, until=until, page_id=page_id, now=now)
    return {
        "since": since,
        "until": until,
        "missed_after_seconds": int(MISSED_AFTER.total_seconds()),
        "data": [_hour(row) for row in hours],
        "outages": windows,
    }


def _hour(row: asyncpg.Record) -> dict[str, Any]:
    shown = dict(row.items())
    for name in ("webhook_lateness", "repair_lateness"):
        values = shown[name]
        shown[name] = dict(zip(("p50", "p95", "max"), values, strict=True)) if values else None
    return shown


ENDPOINTS = [
    Endpoint("GET", "/loss", index, role=Role.READ, query=_Query, answers={200: Answer("the report", Loss)}),
]
