"""`replay`: read journaled deliveries again."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID  # noqa: TC003 - typer reads the annotation

import typer

from app.cli.session import console, instant, opened, read_settings
from app.replay import replay as replay_deliveries
from app.settings import DatabaseSettings
from sql.deliveries import JournalFilter


def replay(
    dead: Annotated[bool, typer.Option("--dead", help="only deliveries that hold dead letters")] = False,  # noqa: FBT002 - a flag
    delivery: Annotated[list[UUID] | None, typer.Option("--id", help="this delivery; may be repeated")] = None,
    since: Annotated[str | None, typer.Option(help="received from this time on (ISO 8601, UTC)")] = None,
    until: Annotated[str | None, typer.Option(help="received before this time")] = None,
) -> None:
    """Turn journaled deliveries into rows again: dead letters, a time range, or single ones. Repeating it is harmless.

    Exits with 1 when dead letters remain.
    """
    if not dead and delivery is None and since is None and until is None:
        raise typer.BadParameter("say what to replay: --dead, --id, or a time range with --since and --until")
    first, end = instant(since), instant(until)
    if first is not None and end is not None and first >= end:
        raise typer.BadParameter("--until must be later than --since")
    which = JournalFilter(
        only_dead=dead,
        since=first,
        until=end,
        ids=tuple(delivery) if delivery is not None else None,
    )
    settings = read_settings(DatabaseSettings)

    async def work() -> int:
        async with opened(settings) as pool:
            done = await replay_deliveries(pool, which)
        console.print(
            f"{done.deliveries} deliveries replayed: {done.inserted} rows new, {done.updated} changed; "
            f"{done.still_dead} still hold dead letters"
        )
        return done.still_dead

    if asyncio.run(work()):
        raise typer.Exit(1)
