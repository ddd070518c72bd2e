"""`python -m tests.mutate [word ...]`: break each rule on purpose, one at a time, and see that a test notices.

Works on a copy of the tree; one server serves all runs. Ends with 1 where a mutation survives or can't be made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sql import embedded
from tests.mutations import MUTATIONS
from tests.scratch import use_memory

if TYPE_CHECKING:
    from tests.mutations import Mutation

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
ROOT = Path(__file__).parents[1]
COPIED = ("app", "reconciler", "sql", "tests", "pyproject.toml")
# one layout of the tables is enough to notice a broken rule
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "not hash-partitioned")


def run_tests(folder: Path, server: str, tests: tuple[str, ...]) -> tuple[int, str]:
    """Run tests of the copy; returns pytest's code and what it printed last."""
    environment = {**os.environ, "TEST_DATABASE_URL": server, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *PYTEST, *tests], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    telling = [line for word in ("FAILED", "ERROR") for line in lines if line.startswith(word)]
    last = telling[0] if telling else lines[-1]
    return done.returncode, last


def mutate(folder: Path, server: str, mutation: Mutation) -> tuple[bool, str]:
    """Make one mutation, run its tests, undo it; returns whether it was killed, and by what."""
    [path] = folder.glob(mutation.file)
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return False, f"the text to change stands {text.count(mutation.old)} times in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        code, last = run_tests(folder, server, mutation.tests)
    finally:
        path.write_text(text)
    # an ERROR is no test that failed: the mutation could not even be set up
    return code == 1 and last.startswith("FAILED"), last


def main(words: list[str]) -> int:
    """Run every mutation, or those whose rule has one of the words in it."""
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.rule} {m.change}" for word in words)]
    use_memory()
    folder = Path(tempfile.mkdtemp(prefix="mirror-mutate-"))
    folder.chmod(0o711)  # the account that runs Postgres has to pass through
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    running = embedded.start(folder / "server", database="mirror_mutate")
    survived = 0
    try:
        code, last = run_tests(folder, running.dsn, tuple(sorted({test for m in chosen for test in m.tests})))
        if code != 0:
            CONSOLE.print(f"without any mutation the tests fail: {last}")
            return 1
        for number, mutation in enumerate(chosen, 1):
            began = time.monotonic()
            killed, by = mutate(folder, running.dsn, mutation)
            survived += not killed
            word = "killed  " if killed else "SURVIVED"
            seconds = time.monotonic() - began
            CONSOLE.print(f"{number:3} {word} {seconds:5.1f} s  {mutation.rule}: {mutation.change}\n      {by}")
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
    CONSOLE.print(f"{len(chosen) - survived} of {len(chosen)} mutations killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
