"""Bounds on a connection: how many there are, how long a head may be and take to come, and what may wait for its client.

The server reads a head of any length, for ever, and queues all that a client sends ahead of its answers: one client that
never ends its head, or asks and does not read, would take the memory, and a thousand that begin and wait all places.
uvicorn's own `limit_concurrency` counts whoever only listens, and refuses without `Retry-After`.
"""

import asyncio
import resource
from typing import Any, Final
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from velo.serving.api.problems import problem

CONNECTIONS: Final = 2048
"""For one more, one without a request is closed: the oldest of the address that has most of them."""
FILES_BESIDE: Final = 256
"""Files that scoring needs beside the connections."""
HEAD_BYTES: Final = 32 * 1024
HEAD_S: Final = 10.0
PIPELINED: Final = 32
"""Requests that a client may send ahead of its answers."""
READ_S: Final = 10.0
"""How long a client may leave unread what was sent to it, once its buffer is full."""


def places() -> int:
    """How many connections a process has places for, after it asked the system for as many files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft - FILES_BESIDE))


class IdleConnections:
    """The connections of a server that have no request to be answered, by address, each in the order they came to wait."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[BoundedConnection, None]] = {}

    def add(self, connection: "BoundedConnection") -> None:
        """It waits from now on."""
        self._by_address.setdefault(_address(connection), {})[connection] = None

    def discard(self, connection: "BoundedConnection") -> None:
        """It waits no more."""
        own = self._by_address.get(_address(connection), {})
        own.pop(connection, None)
        if not own:
            self._by_address.pop(_address(connection), None)

    def oldest_of_most(self) -> "BoundedConnection":
        """Of the address with most of them the one that waits longest."""
        address = max(self._by_address, key=lambda client: len(self._by_address[client]))
        return next(iter(self._by_address[address]))


_WAITING: Final[WeakKeyDictionary[ServerState, IdleConnections]] = WeakKeyDictionary()


class BoundedConnection(HttpToolsProtocol):
    """One connection. It has `head_s` seconds from being made, or from the first byte after an answer, to say what it asks."""

    most: int = CONNECTIONS
    head_bytes: int = HEAD_BYTES
    head_s: float = HEAD_S
    read_s: float = READ_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._taken = 0
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._without_request = _WAITING.setdefault(self.server_state, IdleConnections())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base has it
        """Take a connection; where there are enough, one without a request gives way to it."""
        super().connection_made(transport)
        self._without_request.add(self)
        self._wait()
        if len(self.connections) > self.most:
            self._without_request.oldest_of_most().give_way()  # this one at least is among them

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._without_request.discard(self)
        self._wait_no_more()
        self._read_again()
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Its client does not read what was sent: it has `read_s` seconds to begin."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._read_again()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if len(self.pipeline) >= PIPELINED:
            self.pipeline.clear()
            self.transport.abort()
        if self.transport.is_closing():
            raise _GivenUp
        self._in_head, self._taken = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self._in_head = False
        self._wait_no_more()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The end of its body: until then it is no request that anyone waits for."""
        self._without_request.discard(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete; where no further request came, it waits for one."""
        if not self.pipeline and not self.transport.is_closing():
            self._without_request.add(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Say that it is no HTTP, where anyone is left to be told."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

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

    def give_way(self) -> None:
        """Be closed for another that came, counted no more from here on."""
        self.connections.discard(self)
        self._without_request.discard(self)
        self.transport.abort()

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._wait_no_more()
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


def _address(connection: "BoundedConnection") -> str:
    return connection.client[0] if connection.client else ""


class _GivenUp(Exception):
    """What a client sent is not read any further."""
