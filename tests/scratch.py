"""Where tests put what they make."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

IN_MEMORY, NEEDED_BYTES = Path("/dev/shm"), 4 * 2**30


def use_memory() -> None:
    """Let temporary files of this process and its children lie in memory, where they fit, unless TMPDIR says where.

    A database is some 450 files: there they are made in a hundredth of a second, on a disk it may be half a one.
    """
    if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free >= NEEDED_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)
