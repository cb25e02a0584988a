"""A stream's figures for Prometheus over HTTP, until the stream ends: no request outlives the server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from velo.errors import UserError

SLOWEST_SECONDS: Final = 2.0
"""How long whoever asks may take to say what for, or to take the answer."""


class _Request(WSGIRequestHandler):
    """One request of a client that is not waited for without end; nothing is logged of it."""

    timeout = SLOWEST_SECONDS

    def log_message(self, *_said: Any) -> None:
        """Not a word: a figure is asked for every few seconds."""


class _Server(WSGIServer):
    """Answers one request after another, in the one thread that `shutdown` waits for.

    A thread for each, as prometheus_client has it, may still answer when the interpreter ends, and abort it.
    """

    def handle_error(self, *_of: Any) -> None:
        """A client that went away, or said nothing, is not ours to tell of."""


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve the figures of a registry on an address, yielding the port (a free one is taken for 0), until the end.

    Raises `UserError` where it cannot be listened on.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        of_family = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer = of_family(address, _Request)
    except OSError as refused:
        raise UserError(
            f"cannot serve figures on {host}:{port} ({refused.strerror}): name another --metrics-port"
        ) from None
    server.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
