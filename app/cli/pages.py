"""`pages`: which Pages are mirrored."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table

from app.adding import add_page
from app.checking import check_page
from app.cli.session import ask_database, console, opened, print_table, read_settings, written
from app.importing import import_pages
from app.reconciling import graph_client, new_watchdog
from app.removing import PageEraser, Removed
from app.removing import remove as remove_page
from app.settings import Settings
from reconciler.graph.errors import GraphError
from reconciler.tokens import TokenBox, TokenUnreadableError
from sql.pages import list_pages, pause_page, resume_page

if TYPE_CHECKING:
    from app.importing import Imported

cli = typer.Typer(help="Which Pages are mirrored: add, list, check, pause and remove them.", no_args_is_help=True)

PageArgument = Annotated[str, typer.Argument(metavar="PAGE_ID", help="the Page's id")]


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
    token = _given(token, "Page access token")

    async def work() -> None:
        async with opened(settings) as pool, graph_client(settings) as graph:
            tokens = TokenBox(settings.encryption_keys)
            watchdog = new_watchdog(settings, pool, graph, tokens)
            added, is_new = await add_page(
                pool, graph, tokens, token, page_id=page_id, name=name, app_token=settings.app_token
            )
            troubles = await check_page(pool, graph, tokens, watchdog, added)
        console.print(f"Page {added} added" if is_new else f"Page {added} has a new token and is active")
        console.print("; ".join(troubles) if troubles else "its webhooks are subscribed")

    asyncio.run(work())


@cli.command("import")
def take_all(
    token: Annotated[
        str | None, typer.Option(envvar="USER_ACCESS_TOKEN", help="asked for, or read from standard input, when absent")
    ] = None,
) -> None:
    """Add all Pages of a person by the person's user access token, which is not kept."""
    settings = read_settings(Settings)
    token = _given(token, "User access token")

    async def work() -> list[tuple[Imported, list[str]]]:
        async with opened(settings) as pool, graph_client(settings) as graph:
            tokens = TokenBox(settings.encryption_keys)
            watchdog = new_watchdog(settings, pool, graph, tokens)
            pages = await import_pages(pool, graph, tokens, token)
            return [
                (page, await check_page(pool, graph, tokens, watchdog, page.page_id) if page.reason is None else [])
                for page in pages
            ]

    for page, troubles in asyncio.run(work()):
        more = page.reason or "; ".join(troubles) or "its webhooks are subscribed"
        console.print(f"{page.page_id} {page.name or ''}: {page.outcome}; {more}")


def _given(token: str | None, what: str) -> str:
    if token is None:
        token = typer.prompt(what, hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = token.strip()
    if not token:
        raise typer.BadParameter("the token is empty")
    return token


@cli.command("list")
def show() -> None:
    """List the Pages with their state."""
    table = Table("page_id", "name", "state", "last synced", "watermark", "why")
    for page in ask_database(list_pages):
        shown = (written(at, if_none="never") for at in (page["last_synced_at"], page["watermark"]))
        table.add_row(page["page_id"], page["name"] or "", page["state"], *shown, page["state_reason"] or "")
    print_table(table)


@cli.command()
def pause(page_id: PageArgument) -> None:
    """Stop syncing a Page, and expect no webhooks of it; what they bring all the same is stored."""
    if not ask_database(lambda connection: pause_page(connection, page_id, now=datetime.now(UTC))):
        _unknown(page_id)
    console.print(f"Page {page_id} is paused: `messenger-mirror pages resume {page_id}` goes on")


@cli.command()
def resume(page_id: PageArgument) -> None:
    """Sync a paused Page again, at once."""
    before = ask_database(lambda connection: resume_page(connection, page_id, now=datetime.now(UTC)))
    if before is None:
        _unknown(page_id)
    if before == "needs_reauth":
        console.print(f"the token of Page {page_id} is dead: add the Page again with a new one")
        raise typer.Exit(1)
    console.print(f"Page {page_id} is synced")


@cli.command()
def subscribe(page_id: PageArgument) -> None:
    """Subscribe a Page's webhooks, and keep them subscribed from now on."""
    settings = read_settings(Settings)

    async def work() -> list[str]:
        async with opened(settings) as pool, graph_client(settings) as graph:
            tokens = TokenBox(settings.encryption_keys)
            watchdog = new_watchdog(settings, pool, graph, tokens)
            async with pool.acquire() as connection:
                known = {page["page_id"] for page in await list_pages(connection)}
            if page_id not in known:
                _unknown(page_id)
            await watchdog.subscribe(page_id)
            return await check_page(pool, graph, tokens, watchdog, page_id)

    troubles = asyncio.run(work())
    console.print("; ".join(troubles) if troubles else "its webhooks are subscribed")
    if troubles:
        raise typer.Exit(1)


@cli.command()
def unsubscribe(page_id: PageArgument) -> None:
    """End a Page's webhooks, and leave them ended: it is only synced."""
    settings = read_settings(Settings)

    async def work() -> bool:
        async with opened(settings) as pool, graph_client(settings) as graph:
            watchdog = new_watchdog(settings, pool, graph, TokenBox(settings.encryption_keys))
            return await watchdog.unsubscribe(page_id)

    try:
        found = asyncio.run(work())
    except (GraphError, TokenUnreadableError) as error:
        console.print(f"its webhooks could not be ended: {error}")
        raise typer.Exit(1) from None
    if not found:
        _unknown(page_id)
    console.print(f"the webhooks of Page {page_id} have ended")


@cli.command()
def remove(
    page_id: PageArgument,
    erase: Annotated[bool, typer.Option("--erase", help="also erase what was mirrored of it, for good")] = False,  # noqa: FBT002 - a flag
    keep_webhooks: Annotated[bool, typer.Option("--keep-webhooks", help="don't end its webhooks")] = False,  # noqa: FBT002
    yes: Annotated[bool, typer.Option("--yes", help="don't ask whether it is meant")] = False,  # noqa: FBT002
) -> None:
    """End a Page's webhooks, forget its token and stop syncing it; what was mirrored stays unless told otherwise."""
    settings = read_settings(Settings)
    if erase and not yes:
        typer.confirm(f"Erase all that was mirrored of Page {page_id}? It can't be undone", abort=True)

    async def work() -> tuple[Removed | None, dict[str, int]]:
        async with opened(settings) as pool, graph_client(settings) as graph:
            watchdog = new_watchdog(settings, pool, graph, TokenBox(settings.encryption_keys))
            removed = await remove_page(pool, watchdog, page_id, unsubscribe=not keep_webhooks, erase=erase)
            return removed, await PageEraser(pool).run_once(page_id) if removed and erase else {}

    removed, erased = asyncio.run(work())
    if removed is None:
        _unknown(page_id)
    if erased:
        console.print(
            f"Page {page_id} removed; {erased['rows']} rows erased, {erased['deliveries']} deliveries redacted"
        )
    else:
        console.print(f"Page {page_id} removed; its conversations stay")
    if removed.why_subscribed is not None:
        console.print(f"its webhooks could not be ended, and what they bring is stored: {removed.why_subscribed}")


def _unknown(page_id: str) -> NoReturn:
    console.print(f"no Page {page_id}")
    raise typer.Exit(1)


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
