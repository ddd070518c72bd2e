"""`./run chaos`: the proof that nothing is lost, for as long as one likes, and its figures."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from tests.chaos.figures import FILE, read_figures

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
ROOT = Path(__file__).parents[2]
PYTEST = ("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--timeout", "0", "--show-capture", "no")


class Part(NamedTuple):
    """Some tests, and how much of them."""

    title: str
    tests: tuple[str, ...]
    environment: dict[str, int]


def parts(options: argparse.Namespace) -> list[Part]:
    """What is run, one after the other."""
    return [
        Part("interleavings", ("tests/chaos/test_convergence.py",), {"MIRROR_EXAMPLES": options.examples}),
        Part(
            "kills",
            ("tests/chaos/test_durability.py", "tests/chaos/test_processes.py"),
            {"MIRROR_KILLS": options.kills},
        ),
        Part("outages", ("tests/chaos/test_outages.py",), {"MIRROR_OUTAGE": options.deliveries}),
        Part("hostile clients", ("tests/chaos/test_hostile.py",), {"MIRROR_OUTAGE": options.deliveries}),
        Part("bad input", ("tests/app/webhook/test_mutations.py",), {"MIRROR_EXAMPLES": (options.bodies + 1) // 2}),
    ]


def run(part: Part, figures: Path) -> tuple[bool, float, Counter[str]]:
    """Run a part; returns whether it held, how many seconds it took, and its figures."""
    began = time.monotonic()
    environment = {**os.environ, **{name: str(n) for name, n in part.environment.items()}, FILE: str(figures)}
    environment.setdefault("TMPDIR", tempfile.gettempdir())  # on the disk, for which commits wait as in earnest
    code = subprocess.run([sys.executable, *PYTEST, *part.tests], cwd=ROOT, env=environment, check=False).returncode
    return code == 0, time.monotonic() - began, read_figures(figures)


def main() -> int:
    """Run all parts; ends with 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="./run chaos", description="The proof that nothing is lost.")
    parser.add_argument("--examples", type=int, default=200, help="interleavings to try (200)")
    parser.add_argument("--kills", type=int, default=24, help="of the service, of Postgres, of both (24)")
    parser.add_argument("--deliveries", type=int, default=2_000, help="to take during each outage and attack (2000)")
    parser.add_argument("--bodies", type=int, default=2_000, help="to mutate (2000)")
    options = parser.parse_args()
    if min(vars(options).values()) < 1:
        parser.error("every number must be at least 1")
    total: Counter[str] = Counter()
    held = True
    with tempfile.TemporaryDirectory(prefix="mirror-figures-") as folder:
        for number, part in enumerate(parts(options)):
            CONSOLE.print(f"== {part.title}", style="bold")
            holds, seconds, figures = run(part, Path(folder) / str(number))
            CONSOLE.print(f"{part.title}: {'holds' if holds else 'DOES NOT HOLD'}, {seconds:.0f} s")
            total.update(figures)
            held &= holds
    CONSOLE.print(summary(total, held=held))
    return 0 if held else 1


def summary(total: Counter[str], *, held: bool) -> str:
    """The figures, for people."""
    lines = [
        f"interleavings tried: {total['interleavings']}, and {total['interleavings_of_processes']} of two processes",
        f"in them: {total['happen']} happenings, {total['sync']} syncs, {total['killed']} workers killed",
        f"kill -9 survived: {total['kills']}; outages: {total['outages']}; attacks: {total['attacks']}",
        f"deliveries acknowledged: {total['acknowledged']}; bodies mutated: {total['bodies']}",
        "lost: 0" if held else "NOT PROVED: see above",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
