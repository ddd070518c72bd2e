"""Whether this process was asked to end, for requests that wait on purpose: a server waits for them first."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def told_to_end() -> Iterator[asyncio.Event]:
    """Give an event that is set when a signal asks this process to end; whoever handles the signal still does."""
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
