"""What a command needs to work on the database beside a running service, or without one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from app.database import migrated_database
from app.logs import configure_logging
from app.settings import AnySettings, load_settings
from sql.pool import Pool, open_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.settings import DatabaseSettings

console = Console()


def read_settings(kind: type[AnySettings]) -> AnySettings:
    """Read the settings, and log only what a person at a terminal has to know.

    Raises:
        SettingsError: one is missing or wrong.

    """
    settings = load_settings(kind)
    configure_logging("warning" if settings.log_level == "info" else settings.log_level)
    return settings


@asynccontextmanager
async def opened(settings: DatabaseSettings) -> AsyncIterator[Pool]:
    """Open the database, brought to this version's schema."""
    async with migrated_database(settings) as dsn, open_pool(dsn, min_size=1, max_size=8) as pool:
        yield pool


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
