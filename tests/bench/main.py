"""`./run bench`: the benchmarks, as tables of ratios. Ends with 1 where a target does not hold."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from tests.bench import cache, ingest, reads, sync
from tests.bench.mirror import Scale


def main(
    names: Annotated[list[str] | None, typer.Argument(help="ingest, sync, reads; all by default")] = None,
    *,
    seconds: Annotated[float, typer.Option(min=0.5, help="length of one measurement of ingest")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of ingest of each kind, in turns")] = 3,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="connections that send at the same time")] = 64,
    conversations: Annotated[int, typer.Option(min=1_000, help="of the mirror that is read")] = 1_000_000,
    messages: Annotated[int, typer.Option(min=10_000, help="of the mirror that is read")] = 10_000_000,
    folder: Annotated[Path | None, typer.Option(help="where to keep that mirror for another time")] = None,
    quick: Annotated[bool, typer.Option(help="one short round of ingest, small Pages to sync, a small mirror")] = False,
) -> None:
    """Measure on this machine, with the load, the service and Postgres all on it."""
    options = ingest.Options(seconds, rounds, connections, memory=True)
    if quick:
        options = options._replace(seconds=min(seconds, 2.0), rounds=1, memory=False)
    reading = reads.Options(Scale(conversations, messages), folder)
    if quick:
        small = Scale(min(conversations, 20_000), min(messages, 200_000))
        reading = reading._replace(scale=small, times=5, cache=cache.Options(1.0, rounds=1))
    benches = {
        "ingest": lambda: ingest.run(options),
        "sync": lambda: sync.run(sync.QUICK if quick else sync.Options()),
        "reads": lambda: reads.run(reading),
    }
    unknown = set(names or ()) - benches.keys()
    if unknown:
        raise typer.BadParameter(f"no such benchmark: {', '.join(sorted(unknown))}")
    held = [benches[name]() for name in names or benches]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    typer.run(main)
