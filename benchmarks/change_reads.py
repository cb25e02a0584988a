"""What runs beside the changes of `velo bench change`: results that arrive, a reader of Redis; and the tables that tell whether a row read is right."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any, Final

import duckdb
import numpy as np

from benchmarks.stores import until
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.whole import Expected, NotWhole
from velo.racing.messages import Result
from velo.storage import table_versions
from velo.storage.log.reader import end, messages
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.staging import parquet
from velo.streams.dataflow.metrics import position

READ: Final = ("trainer_velocity", "draw_bias", "jockey_course", "horse_form")
KEYS: Final = 20
"""Keys of each view that the reader polls: those with the most rows."""
READ_EVERY_S: Final = 0.01
APPEND_EVERY_S: Final = 0.1
MOST_BEHIND: Final = 1000
"""No result is appended while the stream is this many behind: on a busy machine it reads less than `rate`."""
RESULTS_A_DAY: Final = 1000
"""Appended results of one made-up race day."""
FOREVER_US: Final = 2**62
Key = tuple[str, ...]
Changelog = dict[Key, list[tuple[int, tuple[Any, ...]]]]
"""The rows of a view by key, in order of time: instants in µs, and the values of its features."""


@contextmanager
def beside(work: Callable[[Event], None]) -> Iterator["Future[None]"]:
    """Run `work` in a thread until the block ends, which sets its event; raises there what the work raised."""
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work, stop)
        try:
            yield running
        finally:
            stop.set()
            running.result()


class Arriving:
    """Appends results of the store again, at later days and under new ids, `rate` a second, while it is `running`."""

    def __init__(self, store: Store, rate: float) -> None:
        self.store, self.rate, self.appended, self.seconds = store, rate, 0, 0.0
        self._results = [message for _, message in messages(store.home) if isinstance(message, Result)]
        self._last = max(result.race.off_time for result in self._results)
        self._pause, self._idle = Event(), Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Results arrive within the block."""
        with beside(self._append) as self._running:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No result arrives within the block."""
        self._idle.clear()
        self._pause.set()
        until(lambda: self._idle.is_set() or self._running.done())
        try:
            yield
        finally:
            self._pause.clear()

    def _append(self, stop: Event) -> None:
        owed, before, first = 0.0, time.monotonic(), end(self.store.home).next_seq
        with LogWriter.open(self.store, clock=lambda: datetime.now(UTC)) as writer:
            while not stop.wait(APPEND_EVERY_S):
                elapsed, before = time.monotonic() - before, time.monotonic()
                if self._pause.is_set():
                    self._idle.set()
                    continue
                self.seconds += elapsed
                where = position(self.store.home)
                if where is not None and where.next_seq + MOST_BEHIND < first + self.appended:
                    continue
                owed += elapsed * self.rate
                if (due := int(owed)) > 0:
                    writer.load([self._again(self.appended + number) for number in range(due)])
                    writer.sync()
                    self.appended, owed = self.appended + due, owed - due

    def _again(self, number: int) -> Result:
        result = self._results[number % len(self._results)]
        day, within = divmod(number, RESULTS_A_DAY)
        off = self._last + timedelta(days=day + 2, seconds=30 * within)
        local = off.astimezone(self.store.timezone).date()
        race = replace(result.race, race_id=f"again {number}", race_date=local, off_time=off)
        return replace(result, race=race, result_version=1, known_at=off + timedelta(minutes=15))


@dataclass(frozen=True, slots=True)
class RowRead:
    """A row as it was read: its view, the formulas of the tables before and after the read, its key, instant (µs) and values."""

    view: str
    formulas: frozenset[str]
    key: Key
    event_us: int
    values: tuple[float | None, ...]


class Reader:
    """Polls some keys of each view of `READ` as a service does: one atomic read, refused where Redis is not whole.

    `changed` has the families of the catalogue after the edits, by view.
    """

    def __init__(self, store: Store, changed: Mapping[str, Family]) -> None:
        self.store, self.rows, self.refused = store, 0, 0
        self.seen: set[RowRead] = set()
        self._client = connect(store.home)
        self._expected: dict[str, dict[str, tuple[Layout, Expected]]] = {}
        for view in READ:
            layouts = {Layout.of(family) for family in (BY_VIEW[view], changed.get(view, BY_VIEW[view]))}
            self._expected[view] = {
                f"{layout.fingerprint:08x}": (layout, Expected(store.home, (layout,))) for layout in layouts
            }
        self.keys = {view: _busiest(store, BY_VIEW[view]) for view in READ}

    @contextmanager
    def running(self) -> Iterator[None]:
        """It reads within the block."""
        with beside(self._poll):
            yield

    def _poll(self, stop: Event) -> None:
        while not stop.wait(READ_EVERY_S):
            for view in READ:
                self._read(view)

    def _read(self, view: str) -> None:
        before = {mark: expected.before_read() for mark, (_, expected) in self._expected[view].items()}
        then = self._formulas(view)
        any_layout = next(iter(self._expected[view].values()))[0]
        with self._client.pipeline(transaction=True) as pipe:
            pipe.execute_command("HGET", any_layout.index_key, "fill")
            for key in self.keys[view]:
                pipe.execute_command("HGET", any_layout.redis_key(key), any_layout.packed_field)
            fill, *packed = pipe.execute()
        head = RaceCards(self._client).head()
        reached = None if head is None else (head.generation, head.seq)
        mark = fill.decode().split(":")[2] if fill else ""
        if mark not in self._expected[view]:
            self.refused += 1
            return
        layout, expected = self._expected[view][mark]
        try:
            expected.refuse(before[mark], [view], [fill.decode()], reached)
        except NotWhole:
            self.refused += 1
            return
        formulas = frozenset(filter(None, (then, self._formulas(view))))
        for key, row in zip(self.keys[view], packed, strict=True):
            self.seen.add(self._row(view, layout, formulas, key, row))
            self.rows += 1

    def _row(self, view: str, layout: Layout, formulas: frozenset[str], key: Key, packed: bytes | None) -> RowRead:
        if packed is None or len(packed) != layout.packed_type.itemsize:
            return RowRead(view, formulas, key, 0, ())
        [row] = np.frombuffer(packed, dtype=layout.packed_type)
        values = tuple(None if math.isnan(value) else float(value) for value in row["values"][:-1])
        return RowRead(view, formulas, key, int(row["event_us"]), values)

    def _formulas(self, view: str) -> str | None:
        return manifest(self.store).formulas.views.get(view)


def manifest(store: Store) -> table_versions.Manifest:
    """The manifest of the current tables."""
    folder = table_versions.current(store.home)
    assert folder is not None
    return table_versions.manifest_of(folder)


def _busiest(store: Store, family: Family) -> list[Key]:
    parts = sorted((store.home.offline / family.view).glob("*.parquet"))
    names = ", ".join(family.keys)
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT {names} FROM {parquet(parts)} GROUP BY ALL ORDER BY count(*) DESC, {names} LIMIT {KEYS}"  # noqa: S608 our own names
        ).fetchall()


def changelog(folder: Path, family: Family, keys: Collection[Key] = (), until_us: int = FOREVER_US) -> Changelog:
    """The rows that a build made of a view, up to an instant: of some keys, or of all."""
    parts = sorted(part for part in (folder / family.view).glob("*.parquet") if not part.name.startswith("stream-"))
    names = ", ".join((*family.keys, "epoch_us(event_timestamp)", *(feature.name for feature in family.features)))
    held: Changelog = {key: [] for key in keys}
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT {names} FROM {parquet(parts)} WHERE epoch_us(event_timestamp) <= {until_us} ORDER BY event_timestamp"  # noqa: S608 our own names
        )
        count = len(family.keys)
        while row := rows.fetchone():
            if not keys or row[:count] in held:
                held.setdefault(row[:count], []).append((row[count], row[count + 1 :]))
    return held


def agrees(row: RowRead, rows_of: Mapping[Key, Sequence[tuple[int, tuple[Any, ...]]]]) -> bool:
    """Whether a row has the values of its key at its instant; a row equal to the one before may be left out of a build."""
    rows = rows_of[row.key]
    at = bisect_right(rows, row.event_us, key=lambda held: held[0]) - 1
    if at < 0 or len(rows[at][1]) != len(row.values):
        return False
    return all(
        (value is None) == (held is None) and (value is None or math.isclose(value, held, rel_tol=1e-9, abs_tol=1e-9))
        for value, held in zip(row.values, rows[at][1], strict=True)
    )
