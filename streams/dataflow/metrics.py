"""The reports of a stream: metrics for Prometheus, a log of JSON lines, a file for `velo status`."""

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
from velo.storage.table_versions import Manifest

LOCK: Final = ".lock"
"""In the stream's folder: the lock that the process of a stream holds."""
_log = logging.getLogger("velo.stream")
SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5, 30, 120)


class Telemetry:
    """The metrics of a stream, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "velo_stream", "registry": self.registry}
        self.messages = Counter("messages", "Records read from the log, by type.", ["type"], **named)
        self.stale = Counter("stale_versions", "Results that came after a higher version of their race.", **named)
        self.rows = Counter("rows", "Feature rows written, by store and view.", ["store", "view"], **named)
        self.repeated = Counter(
            "repeated_rows", "Rows that were made again after a restart and skipped.", ["view"], **named
        )
        self.coalesced = Counter(
            "coalesced_rows", "Rows skipped because a newer row for the key was in the same batch.", **named
        )
        self.dead_letters = Counter("dead_letters", "Records that cannot be read.", **named)
        self.lag_messages = Gauge("lag_messages", "Records of the log that are not read yet.", **named)
        self.next_seq = Gauge("next_seq", "The record that is read next.", **named)
        self.fresh = Histogram(
            "fresh_seconds", "From known_at to readable in Redis, of live messages.", buckets=SECONDS, **named
        )
        self.sealed = Histogram("seal_seconds", "To seal a view's Parquet part.", buckets=SECONDS, **named)
        self.keys = Gauge("keys", "Keys whose state is in memory, by view.", ["view"], **named)
        self.away = Gauge("store_away", "1 while a store is unavailable, by store.", ["store"], **named)

    def count_record(self, kind: str, *, stale: bool) -> None:
        """Count one record."""
        self.messages.labels(kind).inc()
        if stale:
            self.stale.inc()
        if kind == "unreadable":
            self.dead_letters.inc()


def say(event: str, **fields: object) -> None:
    """Write one event with its fields to the log."""
    _log.info(event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Formats a log record as one JSON object: time, level, event, pid and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its line end."""
        at = to_text(datetime.fromtimestamp(record.created, UTC))
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), "pid": os.getpid()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}), default=str, ensure_ascii=False)


def log_json(stream: TextIO = sys.stderr) -> None:
    """Write everything that this process logs as JSON lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a stream in the log: `next_seq` of log `log_generation`, at instant `at`; `at_end` says whether that is the end.

    Both stores have everything before `sealed_seq`, in tables of the formulas of `epoch`; 0 as an earlier version wrote it.
    While the stream catches up by batch, `catching_up_to` is the seq of the log's end then; else 0.
    """

    log_generation: int
    next_seq: int
    sealed_seq: int
    at: str
    at_end: bool
    running: bool
    epoch: int = 0
    catching_up_to: int = 0

    def write(self, home: Home) -> None:
        """Write it for `velo status`, atomically."""
        path = make_folder(home.stream) / "position.json"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(path)


def position(home: Home) -> Position | None:
    """Return the position that the stream last reported; None where it never ran."""
    try:
        return Position(**json.loads((home.stream / "position.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sealed_into(home: Home, manifest: Manifest) -> int:
    """The seq before which the stream has sealed everything into the tables of a manifest; 0 where it sealed nothing there."""
    where = position(home)
    if where is None or (where.log_generation, where.epoch) != (manifest.log_generation, manifest.epoch):
        return 0
    return where.sealed_seq


def is_streaming(home: Home) -> bool:
    """Whether a process holds the right to stream."""
    return locks.is_held(home.stream / LOCK)
