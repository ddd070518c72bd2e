"""`sync`, `backfill`, `audit`: ask for runs, work on them beside whatever service is running, show how they go."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli.session import console, instant, opened, print_table, read_settings
from app.reconciling import graph_client, new_worker
from app.settings import Settings
from reconciler.tokens import TokenBox
from sql.backfills import create_backfill, runs_of_backfill
from sql.pages import list_pages
from sql.sync_runs import ENDED, enqueue_run, show_runs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from sql.upsert import Connection

LOOK_EVERY_SECONDS = 0.25
Pages = Annotated[list[str] | None, typer.Argument(metavar="[PAGE_ID]...", help="every active Page when absent")]


def sync(
    page_ids: Pages = None,
    mode: Annotated[Literal["incremental", "full"], typer.Option(help="full: the whole list")] = "incremental",
) -> None:
    """Sync Pages now and wait for it. Exits with 1 when one failed."""
    _run(partial(_enqueue, page_ids, mode), _table)


def audit(page_ids: Pages = None) -> None:
    """Compare all of Pages with Graph, repair what differs, and wait for it. Exits with 1 when one failed."""
    _run(partial(_enqueue, page_ids, "audit"), _table, _findings)


def backfill(
    since: Annotated[str, typer.Option(help="read again what was sent from this time on (ISO 8601, UTC)")],
    until: Annotated[str | None, typer.Option(help="and before this time; now when absent")] = None,
    page_ids: Pages = None,
) -> None:
    """Read a window of the past again and wait for it. Exits with 1 when a Page failed."""
    first, end = instant(since), instant(until)
    if first is None or first > datetime.now(UTC):
        raise typer.BadParameter("--since lies in the future")
    if end is not None and end <= first:
        raise typer.BadParameter("--until must be later than --since")
    backfill_id = uuid4()

    async def ask(connection: Connection) -> list[int]:
        pages = await _chosen(connection, page_ids)
        await create_backfill(connection, backfill_id, pages, since=first, until=end, requested_by="cli")
        return [run["id"] for run in await runs_of_backfill(connection, backfill_id)]

    _run(ask, _table)


async def _enqueue(page_ids: list[str] | None, kind: str, connection: Connection) -> list[int]:
    pages = await _chosen(connection, page_ids)
    return [await enqueue_run(connection, page_id, kind, requested_by="cli") for page_id in pages]


async def _chosen(connection: Connection, page_ids: list[str] | None) -> list[str]:
    states = {page["page_id"]: page["state"] for page in await list_pages(connection)}
    unknown = sorted(set(page_ids or []) - states.keys())
    if unknown:
        raise typer.BadParameter(f"no such Pages: {', '.join(unknown)} (`messenger-mirror pages list` shows them)")
    chosen = sorted(set(page_ids)) if page_ids else [p for p, state in states.items() if state == "active"]
    if not chosen:
        raise typer.BadParameter("there is no active Page: `messenger-mirror pages add`")
    return chosen


def _run(ask: Callable[[Connection], Awaitable[list[int]]], *tables: Callable[[list[asyncpg.Record]], Table]) -> None:
    settings = read_settings(Settings)

    async def work() -> list[asyncpg.Record]:
        async with opened(settings) as pool, graph_client(settings) as graph:
            async with pool.acquire() as connection:
                run_ids = await ask(connection)
            async with new_worker(settings, pool, graph, TokenBox(settings.encryption_keys)) as worker:
                with _progress() as progress:
                    task = progress.add_task("", total=len(run_ids))
                    while True:
                        await worker.wake()
                        async with pool.acquire() as connection:
                            runs = await show_runs(connection, run_ids)
                        ended = sum(run["state"] in ENDED for run in runs)
                        progress.update(task, completed=ended, description=_totals(runs))
                        if ended == len(runs):
                            return runs
                        await asyncio.sleep(LOOK_EVERY_SECONDS)

    runs = asyncio.run(work())
    for table in tables:
        print_table(table(runs))
    if any(run["state"] != "succeeded" for run in runs):
        raise typer.Exit(1)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.completed}/{task.total} Pages  {task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _totals(runs: list[asyncpg.Record]) -> str:
    names = ("conversations", "messages", "inserted", "repaired", "api_calls")
    return ", ".join(f"{sum(run[name] for run in runs)} {name.replace('_', ' ')}" for name in names)


def _table(runs: list[asyncpg.Record]) -> Table:
    names = ("page_id", "kind", "state", "conversations", "messages", "inserted", "repaired", "api_calls", "error")
    table = Table(*(name.replace("_", " ") for name in names))
    for run in runs:
        table.add_row(*("" if run[name] is None else str(run[name]) for name in names))
    return table


def _findings(runs: list[asyncpg.Record]) -> Table:
    """What audits found: conversations, then messages, then how much of the Page is verified."""
    names = (
        *("conversations_verified", "conversations_repaired", "conversations_unverifiable"),
        *("messages_restored", "messages_changed", "messages_missing"),
    )
    table = Table("page id", *(name.replace("_", " ") for name in names), "coverage")
    for run in runs:
        found = run["audit"] or {}
        coverage = found.get("coverage")
        numbers = (str(found.get(name, "")) for name in names)
        table.add_row(run["page_id"], *numbers, f"{coverage:.1%}" if coverage is not None else "")
    return table
