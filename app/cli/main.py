"""The command line `messenger-mirror`."""

from __future__ import annotations

import sys

import asyncpg
import typer

from app.adding import PageRefusedError
from app.cli import demo, doctor, erase, journal, keys, loss, pages, rotate, serve, simulate, syncs
from app.cli.simulate import SimulateError
from app.database import DatabaseError
from app.removing import StillSubscribedError
from app.settings import SettingsError
from sql.embedded import EmbeddedPostgresError
from sql.errors import MigrationError, describe, is_away
from sql.pages import PageBusyError

cli = typer.Typer(
    name="messenger-mirror",
    help="A complete, live copy of every Facebook Messenger conversation of many Pages in your own Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # the pretty ones print local variables, and tokens are among them
)
cli.command("serve")(serve.serve)
cli.command("reconcile")(serve.reconcile)
cli.command("demo")(demo.demo)
cli.command("migrate")(serve.migrate)
cli.add_typer(pages.cli, name="pages")
cli.add_typer(keys.cli, name="keys")
cli.command("sync")(syncs.sync)
cli.command("backfill")(syncs.backfill)
cli.command("audit")(syncs.audit)
cli.command("doctor")(doctor.doctor)
cli.command("simulate")(simulate.simulate)
cli.command("loss")(loss.loss)
cli.command("rotate-key")(rotate.rotate)
cli.command("replay")(journal.replay)
cli.command("erase")(erase.erase)

# what a user can mend: its text says how, a traceback would not
_TOLD = (
    SettingsError,
    DatabaseError,
    MigrationError,
    EmbeddedPostgresError,
    PageRefusedError,
    PageBusyError,
    StillSubscribedError,
    SimulateError,
)


def main() -> None:
    """Run one command; exits with 1 and a clear text where it can't be done."""
    try:
        cli()
    except _TOLD as error:
        sys.exit(f"messenger-mirror: {error}")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError) as error:
        if not is_away(error):
            raise
        sys.exit(f"messenger-mirror: the database went away: {describe(error)}. What was done stays done: try again")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
