"""Serve a stream's metrics to Prometheus over HTTP until the stream ends; no request outlives the server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from velo.errors import UserError

SLOWEST_SECONDS: Final = 2.0
"""How long a client may take to send its request, or to read the answer."""


class _Request(WSGIRequestHandler):
    """One request, with a time limit; it is not logged."""

    timeout = SLOWEST_SECONDS

    def log_message(self, *_values: Any) -> None:
        """Log nothing: metrics are requested every few seconds."""


class _Server(WSGIServer):
    """Answers one request at a time, in the one thread that `shutdown` waits for.

    With a thread for each request, as in prometheus_client, one may still run when the interpreter ends, and abort it.
    """

    def handle_error(self, *_of: Any) -> None:
        """Ignore clients that disconnect or send nothing."""


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve the metrics of a registry on an address; yields the port (a free one for 0).

    Raises `UserError` where the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        of_family = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer = of_family(address, _Request)
    except OSError as refused:
        raise UserError(
            f"cannot serve metrics on {host}:{port} ({refused.strerror}): name another --metrics-port"
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
