"""`pages`: which Pages are mirrored."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from app.adding import add_page
from app.checking import check_page
from app.cli.session import console, opened, read_settings
from app.reconciling import graph_client, new_watchdog
from app.settings import DatabaseSettings, Settings
from reconciler.tokens import TokenBox
from sql.pages import list_pages, remove_page

if TYPE_CHECKING:
    import asyncpg

cli = typer.Typer(help="Add, list, check and remove Pages.", no_args_is_help=True)


@cli.command()
def add(
    token: Annotated[
        str | None, typer.Option(envvar="PAGE_ACCESS_TOKEN", help="asked for, or read from standard input, when absent")
    ] = None,
    page_id: Annotated[str | None, typer.Option(help="read from Graph when absent")] = None,
    name: Annotated[str | None, typer.Option(help="read from Graph when absent")] = None,
) -> None:
    """Add a Page by its access token, or give a known Page a new one. The token is stored encrypted."""
    settings = read_settings(Settings)
    if token is None:
        token = typer.prompt("Page access token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = token.strip()
    if not token:
        raise typer.BadParameter("the token is empty")

    async def work() -> None:
        async with opened(settings) as pool, graph_client(settings) as graph:
            tokens = TokenBox(settings.encryption_keys)
            watchdog = new_watchdog(settings, pool, graph, tokens)
            added, is_new = await add_page(pool, graph, tokens, token, page_id=page_id, name=name)
            troubles = await check_page(pool, graph, tokens, watchdog, added)
        console.print(f"Page {added} added" if is_new else f"Page {added} has a new token and is active")
        console.print("; ".join(troubles) if troubles else "its webhooks are subscribed", markup=False)

    asyncio.run(work())


@cli.command("list")
def show() -> None:
    """List the Pages with their state."""
    settings = read_settings(DatabaseSettings)

    async def work() -> list[asyncpg.Record]:
        async with opened(settings) as pool, pool.acquire() as connection:
            return await list_pages(connection)

    table = Table("page_id", "name", "state", "last synced", "watermark", "why")
    for page in asyncio.run(work()):
        times = (page["last_synced_at"], page["watermark"])
        shown = (t.isoformat(sep=" ", timespec="seconds") if t else "never" for t in times)
        table.add_row(page["page_id"], page["name"] or "", page["state"], *shown, page["state_reason"] or "")
    console.print(table)


@cli.command()
def remove(page_id: Annotated[str, typer.Argument(help="the Page's id")]) -> None:
    """Forget a Page's token and stop syncing it; what was mirrored stays."""
    settings = read_settings(DatabaseSettings)

    async def work() -> bool:
        async with opened(settings) as pool, pool.acquire() as connection:
            return await remove_page(connection, page_id)

    if not asyncio.run(work()):
        console.print(f"no Page {page_id}")
        raise typer.Exit(1)
    console.print(f"Page {page_id} removed; its conversations stay")


@cli.command()
def check(page_id: Annotated[str | None, typer.Argument(help="all when absent")] = None) -> None:
    """Ask Graph about each Page's token and webhooks, and subscribe what is missing.

    Exits with 1 when something stays wrong.
    """
    settings = read_settings(Settings)

    async def work() -> list[tuple[str, list[str]]]:
        async with opened(settings) as pool, graph_client(settings) as graph:
            async with pool.acquire() as connection:
                pages = [p["page_id"] for p in await list_pages(connection) if page_id in {None, p["page_id"]}]
            tokens = TokenBox(settings.encryption_keys)
            watchdog = new_watchdog(settings, pool, graph, tokens)
            return [(page, await check_page(pool, graph, tokens, watchdog, page)) for page in pages]

    found = asyncio.run(work())
    if not found:
        console.print(f"no Page {page_id}" if page_id else "no Pages yet: `messenger-mirror pages add`")
        raise typer.Exit(1)
    for page, troubles in found:
        console.print(f"{page}: {'; '.join(troubles) if troubles else 'fine'}")
    if any(troubles for _, troubles in found):
        raise typer.Exit(1)
