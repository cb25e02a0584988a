"""The service over real sockets, in a thread of this process, as `velo serve` runs it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from velo.serving.api.app import app_of
from velo.serving.api.connections import BoundedConnection
from velo.serving.api.service import Service

TOKEN = "a token"


@dataclass(frozen=True, slots=True)
class Up:
    """A service that is up at a port of the loopback."""

    port: int
    app: Any
    server: uvicorn.Server

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def asks(self, path: str, **headers: str) -> socket.socket:
        """A connection on which a path was asked for."""
        made = self.connect()
        found = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{found}\r\n".encode())
        return made


@contextmanager
def up(service: Service, port: int = 0, http: type[BoundedConnection] = BoundedConnection, **app: Any) -> Iterator[Up]:
    listening = socket.create_server(("127.0.0.1", port), backlog=2048)
    made = app_of(service, TOKEN)
    for name, value in app.items():
        setattr(made.state, name, value)
    config = uvicorn.Config(
        made, log_level="error", access_log=False, timeout_graceful_shutdown=1, http=http, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Up(listening.getsockname()[1], made, server)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def until(connection: socket.socket, wanted: bytes) -> bytes:
    """What comes up to some bytes, or to the end."""
    received = b""
    while wanted not in received:
        part = connection.recv(65536)
        if not part:
            break
        received += part
    return received


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
