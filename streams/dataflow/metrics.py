"""What a stream tells of itself: figures for Prometheus, one JSON object a line for people, a file for `velo status`."""

import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from velo.racing.clock import to_text
from velo.storage import locks
from velo.storage.atomic_files import make_folder
from velo.storage.store import Home

LOCK: Final = ".lock"
"""In the stream's folder: held by the processes of a stream for as long as they live."""
_log = logging.getLogger("velo.stream")
SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5, 30, 120)


class Telemetry:
    """The figures of one process of the stream, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "velo_stream", "registry": self.registry}
        self.messages = Counter("messages", "Records read from the log, by type.", ["type"], **named)
        self.stale = Counter("stale_versions", "Results told later than a higher version of their race.", **named)
        self.rows = Counter("rows", "Feature rows written, by store and view.", ["store", "view"], **named)
        self.repeated = Counter("repeated_rows", "Rows made again after a restart, and left out.", ["view"], **named)
        self.coalesced = Counter("coalesced_rows", "Rows not written online: a newer one of the key was.", **named)
        self.dead_letters = Counter("dead_letters", "Records that could not be read.", **named)
        self.lag_messages = Gauge("lag_messages", "Records in the log and not read yet.", **named)
        self.next_seq = Gauge("next_seq", "The record that is read next.", **named)
        self.fresh = Histogram(
            "fresh_seconds", "From known_at to readable in Redis, of live messages.", buckets=SECONDS, **named
        )
        self.sealed = Histogram("seal_seconds", "To seal a view's Parquet part.", buckets=SECONDS, **named)
        self.keys = Gauge("keys", "Keys whose state this process holds, by view.", ["view"], **named)
        self.away = Gauge("store_away", "1 while a store cannot be written, by store.", ["store"], **named)

    def told(self, kind: str, *, stale: bool) -> None:
        """One record took its turn."""
        self.messages.labels(kind).inc()
        if stale:
            self.stale.inc()
        if kind == "unreadable":
            self.dead_letters.inc()


def say(event: str, **facts: object) -> None:
    """One line of the structured log."""
    _log.info(event, extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A log record as one JSON object: when, how grave, what, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = to_text(datetime.fromtimestamp(record.created, UTC))
        told = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), "pid": os.getpid()}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told | getattr(record, "facts", {}), default=str, ensure_ascii=False)


def log_json(stream: TextIO = sys.stderr) -> None:
    """Have everything that is logged in this process written as JSON lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream has read: the record that comes next, of which log, when that was, and whether at its end.

    Before `sealed_seq` everything is in both stores for certain.
    """

    log_generation: int
    next_seq: int
    sealed_seq: int
    at: str
    at_end: bool
    running: bool

    def write(self, home: Home) -> None:
        """Leave it for `velo status`; a reader meets the old or the new."""
        path = make_folder(home.stream) / "position.json"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(path)


def position(home: Home) -> Position | None:
    """Where the stream was when it last said so; None where it never ran."""
    try:
        return Position(**json.loads((home.stream / "position.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_streaming(home: Home) -> bool:
    """Whether a process holds the right to stream."""
    return locks.is_held(home.stream / LOCK)
