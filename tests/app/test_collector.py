from __future__ import annotations

import gc
import subprocess
import sys

from app.collector import THRESHOLDS


def test_what_start_up_made_is_never_looked_at_again() -> None:
    program = (
        "import app.asgi, gc; from app.collector import calm_collector; calm_collector(); print(gc.get_freeze_count())"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(made.stdout) > 50_000


def test_thresholds_are_larger_than_pythons_own() -> None:
    assert all(ours >= pythons for ours, pythons in zip(THRESHOLDS, (700, 10, 10), strict=True))
    assert gc.isenabled()
