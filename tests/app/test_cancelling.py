"""Who waits for an event and is cancelled in the moment in which it comes is cancelled: nothing swallows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import httpx
import pytest

from app.api import syncs
from simulator import Sender

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Coming(asyncio.Event):
    """Tells when somebody begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_awaited = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.is_awaited.set()
        return await super().wait()


async def pause(coming: asyncio.Event) -> None:
    await syncs._pause(coming, 3600)


async def send(coming: asyncio.Event) -> None:
    async with httpx.AsyncClient() as http:
        await Sender(http, "https://mirror.test/webhook", "secret").run(coming)


@pytest.mark.parametrize("wait", [pause, send])
async def test_a_wait_that_ends_as_it_is_cancelled_is_cancelled(
    wait: Callable[[asyncio.Event], Awaitable[None]],
) -> None:
    coming = Coming()
    waiting = asyncio.ensure_future(wait(coming))
    await coming.is_awaited.wait()
    coming.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
