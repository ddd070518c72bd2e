"""HTTP as uvicorn speaks it by httptools, with bounds on what is neither body nor progress, and on time.

httptools bounds no header, and puts a long one together anew with each piece of it: one stranger who sends a header
without end would keep every webhook waiting for most of a minute (tests/chaos/test_hostile.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.doorstep import Doorstep, room_for_connections

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from uvicorn.server import ServerState

    from app.doorstep import Wait

MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_DOORSTEPS: WeakKeyDictionary[ServerState, Doorstep] = WeakKeyDictionary()  # uvicorn makes one state for each server


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection that has sent `MAX_HEAD_BYTES` without the end of a header, or any of a body.

    And one that takes too long (app/doorstep.py).
    """

    _fruitless = 0
    _arriving: Wait | None = None  # a head, or a body
    _leaving: Wait | None = None  # an answer
    _is_arriving = False  # a request has begun and not ended
    _doorstep: Doorstep

    @staticmethod
    def new_doorstep() -> Doorstep:
        """Make that of a server."""
        return Doorstep(room=room_for_connections())

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        return self._arriving is None and self.cycle is not None and self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and let an older one go for it when there are too many."""
        super().connection_made(transport)
        doorstep = _DOORSTEPS.get(self.server_state)
        if doorstep is None:
            doorstep = _DOORSTEPS[self.server_state] = self.new_doorstep()
        self._doorstep = doorstep
        if len(self.connections) > doorstep.room:
            doorstep.make_room(cast("Iterable[BoundedHttp]", self.connections))
        self._arriving = doorstep.await_head(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._has_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """End it: it is too slow, or others have to come in."""
        if self._leaving is not None:
            self.transport.abort()  # what nobody takes would keep it open
            return
        if not self.transport.is_closing():
            if not self.is_idle and (self.cycle is None or self.cycle.response_complete):
                self.transport.write(_TOO_SLOW)
            self.transport.close()

    def pause_writing(self) -> None:
        """Wait until the client takes its answer."""
        self._leaving = self._doorstep.await_rest(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        if self._leaving is not None:
            self._leaving.end()
            self._leaving = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and watch over what is still to come of it."""
        self._parse(data)
        if self._is_arriving and self._arriving is None:  # most requests come at once, and need no watching
            in_body = self.cycle is not None and self.scope is self.cycle.scope
            self._arriving = (self._doorstep.await_rest if in_body else self._doorstep.await_head)(self)

    def _has_arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.end()
            self._arriving = None

    def _parse(self, data: bytes) -> None:
        """Parse in pieces where it is much: a large one may hold a whole header and much of a body."""
        if self._fruitless + len(data) <= MAX_HEAD_BYTES:
            self._fruitless += len(data)
            super().data_received(data)
            return
        start = 0
        while start < len(data) and not self.transport.is_closing():
            piece = data[start : start + max(MAX_HEAD_BYTES - self._fruitless, 1)]
            start += len(piece)
            self._fruitless += len(piece)
            super().data_received(piece)
            if self._fruitless >= MAX_HEAD_BYTES:
                self._refuse()
                return

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin with a head."""
        self._is_arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin with a request."""
        self._fruitless = 0
        self._has_arrived()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in some of a body."""
        self._fruitless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; on this connection another may follow."""
        self._fruitless = 0
        self._has_arrived()
        self._is_arriving = False
        super().on_message_complete()
