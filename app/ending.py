"""The end of this process: whether it was asked for, and asking for it when a start turns out to be impossible."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)

FAILURE_FILE = "MIRROR_FAILURE_FILE"  # names where `serve` looks for the reason of its end
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_to_end() -> Iterator[asyncio.Event]:
    """Give an event that is set when a signal asks this process to end; whoever handles the signal still does.

    For requests that wait on purpose: a server waits for them first.
    """
    ending = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield ending
        return
    loop = asyncio.get_running_loop()
    before = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}

    def tell(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(ending.set)
        before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, tell)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is tell:
                signal.signal(number, handler)


def note_failure(error: BaseException) -> None:
    """Leave the reason of this process's end where `serve`, which started it, looks for it."""
    if FAILURE_FILE in os.environ:
        Path(os.environ[FAILURE_FILE]).write_text(str(error))


def give_up(error: BaseException) -> None:
    """End this process in order, and what would start it again: it can't do its work, and that will not change."""
    log.critical("start_impossible", reason=f"{type(error).__name__}: {error}")
    note_failure(error)
    if multiprocessing.parent_process() is not None:  # one of `serve --workers N`
        os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
