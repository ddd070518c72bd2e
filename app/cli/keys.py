"""`keys`: who may ask the API, and what for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from app.cli.session import console, opened, print_table, read_settings
from app.keys import new_key
from app.settings import DatabaseSettings
from sql.api_keys import add_key, list_keys, revoke_key

if TYPE_CHECKING:
    import asyncpg

cli = typer.Typer(help="Make, list and revoke keys of the API.", no_args_is_help=True)


@cli.command()
def add(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    role: Annotated[Literal["read", "operate", "admin"], typer.Option(help="what it may do")] = "read",
) -> None:
    """Make a key and print it: this once, as only what proves it is stored."""
    if not name.strip():
        raise typer.BadParameter("the name is empty")
    settings = read_settings(DatabaseSettings)
    key_id, key, digest = new_key()

    async def work() -> None:
        async with opened(settings) as pool, pool.acquire() as connection:
            await add_key(connection, key_id, digest, name=name, role=role, created_by="cli", now=datetime.now(UTC))

    asyncio.run(work())
    typer.echo(key)  # and nothing else, so that a script can take it


@cli.command("list")
def show() -> None:
    """List the keys that were made, newest first; those of OPS_API_KEY are not among them."""
    settings = read_settings(DatabaseSettings)

    async def work() -> list[asyncpg.Record]:
        async with opened(settings) as pool, pool.acquire() as connection:
            return await list_keys(connection)

    table = Table("id", "name", "role", "made", "by", "revoked")
    for key in asyncio.run(work()):
        made, revoked = (
            at.isoformat(sep=" ", timespec="seconds") if at else "" for at in (key["created_at"], key["revoked_at"])
        )
        table.add_row(key["id"], key["name"], key["role"], made, key["created_by"], revoked)
    print_table(table)


@cli.command()
def revoke(key_id: Annotated[str, typer.Argument(help="the key's id: the part between its underscores")]) -> None:
    """Revoke a key: within seconds no process takes it any more."""
    settings = read_settings(DatabaseSettings)

    async def work() -> bool:
        async with opened(settings) as pool, pool.acquire() as connection:
            return await revoke_key(connection, key_id, datetime.now(UTC))

    if not asyncio.run(work()):
        console.print(f"no key {key_id}")
        raise typer.Exit(1)
    console.print(f"key {key_id} revoked")
