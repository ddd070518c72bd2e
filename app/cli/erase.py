"""`erase`: take out a person's conversation with a Page, for good."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.cli.session import console, instant, opened, read_settings
from app.erasing import Done, JournalEraser
from app.settings import DatabaseSettings


def erase(
    page: Annotated[str, typer.Option(help="the Page's id")],
    psid: Annotated[str, typer.Option(help="the person's id for that Page, or the id of a thread of theirs")],
    before: Annotated[
        str | None, typer.Option(help="erase what was sent before this time (ISO 8601, UTC); now when absent")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="don't ask whether it is meant")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Erase a person: conversation, messages, reactions, events, tags, and their items in the journal's bodies.

    What was sent before then is refused from now on, whichever way it comes again; what is sent later is kept.
    """
    if not page or not psid:
        raise typer.BadParameter("--page and --psid must not be empty")
    settings = read_settings(DatabaseSettings)
    until = instant(before)
    if until is not None and until > datetime.now(UTC):
        raise typer.BadParameter("--before lies in the future")
    if not yes:
        typer.confirm(f"Erase what {psid} and Page {page} wrote each other? It can't be undone", abort=True)

    async def work() -> Done:
        async with opened(settings) as pool:
            return await JournalEraser(pool).erase(page, psid, before=until, requested_by="cli")

    done = asyncio.run(work())
    if not done.erased.was_known:
        console.print(f"nothing was known of {done.erased.psid}; what was sent before is refused from now on")
    console.print(
        f"{done.erased.messages} messages and {done.erased.events} events erased, "
        f"and taken out of {done.deliveries} journaled deliveries; "
        f"refused from now on: what was sent before {done.erased.erased_before:%Y-%m-%d %H:%M:%S} UTC"
    )
