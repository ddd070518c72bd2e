"""HTTP as uvicorn speaks it by httptools, with a bound on what is neither body nor progress.

httptools bounds no header, and puts a long one together anew with each piece of it: one stranger who sends a header
without end would keep every webhook waiting for most of a minute (tests/chaos/test_hostile.py).
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection that has sent `MAX_HEAD_BYTES` without the end of a header, or any of a body."""

    _fruitless = 0

    def data_received(self, data: bytes) -> None:
        """Parse what came, in pieces where it is much: a large one may hold a whole header and much of a body."""
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

    def on_headers_complete(self) -> None:
        """Begin with a request."""
        self._fruitless = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in some of a body."""
        self._fruitless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; on this connection another may follow."""
        self._fruitless = 0
        super().on_message_complete()
