"""What is to survive a power cut."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds which files stand in a folder: syncing a file does not tell the folder's disk its name.

    Raises:
        OSError: the folder can't be opened, or its disk does not take it.

    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
