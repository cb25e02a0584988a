"""What the service tells Prometheus, in a registry of its own."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS: Final = (0.001, 0.002, 0.004, 0.006, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Metrics:
    """The figures of one process of the service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "velo_serve", "registry": self.registry}
        self.scored = Histogram(
            "score_seconds", "To score a race, by where its features were.", ["origin"], buckets=SECONDS, **named
        )
        self.refused = Counter("refused", "Requests refused, by status.", ["status"], **named)
        self.listeners = Gauge("listeners", "Who listens to events.", **named)
        self.stale = Counter("stale_scores", "Scores in which some value was stale.", **named)

    def refusal(self, status: int) -> None:
        """One request was refused."""
        self.refused.labels(str(status)).inc()
