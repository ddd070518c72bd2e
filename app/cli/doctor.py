"""`doctor`: look over an installation."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.cli.session import console, opened, read_settings
from app.doctor import Finding, Verdict, examine_database, examine_page, examine_spool, probe
from app.reconciling import graph_client
from app.settings import Settings
from reconciler.tokens import TokenBox
from sql.pages import list_pages

_STYLES = {Verdict.FINE: "green", Verdict.NOTE: "cyan", Verdict.WRONG: "bold red"}


def doctor(
    page_id: Annotated[
        str | None, typer.Argument(help="this Page, and what its Graph can do; every Page's state when absent")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="also try the service at its public address, such as https://your.host")
    ] = None,
) -> None:
    """Look at settings, spool, database, clocks, tokens, scopes and webhooks. Exits with 1 when something is wrong."""
    settings = read_settings(Settings)

    async def work() -> bool:
        spool = await asyncio.to_thread(examine_spool, settings, datetime.now(UTC))
        good = _show("installation", [Finding(Verdict.FINE, "settings", "complete"), *spool])
        # only then: while the database is away, the spool is what one wants to see
        async with opened(settings) as pool, graph_client(settings) as graph:
            good &= _show("database", await examine_database(pool))
            if url is not None:
                good &= _show(url, await probe(settings, url))
            async with pool.acquire() as connection:
                pages = [page_id] if page_id is not None else [p["page_id"] for p in await list_pages(connection)]
            tokens = TokenBox(settings.encryption_keys)
            for page in pages:
                found = await examine_page(pool, graph, tokens, settings, page, asks=page_id is not None)
                good &= _show(f"Page {page}", found)
            return good

    if not asyncio.run(work()):
        raise typer.Exit(1)


def _show(title: str, findings: list[Finding]) -> bool:
    """Print findings; returns whether nothing is wrong."""
    console.print(title, style="bold")
    for finding in findings:
        console.print(f"  {finding.verdict.value:5}", style=_STYLES[finding.verdict], end=" ")
        console.print(f"{finding.name}: {finding.text}", highlight=False)
    return all(finding.verdict is not Verdict.WRONG for finding in findings)
