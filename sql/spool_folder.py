"""The folder of the spool, as one sees it who holds none of its files."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from sql.spool_row import instant

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

LEAST_FREE_BYTES = 16 * 2**20


class Contents(NamedTuple):
    """What waits in a folder, in how many files; `unreadable` are the names of those that can't be read."""

    files: int
    deliveries: int
    bytes: int
    oldest_at: datetime | None
    unreadable: list[str]


def trouble_of(folder: Path) -> str | None:
    """Tell why nothing could be written in a folder, or in the place where it would be made; None where all is well."""
    try:
        there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
        can_write = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError:  # a folder on the way may not even be looked into
        can_write = False
    if not can_write:
        return f"SPOOL_DIR ({folder}) can't be written"
    if shutil.disk_usage(there).free < LEAST_FREE_BYTES:
        return f"the disk of SPOOL_DIR ({folder}) is full"
    return None


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Find files; none in a folder that is not there or may not be looked into, of which `trouble_of` tells."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def look_into(folder: Path) -> Contents:
    """Count what waits in a folder, whoever holds its files, and change nothing."""
    files = deliveries = size = 0
    oldest: list[datetime] = []
    unreadable = []
    for path in files_in(folder, "*.spool"):
        files += 1
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
                count, held, first = db.execute(
                    "SELECT count(*), COALESCE(sum(length(body)), 0), min(received_at_us) FROM spooled"
                ).fetchone()
        except sqlite3.Error:
            unreadable.append(path.name)
            continue
        deliveries += count
        size += held
        if first is not None:
            oldest.append(instant(first))
    return Contents(files, deliveries, size, min(oldest, default=None), unreadable)
