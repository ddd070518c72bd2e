"""`keys`: who may ask the API, and what for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import typer
from rich.table import Table

from app.cli.session import ask_database, console, print_table, written
from app.keys import new_key
from sql.api_keys import add_key, list_keys, revoke_key

cli = typer.Typer(help="Make, list and revoke keys of the API.", no_args_is_help=True)


@cli.command()
def add(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    role: Annotated[Literal["read", "operate", "admin"], typer.Option(help="what it may do")] = "read",
) -> None:
    """Make a key and print it: this once, as only what proves it is stored."""
    if not name.strip():
        raise typer.BadParameter("the name is empty")
    key_id, key, digest = new_key()
    ask_database(
        lambda connection: add_key(
            connection, key_id, digest, name=name, role=role, created_by="cli", now=datetime.now(UTC)
        )
    )
    typer.echo(key)  # and nothing else, so that a script can take it


@cli.command("list")
def show() -> None:
    """List the keys that were made, newest first; those of OPS_API_KEY are not among them."""
    table = Table("id", "name", "role", "made", "by", "revoked")
    for key in ask_database(list_keys):
        made, revoked = written(key["created_at"]), written(key["revoked_at"])
        table.add_row(key["id"], key["name"], key["role"], made, key["created_by"], revoked)
    print_table(table)


@cli.command()
def revoke(key_id: Annotated[str, typer.Argument(help="the key's id: the part between its underscores")]) -> None:
    """Revoke a key: within seconds no process takes it any more."""
    if not ask_database(lambda connection: revoke_key(connection, key_id, datetime.now(UTC))):
        console.print(f"no key {key_id}")
        raise typer.Exit(1)
    console.print(f"key {key_id} revoked")
