"""`velo bench replay FILE`: stream a whole runner table, then audit every value.

The stream runs as a user runs it, in a process of its own, from an empty store. What it leaves is audited (its own
Parquet at every instant, Redis for every key, against a new build), and compared with the probes of a file if one is given.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb
from rich.table import Table

from benchmarks.stores import environ, machine, now
from velo.errors import UserError
from velo.feature_repo.catalogue.families import BY_VIEW
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.redis_client import connect
from velo.racing.clock import to_us
from velo.settings import Settings, zone_named
from velo.storage.store import Store
from velo.streams.audit import audit
from velo.streams.importers.ingest import ingest
from velo.streams.importers.sources.runners import read_runner_tables
from velo.text_tables import facts

TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """One replay: messages, seconds of the stream (start-up included) and of the audit, and the differences.

    `values_compared` counts instants by store; `probes` is their number, 0 without a file.
    """

    messages: int
    stream_seconds: float
    audit_seconds: float
    values_compared: dict[str, int]
    differences: int
    probes: int
    probes_wrong: int
    machine: str

    @property
    def broken(self) -> bool:
        """Whether a value differs from the fresh batch, or from an independent one."""
        return bool(self.differences or self.probes_wrong)


def measure(runners: Path, timezone: str, probes: Path | None) -> ReplayFigures:
    """Replay a runner table and check everything that the stream left.

    Raises `UserError` where a file cannot be read, and RuntimeError with its output where the stream fails.
    """
    with TemporaryDirectory() as scratch:
        return replayed(Path(scratch) / "home", runners, timezone, probes)


def replayed(home: Path, runners: Path, timezone: str, probes: Path | None) -> ReplayFigures:
    """The same in a new home, which keeps its store; its Redis is stopped."""
    store = Store.open(Settings(home, zone_named(timezone))).save()
    ingest(store, read_runner_tables([runners], store), late=False, clock=now)
    begun = time.perf_counter()
    _stream(store)
    streamed = time.perf_counter()
    try:
        report = audit(store, now(), client=connect(store.home))
    finally:
        embedded_redis.down(store.home)
    audited = time.perf_counter()
    answers = list(_probed(store.home.offline, probes)) if probes else []
    return ReplayFigures(
        messages=report.next_seq,
        stream_seconds=round(streamed - begun, 1),
        audit_seconds=round(audited - streamed, 1),
        values_compared=report.compared,
        differences=report.found,
        probes=len(answers),
        probes_wrong=answers.count(False),
        machine=machine(),
    )


def _stream(store: Store) -> None:
    command = [sys.executable, "-m", "velo.cli", "stream", "--once", "--catch-up", "0"]
    done = subprocess.run(command, env=environ(store.home.root), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the stream ended with {done.returncode}: {done.stderr[-2000:]}")


def _probed(offline: Path, probes: Path) -> Iterator[bool]:
    """Whether the tables agree with each probe."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            probes_table = connection.sql("FROM read_parquet($probes)", params={"probes": str(probes)}).to_arrow_table()
        except duckdb.Error as unreadable:
            raise UserError(
                f"{probes} cannot be read ({str(unreadable).splitlines()[0]}): name a file of probes"
            ) from None
        connection.register("probes_table", probes_table)
        views = [view for (view,) in connection.execute("SELECT DISTINCT view FROM probes_table").fetchall()]
        for view in views:
            family = BY_VIEW[view]
            key = " AND ".join(f"json_extract_string(p.entity, '$.{name}') = t.{name}" for name in family.keys)
            parts = [str(part) for part in sorted((offline / view).glob("*.parquet"))]
            rows = connection.execute(
                f"SELECT p.features, t.* FROM (FROM probes_table WHERE view = $view) p "  # noqa: S608 the catalogue's names
                f"ASOF LEFT JOIN read_parquet($parts) t ON {key} AND p.as_of >= t.event_timestamp",
                {"view": view, "parts": parts},
            )
            names = [column[0] for column in rows.description or ()][1:]
            for expected, *values in rows.fetchall():
                yield _agrees(expected, dict(zip(names, values, strict=True)))


def _agrees(expected: str | None, row: dict[str, Any]) -> bool:
    if expected is None or row["event_timestamp"] is None:
        return expected is None and row["event_timestamp"] is None
    return all(_same(row[name], value) for name, value in json.loads(expected).items())


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, datetime):
        return bool(to_us(found) == expected)
    if isinstance(found, float) and expected is not None:
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == expected)


def table(figures: ReplayFigures) -> Table:
    """The figures for the terminal."""
    rows: list[tuple[str, object]] = [
        ("messages", figures.messages),
        ("stream, seconds", figures.stream_seconds),
        ("audit, seconds", figures.audit_seconds),
        *((f"{store} instants compared", count) for store, count in figures.values_compared.items()),
        ("differences", figures.differences),
        ("probes", f"{figures.probes - figures.probes_wrong:,} of {figures.probes:,} agree"),
    ]
    return facts(f"replay through the stream ({figures.machine})", rows)
