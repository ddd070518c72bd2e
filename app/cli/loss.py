"""`loss`: what webhooks missed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from app.api.loss import loss_report
from app.cli.session import console, instant, opened, print_table, read_settings
from app.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def loss(
    page_id: Annotated[str | None, typer.Argument(help="every Page when absent")] = None,
    since: Annotated[
        str | None, typer.Option(help="sent from this time on (ISO 8601, UTC); default: a day ago")
    ] = None,
    until: Annotated[str | None, typer.Option(help="and before this time; default: now")] = None,
) -> None:
    """Show per Page and hour what was sent, came by webhook, was missed and repaired, and how late."""
    now = datetime.now(UTC)
    end = instant(until) or now
    first = instant(since) or end - timedelta(days=1)
    if first >= end:
        raise typer.BadParameter("--until must be later than --since")
    settings = read_settings(DatabaseSettings)

    async def work() -> dict[str, Any]:
        async with opened(settings) as pool:
            return await loss_report(pool, since=first, until=end, page_id=page_id, now=now)

    report = asyncio.run(work())
    columns = ("sent", "by_webhook", "missed", "repaired", "late", "undecided")
    table = Table(
        "page_id", "hour (UTC)", *(c.replace("_", " ") for c in columns), "loss %", "webhook late", "repair late"
    )
    for row in report["data"]:
        table.add_row(
            row["page_id"],
            f"{row['hour']:%Y-%m-%d %H:%M}",
            *(str(row[c]) for c in columns),
            "" if row["loss_percent"] is None else f"{row['loss_percent']:.2f}",
            _lateness(row["webhook_lateness"]),
            _lateness(row["repair_lateness"]),
        )
    print_table(table)
    for window in report["outages"]:
        console.print(
            f"outage of {window['page_id']}: {window['began_at']:%Y-%m-%d %H:%M:%S} to {window['ended_at']:%H:%M:%S}, "
            f"{window['missed']} missed, {window['repaired']} repaired"
        )


def _lateness(seconds: Mapping[str, float] | None) -> str:
    return " / ".join(f"{seconds[name]:.1f} s" for name in ("p50", "p95", "max")) if seconds else ""
