"""`serve` and `migrate`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from app.arrival import START_WITHIN_SECONDS
from app.asgi import OTHER_CONNECTIONS
from app.bounded_http import BoundedHttp
from app.cli.session import console, read_settings
from app.database import DatabaseAwayError, DatabaseError, database, migrated_database, prepare
from app.doorstep import raise_file_limit
from app.ending import FAILURE_FILE
from app.health import MULTIPROCESS_DIR
from app.logs import configure_logging
from app.reconciling import graph_client, reconciler
from app.settings import DatabaseSettings, Settings, SettingsError, load_settings
from reconciler.schedule import scheduled
from reconciler.tokens import TokenBox
from sql.pool import open_pool

GRACE_SECONDS = 20  # for requests in flight; each webhook among them is durable or told 503 well before


def serve(
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes that share the port")] = 1,
) -> None:
    """Receive webhooks, serve the API, and sync every Page (unless RECONCILER_ENABLED=false)."""
    settings = load_settings(Settings)
    configure_logging(settings.log_level)
    raise_file_limit()
    _try_address(settings.host, settings.port)
    # uvicorn ends in order at SIGTERM, and then raises it again: it must not end us before the database is let go
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    # before the first process is started: what is wrong is said once and clearly, and the embedded server
    # outlives any of them
    with database(settings) as dsn, tempfile.TemporaryDirectory(prefix="mirror-") as folder:
        with suppress(DatabaseAwayError, TimeoutError):  # then it is waited for, and deliveries are kept in the spool
            asyncio.run(_prepare(dsn))
        if workers > 1:
            os.environ[MULTIPROCESS_DIR] = folder
        failure = Path(folder) / "failure"
        os.environ[FAILURE_FILE] = str(failure)
        try:
            uvicorn.run(
                "app.asgi:from_environment",
                factory=True,
                host=settings.host,
                port=settings.port,
                workers=workers,
                loop="uvloop",
                http=BoundedHttp,
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        finally:
            if failure.exists():
                raise DatabaseError(failure.read_text())


def _try_address(host: str, port: int) -> None:
    """Find out whether the address can be listened on, before anything is started.

    Raises:
        SettingsError: it can't; the text names it.

    """
    refused: OSError | None = None
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        places, refused = [], error
    for family, kind, protocol, _, address in places:  # of a name that means several, one is enough
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except OSError as error:
            refused = error
        else:
            return
    reason = refused.strerror if refused is not None else "no such address"
    raise SettingsError(f"HOST {host}, PORT {port} can't be listened on: {reason}") from refused


async def _prepare(dsn: str) -> None:
    async with asyncio.timeout(START_WITHIN_SECONDS):
        await prepare(dsn)


def reconcile() -> None:
    """Only sync, and receive nothing: any number of these share the work with each other and with `serve`."""
    settings = load_settings(Settings)
    configure_logging(settings.log_level)
    asyncio.run(_reconcile(settings))


async def _reconcile(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        migrated_database(settings) as dsn,
        open_pool(dsn, max_size=OTHER_CONNECTIONS) as pool,
        graph_client(settings) as graph,
        reconciler(settings, pool, graph, TokenBox(settings.encryption_keys)) as made,
        scheduled(made.jobs),
    ):
        await stop.wait()


def migrate() -> None:
    """Bring the database's schema to what this version needs. `serve` does it too."""
    settings = read_settings(DatabaseSettings)
    with database(settings) as dsn:
        applied = asyncio.run(prepare(dsn))
    console.print(f"applied: {', '.join(applied)}" if applied else "nothing to do: the schema is current")
