"""Metrics over HTTP for Prometheus: the server of a stream's process, and the metrics of a store's files."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from velo.errors import UserError
from velo.storage import table_versions
from velo.storage.log.reader import end
from velo.storage.store import Home

HELP = {
    "disk_free_bytes": "Free bytes on the disk of the store.",
    "dead_letters_bytes": "Size of the dead-letter file, which grows with refused messages.",
    "log_messages": "Messages in the log.",
    "log_silent_seconds": "Seconds since the known_at of the log's last message.",
    "log_ahead_seconds": "Seconds by which the log's last known_at is ahead of this machine's clock.",
    "tables_age_seconds": "Seconds since a build last published the offline tables.",
}
"""The metrics, named `velo_store_…`, with their help."""


@dataclass(frozen=True, slots=True)
class StoreWatch(Collector):
    """A Prometheus collector for a home; `clock` returns UTC. A value that cannot be read is left out, not zero."""

    home: Home
    clock: Callable[[], datetime]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the current metrics."""
        for name, read in self._readers().items():
            family = GaugeMetricFamily(f"velo_store_{name}", HELP[name])
            try:
                value = read()
            except (OSError, ValueError):
                # the folder is unavailable, or a line is being written
                value = None
            if value is not None:
                family.add_metric((), value)
            yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the names only, so that registration reads nothing."""
        for name, words in HELP.items():
            yield GaugeMetricFamily(f"velo_store_{name}", words)

    def _readers(self) -> dict[str, Callable[[], float | None]]:
        return {
            "disk_free_bytes": self._disk_free,
            "dead_letters_bytes": self._dead_letters,
            "log_messages": lambda: end(self.home).next_seq,
            "log_silent_seconds": lambda: self._since_log(max),
            "log_ahead_seconds": lambda: self._since_log(min),
            "tables_age_seconds": self._tables_age,
        }

    def _disk_free(self) -> float:
        disk = os.statvfs(self.home.root)
        return disk.f_bavail * disk.f_frsize

    def _dead_letters(self) -> float:
        return self.home.dead_letters.stat().st_size if self.home.dead_letters.exists() else 0

    def _since_log(self, side: Callable[[float, float], float]) -> float | None:
        known_at = end(self.home).known_at
        return None if known_at is None else abs(side(0.0, (self.clock() - known_at).total_seconds()))

    def _tables_age(self) -> float | None:
        generation = table_versions.current(self.home)
        if generation is None:
            return None
        written = (generation / table_versions.MANIFEST).stat().st_mtime
        return max(0.0, (self.clock() - datetime.fromtimestamp(written, UTC)).total_seconds())


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
