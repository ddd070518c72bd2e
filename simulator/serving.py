"""Run one of the simulator's apps on a loopback port, in the running event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


END_WITHIN_SECONDS = 1  # for calls that are under way: one that gets its answer late or never holds up nothing


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """Leave signals to who runs the program."""
        return nullcontext()


@asynccontextmanager
async def serving(app: Any, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI app while the context lasts; yields its address, such as http://127.0.0.1:41234.

    Port 0 takes a free one. The app's own `Date` is sent: it is the world's clock.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # connections inherit it; asyncio sets it on none whose socket says no protocol, and then every answer but the
        # first on a connection waits 40 ms for an acknowledgement
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((host, port))
        listening.listen(1024)

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            with suppress(asyncio.CancelledError):  # by the end, when nobody listens any more
                await app(scope, receive, send)

        config = uvicorn.Config(
            answer,
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
            timeout_graceful_shutdown=2 * END_WITHIN_SECONDS,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://{host}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait([task], timeout=END_WITHIN_SECONDS)
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await task
