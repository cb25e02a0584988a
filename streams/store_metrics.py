"""What a store's folder tells of its health, looked at afresh each time Prometheus asks: room, ages, what was refused."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from velo.storage import table_versions
from velo.storage.log.reader import end
from velo.storage.store import Home

SAID = {
    "disk_free_bytes": "Room on the disk that holds the store.",
    "dead_letters_bytes": "Size of the file of dead letters: what was refused makes it grow.",
    "log_messages": "Messages in the log.",
    "log_silent_seconds": "How long ago the last message of the log became known.",
    "log_ahead_seconds": "How far the log's last instant is ahead of this machine's clock.",
    "tables_age_seconds": "How long ago a build last published the offline tables.",
}
"""The figures, under `velo_store_`, with their help."""


@dataclass(frozen=True, slots=True)
class StoreWatch(Collector):
    """A Prometheus collector over a home; `clock` gives UTC. What cannot be read is left out, not zero."""

    home: Home
    clock: Callable[[], datetime]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures of this moment."""
        for name, look in self._looks().items():
            family = GaugeMetricFamily(f"velo_store_{name}", SAID[name])
            try:
                value = look()
            except (OSError, ValueError):
                # the folder is away, or its last line is being written
                value = None
            if value is not None:
                family.add_metric((), value)
            yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names alone, so that registering reads nothing."""
        for name, said in SAID.items():
            yield GaugeMetricFamily(f"velo_store_{name}", said)

    def _looks(self) -> dict[str, Callable[[], float | None]]:
        return {
            "disk_free_bytes": self._disk_free,
            "dead_letters_bytes": self._dead_letters,
            "log_messages": lambda: end(self.home).next_seq,
            "log_silent_seconds": lambda: self._since_log(max),
            "log_ahead_seconds": lambda: self._since_log(min),
            "tables_age_seconds": self._tables_age,
        }

    def _disk_free(self) -> float:
        held = os.statvfs(self.home.root)
        return held.f_bavail * held.f_frsize

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
