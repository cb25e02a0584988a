"""What the service tells Prometheus, in a registry of its own."""

import os
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SECONDS: Final = (0.001, 0.002, 0.004, 0.006, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Metrics:
    """The figures of one process of the service, or of all that share a folder, in which each keeps its own."""

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "velo_serve", "registry": self.registry}
        self.scored = Histogram(
            "score_seconds", "To score a race, by where its features were.", ["origin"], buckets=SECONDS, **named
        )
        self.refused = Counter("refused", "Requests refused, by status.", ["status"], **named)
        self.listeners = Gauge("listeners", "Who listens to events.", multiprocess_mode="livesum", **named)
        self.stale = Counter("stale_scores", "Scores in which some value was stale.", **named)

    def refusal(self, status: int) -> None:
        """One request was refused."""
        self.refused.labels(str(status)).inc()

    def written(self) -> bytes:
        """The figures as Prometheus reads them; of all processes where they share a folder."""
        if self._shared is None:
            return generate_latest(self.registry)
        for path in self._shared.glob("gauge_live*_*.db"):
            process = int(path.stem.rpartition("_")[2])
            if not _runs(process):
                mark_process_dead(process, str(self._shared))  # type: ignore[no-untyped-call]
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(of_all)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
