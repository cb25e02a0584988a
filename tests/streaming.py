"""A stream run in this process for tests, and what it left in both stores."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from feature_repo.catalogue.families import BY_VIEW, FAMILIES
from streams.dataflow.run import Options, plan, run
from streams.dataflow.telemetry import Telemetry
from velo.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Rows = dict[tuple[Any, ...], tuple[Any, ...]]


def streamed(
    store: Store,
    *,
    clock: Callable[[], datetime] = lambda: NOW,
    online: bool = False,
    snapshot_every: timedelta = timedelta(0),
    stop: threading.Event | None = None,
    once: bool = True,
) -> Telemetry:
    """Run the stream to the log's end."""
    telemetry = Telemetry()
    options = Options(once=once, online=online, snapshot_every=snapshot_every)
    run(plan(store), options, clock, telemetry, stop=stop)
    return telemetry


def rows_of(store: Store, view: str, folder: Path | None = None) -> Rows:
    """Every row of a view's parts by key and event time; a row that is there twice fails the test."""
    family = BY_VIEW[view]
    parts = sorted(str(part) for part in ((folder or store.home.offline) / view).glob("*.parquet"))
    if not parts:
        return {}
    columns = ", ".join(("valid_until", *(feature.name for feature in family.features)))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT {', '.join(family.keys)}, epoch_us(event_timestamp), {columns} FROM read_parquet($parts)",
            {"parts": parts},
        ).fetchall()
    width = len(family.keys) + 1
    rows = {row[:width]: row[width:] for row in found}
    assert len(rows) == len(found), f"{view} holds a row twice"
    return rows


def all_rows(store: Store, folder: Path | None = None) -> dict[str, Rows]:
    """Every row of every view."""
    return {family.view: rows_of(store, family.view, folder) for family in FAMILIES}


def stream_parts(store: Store) -> list[str]:
    """The names of the stream's parts now current, by view and name."""
    return sorted(f"{part.parent.name}/{part.name}" for part in store.home.offline.glob("*/stream-*.parquet"))
