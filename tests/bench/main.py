"""`./run bench`: the benchmarks, as tables of ratios. Ends with 1 where a target does not hold."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tests.bench import ingest, sync


def main(
    names: Annotated[list[str] | None, typer.Argument(help="which benchmarks: ingest, sync (both by default)")] = None,
    *,
    seconds: Annotated[float, typer.Option(min=0.5, help="length of one measurement of ingest")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of ingest of each kind, in turns")] = 3,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="connections that send at the same time")] = 64,
    quick: Annotated[bool, typer.Option(help="one short round of ingest, and small Pages to sync")] = False,
) -> None:
    """Measure on this machine, with the load, the service and Postgres all on it."""
    options = ingest.Options(seconds, rounds, connections, memory=True)
    if quick:
        options = options._replace(seconds=min(seconds, 2.0), rounds=1, memory=False)
    benches = {
        "ingest": lambda: ingest.run(options),
        "sync": lambda: sync.run(sync.QUICK if quick else sync.Options()),
    }
    unknown = set(names or ()) - benches.keys()
    if unknown:
        raise typer.BadParameter(f"no such benchmark: {', '.join(sorted(unknown))}")
    held = [benches[name]() for name in names or benches]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    typer.run(main)
