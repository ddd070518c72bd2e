"""`demo`: the whole product on this machine, against a simulated Facebook."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli.session import console
from app.demo.run import Demo, Options
from app.demo.service import DemoError
from app.logs import configure_logging


def demo(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="of live traffic")] = 30,
    pages: Annotated[int, typer.Option(min=1, max=50, help="how many")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="another one, another world")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the service; 0: any that is free")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave it running, and print what to try")] = False,  # noqa: FBT002
) -> None:
    """Run the product against a simulated Facebook, and compare every row with the truth.

    Exits with 0 only if nothing is missing or wrong.
    """
    configure_logging("error")
    # what it started must end with it, whoever ends it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="mirror-demo-"))
    folder.chmod(0o711)  # as root, the account that runs Postgres has to pass through
    try:
        wrong = asyncio.run(Demo(Options(seconds, pages, seed, port, keep), folder, console).run())
    except DemoError as error:
        console.print(f"the demo failed: {error}")
        raise typer.Exit(1) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if wrong:
        raise typer.Exit(1)
