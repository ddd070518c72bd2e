"""Python's collector of reference cycles, set for a process that serves."""

from __future__ import annotations

import gc

# Allocations between two runs over the youngest, and runs between two over the older ones. Python's own (700, 10, 10)
# run within every few webhooks, and again and again over all that start-up made: a fifth of a webhook's cost, and
# pauses of tens of milliseconds.
THRESHOLDS = (20_000, 20, 50)


def calm_collector() -> None:
    """Never look again at what start-up made, and seldom at what requests make. Call it once, when all is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
