"""Bounds on a connection: how many there are, how long the head of a request may be, and how long it may take to come.

The server reads a head of any length, for ever: one client that never ends its own would take the memory, and a thousand
that begin and wait all there are to have.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.api.problems import problem

CONNECTIONS: Final = 512
"""More are closed as they come: a process may have about a thousand files open, and scoring needs some."""
HEAD_BYTES: Final = 32 * 1024
HEAD_S: Final = 10.0


class Bounded(HttpToolsProtocol):
    """One connection. It has `head_s` seconds from being made, or from the first byte after an answer, to say what it asks."""

    most: int = CONNECTIONS
    head_bytes: int = HEAD_BYTES
    head_s: float = HEAD_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._taken = 0
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base has it
        """Take a connection, or close it where there are enough."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._wait_no_more()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head, self._taken = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self._in_head = False
        self._wait_no_more()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what came, and refuse a head that does not end."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        idle = self._idle()
        if self._in_head:
            self._taken += len(data)
            if self._taken > self.head_bytes:
                self._refuse(
                    431, f"the head of the request is longer than {self.head_bytes:,} bytes: send a shorter one"
                )
        if idle and self._patience is None:
            self._wait()

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.head_s, self._late)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _late(self) -> None:
        self._patience = None
        if self._idle():
            self.transport.close()

    def _idle(self) -> bool:
        """No request of it is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _refuse(self, status: int, detail: str) -> None:
        if self._idle():
            body, media_type = problem(status, detail)
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()
