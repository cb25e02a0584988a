"""A stream run in this process for tests, and what it left in both stores."""

import json
import math
import shutil
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition

from tests.support.engine import reading
from tests.support.oracle import JOIN_KEYS
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.redis_rows import RedisRows
from velo.racing.clock import to_us
from velo.racing.messages import Message
from velo.settings import Settings
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.catch_up import catch_up as build_missed
from velo.streams.dataflow.checkpoint_writer import CheckpointWriter
from velo.streams.dataflow.log_source import LogPartition, LogSource
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.operators import LogRecord
from velo.streams.dataflow.runtime import StreamOptions, plan, run, source_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS_AND_SUMS = 1e-12
CURVES = 1e-9
Rows = dict[tuple[Any, ...], tuple[Any, ...]]


@dataclass(frozen=True)
class Cut(FixedPartitionedSource[tuple[str, LogRecord], int]):
    """The log, cut off after so many batches as if the process had died there: nothing is sealed or remembered."""

    log: LogSource
    batches: int

    def list_parts(self) -> list[str]:
        return self.log.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> "CutPartition":
        return CutPartition(self.log.build_part(step_id, for_part, resume_state), self.batches)


@dataclass
class CutPartition(StatefulSourcePartition[tuple[str, LogRecord], int]):
    log: LogPartition
    left: int
    began: int = field(default=0)

    def next_batch(self) -> list[tuple[str, LogRecord]]:
        if self.left == 0:
            self.log.tail.close()
            raise AbortExecution
        self.left -= 1
        return self.log.next_batch()

    def snapshot(self) -> int:
        return self.log.snapshot()


def streamed(
    store: Store,
    *,
    cut_after: int | None = None,
    batch: int = 100,
    clock: Callable[[], datetime] = lambda: NOW,
    online: bool = False,
    snapshot_every: timedelta = timedelta(0),
    stop: threading.Event | None = None,
    catch_up: int = 0,
) -> Telemetry:
    """Run the stream to the log's end, or until it is cut off; from `catch_up` messages behind on it builds them first."""
    telemetry, stop = Telemetry(), stop or threading.Event()
    options = StreamOptions(once=True, online=online, snapshot_every=snapshot_every, batch=batch)
    planned = plan(store)
    if build_missed(planned, clock, telemetry, stop, catch_up):
        planned = plan(planned.store, catch_up)
    sealing = CheckpointWriter(beside=True)
    log = source_of(planned, options, clock, stop, telemetry, sealing=sealing)
    cut = None if cut_after is None else Cut(log, cut_after)
    run(planned, options, clock, telemetry, stop=stop, source=cut, sealing=sealing)
    return telemetry


def rows_of(store: Store, view: str) -> Rows:
    """Every row of a view's parts by key and event time; a row that is there twice fails the test."""
    family = BY_VIEW[view]
    parts = sorted(str(part) for part in (store.home.offline / view).glob("*.parquet"))
    if not parts:
        return {}
    columns = ", ".join(("epoch_us(valid_until)", *(feature.name for feature in family.features)))
    with reading() as connection:
        found = connection.execute(
            f"SELECT {', '.join(family.keys)}, epoch_us(event_timestamp), {columns} FROM read_parquet($parts)",
            {"parts": parts},
        ).fetchall()
    width = len(family.keys) + 1
    rows = {row[:width]: row[width:] for row in found}
    assert len(rows) == len(found), f"{view} holds a row twice"
    return rows


def all_rows(store: Store) -> dict[str, Rows]:
    """Every row of every view."""
    return {family.view: rows_of(store, family.view) for family in FAMILIES}


def batch_twin(store: Store, home: Path) -> Store:
    """A store with the same log, built again by the batch."""
    home.mkdir()
    shutil.copytree(store.home.log, home / "log")
    twin = Store.open(Settings(home=home, timezone=store.timezone)).save()
    build(twin, NOW)
    return twin


def assert_same(got: dict[str, Rows], expected: dict[str, Rows]) -> None:
    """The same function of time for every key of every view: the same changes, every value as near as contract 7 says."""
    for view, rows in expected.items():
        if got[view] == rows:
            continue
        mine, theirs = changes(view, got[view]), changes(view, rows)
        assert mine.keys() == theirs.keys(), view
        for key, values in theirs.items():
            assert not apart(view, mine[key], values), (view, key, apart(view, mine[key], values))


