"""Metrics over HTTP for Prometheus: the server of a stream's process, and the metrics of a store's files."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
MONITOR_HELP: Final = {
    "alarms": "Alarms of the last report of velo monitor that last, by kind.",
    "age_seconds": "Seconds since velo monitor wrote its last report.",
    "feature_psi": "Population stability index of a served feature over the last race days, against the training set.",
    "feature_js_bits": "Jensen-Shannon divergence of a served feature over the last race days, against the training set.",
    "feature_null_share": "Share of nulls of a served feature over the last race days.",
    "score": "Figures of the settled scores: log_loss, market_log_loss, margin, exponent, clv.",
}
"""The metrics of the last report on what is served, named `velo_monitor_…`, with their help."""
MONITOR_LABELS: Final = {
    "alarms": ("kind",),
    "feature_psi": ("feature",),
    "feature_js_bits": ("feature",),
    "feature_null_share": ("feature",),
    "score": ("of", "figure"),
}
ALARM_KINDS: Final = ("mean", "null share", "shape", "served otherwise", "calibration")
SCORE_FIGURES: Final = ("log_loss", "market_log_loss", "margin", "exponent", "clv")


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
        yield from self._monitored()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the names only, so that registration reads nothing."""
        for name, words in HELP.items():
            yield GaugeMetricFamily(f"velo_store_{name}", words)
        for name, words in MONITOR_HELP.items():
            yield GaugeMetricFamily(f"velo_monitor_{name}", words, labels=MONITOR_LABELS.get(name, ()))

    def _monitored(self) -> Iterator[GaugeMetricFamily]:
        """The metrics of the last report on what is served; none without a report."""
        try:
            report: dict[str, Any] = json.loads(self.home.monitor_report.read_bytes())
        except (OSError, ValueError):
            return
        age = (self.clock() - datetime.fromisoformat(report["written_at"])).total_seconds()
        yield _gauge("age_seconds", [((), max(0.0, age))])
        lasting = [alarm["kind"] for alarm in report["alarms"] if alarm["cleared"] is None]
        yield _gauge("alarms", [((kind,), lasting.count(kind)) for kind in ALARM_KINDS])
        for name, field in (("psi", "psi"), ("js_bits", "js"), ("null_share", "null_share")):
            values = [((feature["feature"],), feature[field]) for feature in report["features"]]
            yield _gauge(f"feature_{name}", values)
        figures = [((score["of"], name), score[name]["value"]) for score in report["scores"] for name in SCORE_FIGURES]
        yield _gauge("score", [(labels, value) for labels, value in figures if value is not None])

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


def _gauge(name: str, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    labels = MONITOR_LABELS.get(name, ())
    family = GaugeMetricFamily(f"velo_monitor_{name}", MONITOR_HELP[name], labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


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
