"""Limits of connections: their number, the length and time of a request's head, and unread answers.

uvicorn reads a head of any length without a time limit, and queues all requests that a client sends ahead of its answers. So one
client that never ends its head, or never reads, could use up the memory, and a thousand idle ones all places. uvicorn's own
`limit_concurrency` counts event listeners too, and refuses without `Retry-After`.
"""

import asyncio
import resource
from typing import Any, Final
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from velo.serving.api.problems import problem

CONNECTIONS: Final = 2048
"""The most connections. For one more, an idle one is closed: the oldest of the address with the most idle ones."""
FILES_BESIDE: Final = 256
"""File descriptors that scoring needs in addition to the connections."""
HEAD_BYTES: Final = 32 * 1024
HEAD_S: Final = 10.0
PIPELINED: Final = 32
"""Requests that a client may send ahead of its answers."""
READ_S: Final = 10.0
"""How long a client may leave answers unread once its buffer is full."""


def places() -> int:
    """The number of connections of a process, after it raised its limit of file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft - FILES_BESIDE))


class IdleConnections:
    """A server's connections without a pending request, by address, those that have waited longest first."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[BoundedConnection, None]] = {}

    def add(self, connection: "BoundedConnection") -> None:
        """Add a connection that became idle."""
        self._by_address.setdefault(_address(connection), {})[connection] = None

    def discard(self, connection: "BoundedConnection") -> None:
        """Remove a connection that is no longer idle."""
        own = self._by_address.get(_address(connection), {})
        own.pop(connection, None)
        if not own:
            self._by_address.pop(_address(connection), None)

    def oldest_of_most(self) -> "BoundedConnection":
        """The longest idle connection of the address with the most idle ones."""
        address = max(self._by_address, key=lambda client: len(self._by_address[client]))
        return next(iter(self._by_address[address]))


_WAITING: Final[WeakKeyDictionary[ServerState, IdleConnections]] = WeakKeyDictionary()


class BoundedConnection(HttpToolsProtocol):
    """One connection. It has `head_s` seconds to send a request's head, from its start or from the first byte after an answer."""

    most: int = CONNECTIONS
    head_bytes: int = HEAD_BYTES
    head_s: float = HEAD_S
    read_s: float = READ_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._taken = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._without_request = _WAITING.setdefault(self.server_state, IdleConnections())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base has it
        """Accept a connection; at the maximum an idle one is closed for it."""
        super().connection_made(transport)
        self._without_request.add(self)
        self._wait()
        if len(self.connections) > self.most:
            self._without_request.oldest_of_most().give_way()  # this one at least is among them

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._without_request.discard(self)
        self._wait_no_more()
        self._read_again()
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read its answers."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        """End the time limit: the client reads again."""
        self._read_again()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Note the first byte of a request; too many pipelined requests end the connection."""
        if len(self.pipeline) >= PIPELINED:
            self.pipeline.clear()
            self.transport.abort()
        if self.transport.is_closing():
            raise _GivenUp
        self._in_head, self._taken = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note the end of a request's head."""
        self._in_head = False
        self._wait_no_more()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of a request's body: only now is the connection no longer idle."""
        self._without_request.discard(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note the end of an answer; without a further request the connection is idle."""
        if not self.pipeline and not self.transport.is_closing():
            self._without_request.add(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer that it is not HTTP, unless the connection is closing."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def data_received(self, data: bytes) -> None:
        """Read data, and refuse a head that is too long."""
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
        if idle and self._head_timer is None:
            self._wait()

    def shutdown(self) -> None:
        """End the connection when the server stops: an answer in the making is sent first, an event stream ends at once.

        Its listener connects again, to the server's successor.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
        else:
            super().shutdown()

    def give_way(self) -> None:
        """Close this connection in favour of a new one; it no longer counts."""
        self.connections.discard(self)
        self._without_request.discard(self)
        self.transport.abort()

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._wait_no_more()
        self._head_timer = self.loop.call_later(self.head_s, self._late)

    def _wait_no_more(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self._idle():
            self.transport.close()

    def _idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _refuse(self, status: int, detail: str) -> None:
        if self._idle():
            body, media_type = problem(status, detail)
            head = f"HTTP/1.1 {status} Refused\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _address(connection: "BoundedConnection") -> str:
    return connection.client[0] if connection.client else ""


class _GivenUp(Exception):
    """Stop reading what a client sends."""