def changes(view: str, rows: Rows) -> Rows:
    """The rows that differ from the one before of their key: others may be kept or left out (contract 6)."""
    kept: Rows = {}
    before: tuple[Any, ...] | None = None
    for key in sorted(rows):
        if before is None or before[:-1] != key[:-1] or apart(view, rows[before], rows[key]):
            kept[key] = rows[key]
        before = key
    return kept


def apart(view: str, got: tuple[Any, ...], expected: tuple[Any, ...]) -> list[tuple[str, Any, Any]]:
    """The values of two rows that differ by more than contract 7 lets them."""
    names = ("valid_until", *(feature.name for feature in BY_VIEW[view].features))
    pairs = zip(names, got, expected, strict=True)
    return [(name, mine, theirs) for name, mine, theirs in pairs if not agrees(name, mine, theirs)]


def tell(store: Store, messages: Sequence[Message]) -> None:
    """Append messages with the instants they bring."""
    with LogWriter.open(store, clock=lambda: NOW) as writer:
        writer.load(messages)


def assert_online(store: Store, expected: dict[str, Rows]) -> None:
    """Redis holds the last values of every key of some tables."""
    held = online_rows(store, expected)
    for view, rows in latest(expected).items():
        now = {key[:-1]: values for key, values in held[view].items()}
        then = {key[:-1]: values for key, values in rows.items()}
        if now == then:
            continue
        assert now.keys() == then.keys(), view
        for key, values in then.items():
            assert not apart(view, now[key], values), (view, key, apart(view, now[key], values))


def agrees(name: str, got: Any, expected: Any) -> bool:
    """Whether two values of a feature are the same as contract 7 counts it."""
    if not isinstance(got, float) or not isinstance(expected, int | float):
        return bool(got == expected)
    allowed = CURVES if name.rpartition("_")[2] in ("ewma", "slope", "var") else COUNTS_AND_SUMS
    return math.isclose(got, expected, rel_tol=allowed, abs_tol=allowed)


def online_rows(store: Store, expected: dict[str, Rows]) -> dict[str, Rows]:
    """What Redis holds of every key of some tables, in their form: by key and event time."""
    redis = RedisRows(connect(store.home, store.redis_url))
    held: dict[str, Rows] = {}
    for view, rows in expected.items():
        layout = Layout.of(BY_VIEW[view])
        keys = sorted({row[:-1] for row in rows})
        [found] = redis.read_packed([(layout, keys)])
        until = found.valid_until.astype("datetime64[us]")
        held[view] = {
            (*key, int(event.astype(np.int64))): (
                None if np.isnat(end) else int(end.astype(np.int64)),
                *(None if np.isnan(value) else float(value) for value in values),
            )
            for key, event, end, values, there in zip(
                keys, found.event_timestamp, until, found.values, found.present, strict=True
            )
            if there
        }
    return held


def latest(tables: dict[str, Rows]) -> dict[str, Rows]:
    """The last row of each key."""
    found: dict[str, Rows] = {}
    for view, rows in tables.items():
        newest: dict[tuple[Any, ...], int] = {}
        for row in rows:
            newest[row[:-1]] = max(newest.get(row[:-1], row[-1]), row[-1])
        found[view] = {(*key, at): rows[*key, at] for key, at in newest.items()}
    return found


def wrong_probes(tables: dict[str, Rows], probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conformance probes that some tables do not agree with."""
    instants: dict[str, dict[tuple[Any, ...], list[int]]] = {}
    for view, rows in tables.items():
        of_view = instants.setdefault(view, {})
        for row in sorted(rows, key=lambda row: row[-1]):
            of_view.setdefault(row[:-1], []).append(row[-1])
    return [probe for probe in probes if not _holds(probe, tables, instants)]


def _holds(
    probe: dict[str, Any], tables: dict[str, Rows], instants: dict[str, dict[tuple[Any, ...], list[int]]]
) -> bool:
    view = probe["view"]
    entity = json.loads(probe["entity"])
    key = tuple(entity[name] for name in JOIN_KEYS[view])
    of_key = instants[view].get(key, [])
    place = bisect_right(of_key, to_us(probe["as_of"]))
    if probe["features"] is None:
        return place == 0
    expected = json.loads(probe["features"])
    names = ["valid_until", *(feature.name for feature in BY_VIEW[view].features)]
    values = tables[view].get((*key, of_key[place - 1])) if place else None
    return values is not None and all(
        agrees(name, value, expected[name]) for name, value in zip(names, values, strict=True)
    )
