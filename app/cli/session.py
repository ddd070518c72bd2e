"""What a command needs to work on the database beside a running service, or without one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Console

from app.database import migrated_database
from app.logs import configure_logging
from app.settings import AnySettings, DatabaseSettings, load_settings
from sql.pool import Pool, open_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rich.table import Table

    from sql.upsert import Connection

AnyResult = TypeVar("AnyResult")

console = Console(markup=False)  # what is printed holds names and Meta's words, in brackets too
WIDTH = 160  # a row with its Page's whole id: a narrower terminal breaks it, which is better than "10..."


def read_settings(kind: type[AnySettings]) -> AnySettings:
    """Read the settings. A command says itself what came of it: it logs only at LOG_LEVEL=debug.

    Raises:
        SettingsError: one is missing or wrong.

    """
    settings = load_settings(kind)
    configure_logging(settings.log_level if settings.log_level == "debug" else "critical")
    return settings


def print_table(table: Table) -> None:
    """Print a table with all that its cells hold."""
    Console(width=max(console.width, WIDTH), markup=False).print(table)


@asynccontextmanager
async def opened(settings: DatabaseSettings) -> AsyncIterator[Pool]:
    """Open the database, brought to this version's schema."""
    async with migrated_database(settings) as dsn, open_pool(dsn, min_size=1, max_size=8) as pool:
        yield pool


def ask_database(question: Callable[[Connection], Awaitable[AnyResult]]) -> AnyResult:
    """Ask the database one thing, where a command needs nothing else.

    Raises:
        SettingsError: one is missing or wrong.

    """
    settings = read_settings(DatabaseSettings)

    async def work() -> AnyResult:
        async with opened(settings) as pool, pool.acquire() as connection:
            return await question(connection)

    return asyncio.run(work())


def written(at: datetime | None, *, if_none: str = "") -> str:
    """Write a time for a cell of a table."""
    return at.isoformat(sep=" ", timespec="seconds") if at else if_none


def instant(text: str | None) -> datetime | None:
    """Read a time of the command line: ISO 8601, in UTC unless it says otherwise.

    Raises:
        typer.BadParameter: it is none.

    """
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time: write 2026-01-31 or 2026-01-31T18:00:00Z") from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value
