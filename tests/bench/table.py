"""Measurements as a table of ratios: a machine's absolute numbers mean little, ratios within one run mean more."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.reads import Read
    from tests.bench.sync import Sync


class Measure(NamedTuple):
    """How fast one thing was, in one round."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Target(NamedTuple):
    """At least so many times as fast as another row."""

    row: str
    other: str
    at_least: float


class Verdict(NamedTuple):
    """A claim, what was found, and whether it holds."""

    claim: str
    found: str
    holds: bool


def middle(rounds: Sequence[Measure]) -> Measure:
    """The median of several rounds, each column for itself."""
    return Measure(*(median(column) for column in zip(*rounds, strict=True)))


def print_measures(title: str, rows: Mapping[str, Sequence[Measure]], *, base: str, unit: str) -> None:
    """Print one line per row: the median of its rounds, its slowest and fastest round, its ratio to `base`."""
    table = Table(title=title, title_justify="left")
    table.add_column("what", no_wrap=True)
    for heading in (f"{unit}/s", "slowest-fastest", f"x {base}", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for name, rounds in rows.items():
        m = middle(rounds)
        speeds = [r.per_second for r in rounds]
        table.add_row(
            name,
            f"{m.per_second:,.0f}",
            f"{min(speeds):,.0f}-{max(speeds):,.0f}",
            f"{ratio(rounds, rows[base]):.2f}",
            f"{m.p50_ms:.1f}",
            f"{m.p99_ms:.1f}",
        )
    Console().print(table)


def ratio(rounds: Sequence[Measure], others: Sequence[Measure]) -> float:
    """How many times as fast: the median over the rounds, since a round's measurements stand side by side in time."""
    return median(_ratios(rounds, others))


def _ratios(rounds: Sequence[Measure], others: Sequence[Measure]) -> list[float]:
    return [a.per_second / b.per_second for a, b in zip(rounds, others, strict=True)]


def print_syncs(title: str, syncs: Sequence[Sync]) -> None:
    """Print one line per sync: its time, its calls, and how many times as long as the last of its kind it took."""
    table = Table(title=title, title_justify="left")
    table.add_column("sync", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for heading in ("sec", "calls", "x need", "x mirror", "at once", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    ours = {sync.what: sync for sync in syncs}  # the last of each
    for before, sync in zip((None, *syncs), syncs, strict=False):
        is_new = before is None or before.what != sync.what
        table.add_row(
            sync.what if is_new else "",
            f"{sync.algorithm}{'' if sync.scaled == 1 else '*'}",
            f"{sync.seconds:,.1f}",
            f"{sync.calls:,}",
            f"{sync.seconds / sync.needed:.2f}" if sync.pages == 1 else "",
            f"{sync.seconds / ours[sync.what].seconds:,.1f}",
            f"{sync.most_at_once}",
            f"{sync.missing}",
        )
    wide = Console(width=max(Console().width, 100))
    wide.print(table)
    wide.print("x need: of the time that its calls need at Meta's rate; *: measured on a part, scaled up")


def print_reads(title: str, reads: Sequence[Read]) -> None:
    """Print one line per read: its time, its rows, and how many times as long as those by primary key it took."""
    table = Table(title=title, title_justify="left")
    table.add_column("read", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for heading in ("ms", "rows", "x probe"):
        table.add_column(heading, justify="right", no_wrap=True)
    for read in reads:
        table.add_row(read.what, read.by, f"{read.ms:,.1f}", f"{read.rows}", f"{read.over:,.1f}")
    Console(width=max(Console().width, 100)).print(table)


def judge(rows: Mapping[str, Sequence[Measure]], targets: Sequence[Target]) -> list[Verdict]:
    """Compare the medians of ratios with targets; tell the ratios' spread beside them."""
    return [_judged(_ratios(rows[target.row], rows[target.other]), target) for target in targets]


def _judged(ratios: Sequence[float], target: Target) -> Verdict:
    found = median(ratios)
    spread = f", {len(ratios)} times: {min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
    return Verdict(
        f"{target.row} >= {target.at_least:g} x {target.other}", f"{found:.2f} x{spread}", found >= target.at_least
    )


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what was claimed and what was found."""
    table = Table()
    for heading in ("claim", "found", ""):
        table.add_column(heading)
    for v in verdicts:
        table.add_row(v.claim, v.found, "[green]holds[/]" if v.holds else "[red]does not hold[/]")
    Console(width=max(Console().width, 100)).print(table)
