"""`velo bench change`: change formulas beside a running stream and a reader, take each change back, and count wrong reads.

A copy of the program is the branch whose catalogue is edited: a window added, a formula changed, a family dropped. Each change is
planned over all keys, applied and rolled back by the commands, while results arrive and a reader polls Redis. What the plan
counted is compared with the tables that `velo apply` published, by a count of its own; each row that was read with a whole build
of the formulas of the tables at that moment. Then `velo apply` and `velo rollback` are killed at random moments.
"""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, Final

import duckdb
import numpy as np
from rich.table import Table

from benchmarks import CHECKOUT
from benchmarks.stores import OURS, machine, store_of, until
from velo.feature_repo.catalogue.aggregates import Ratio
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.whole import Expected, NotWhole
from velo.racing.clock import from_text
from velo.racing.messages import Result
from velo.settings import Settings
from velo.storage import table_versions
from velo.storage.log.reader import end, messages
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.batch.formulas import view_formulas
from velo.streams.batch.staging import parquet
from velo.streams.dataflow.metrics import position

PACKAGES: Final = ("velo", "feature_repo", "streams", "training", "serving")
FAMILIES_FILE: Final = Path("feature_repo/catalogue/families.py")
COLUMNS_FILE: Final = Path("feature_repo/catalogue/columns.py")
TRAINERS: Final = BY_VIEW["trainer_velocity"]
BIAS: Final = BY_VIEW["draw_bias"]
READ: Final = ("trainer_velocity", "draw_bias", "jockey_course", "horse_form")
KEYS: Final = 20
"""Keys of each view that the reader polls: those with the most rows."""
READ_EVERY_S: Final = 0.01
APPEND_EVERY_S: Final = 0.1
MOST_BEHIND: Final = 1000
"""No result is appended while the stream is this many behind: on a busy machine it reads less than `rate`."""
RESULTS_A_DAY: Final = 1000
"""Appended results of one made-up race day."""


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the catalogue: patterns to replace by file, and the families that it changes."""

    name: str
    replaced: tuple[tuple[Path, str, str], ...]
    changed: tuple[Family, ...] = ()
    dropped: tuple[str, ...] = ()


EDITS: Final = (
    Edit(
        "a window added",
        ((FAMILIES_FILE, re.escape("windows=(14, 30, 90)"), "windows=(14, 30, 60, 90)"),),
        changed=(replace(TRAINERS, windows=(14, 30, 60, 90)),),
    ),
    Edit(
        "a formula changed",
        (
            (
                FAMILIES_FILE,
                re.escape('"iv_shrunk", "win", "uni_e9", prior=5'),
                '"iv_shrunk", "win", "uni_e9", prior=10',
            ),
        ),
        changed=(
            replace(
                BIAS,
                windowed=tuple(
                    replace(each, prior=10) if isinstance(each, Ratio) and each.name == "iv_shrunk" else each
                    for each in BIAS.windowed
                ),
            ),
        ),
    ),
    Edit(
        "a family dropped",
        (
            (FAMILIES_FILE, r'    Family\(\n        "jockey_course",\n(?:        .*\n)+    \),\n', ""),
            (COLUMNS_FILE, r'(?:    "jockey_course__\w+",\n)+', ""),
        ),
        dropped=("jockey_course",),
    ),
)


@dataclass(frozen=True, slots=True)
class ChangeMeasured:
    """One change: seconds of the commands, of the switch of the rollback, and until the stream followed by the new formulas.

    `differ` counts the values that the plan said would change and `happened` those that did; `exact` is whether every count of
    every feature agreed. `audit_found` are the differences of the audits after the apply and after the rollback.
    """

    name: str
    plan_seconds: float
    apply_seconds: float
    followed_seconds: float
    rollback_seconds: float
    switch_seconds: float
    differ: int
    happened: int
    exact: bool
    audit_found: int


@dataclass(frozen=True, slots=True)
class ChangeFigures:
    """The changes, the kills, and what the reader saw: rows read, reads refused, rows that no build of their formulas has."""

    starts: int
    appended: int
    results_a_second: float
    changes: tuple[ChangeMeasured, ...]
    kills: int
    rows_read: int
    distinct_rows: int
    refused: int
    wrong: tuple[str, ...]
    audit_after_kills: int
    machine: str

    @property
    def broken(self) -> bool:
        """Whether a count was not exact, an audit found a difference, or a wrong row was read."""
        audits = self.audit_after_kills + sum(change.audit_found for change in self.changes)
        return bool(self.wrong or audits or not all(change.exact for change in self.changes))


def measure(
    starts: int,
    rate: float,
    kills: int,
    seed: int,
    runners: Path | None,
    timezone: str,
    progress: Callable[[str, int, int], None],
) -> ChangeFigures:
    """Make a store, change it beside a stream with `rate` results a second, and kill the commands `kills` times."""
    steps = len(EDITS) + kills + 2
    with TemporaryDirectory() as scratch:
        store, made = store_of(Path(scratch) / "home", starts, runners, timezone)
        branch = Branch(Path(scratch) / "branch", store)
        branch.velo("build")
        embedded_redis.ensure(store.home)
        try:
            with Arriving(store, rate) as arriving, branch.stream():
                branch.followed()
                with Reader(store) as reader:
                    changed = []
                    for done, edit in enumerate(EDITS):
                        progress(edit.name, done, steps)
                        changed.append(_changed(branch, edit, arriving))
                    chance = random.Random(seed)
                    took = changed[0].apply_seconds, changed[0].rollback_seconds
                    for done in range(kills):
                        progress("kill", len(EDITS) + done, steps)
                        _killed(branch, chance, took, rollback=done % 2 == 1)
                with arriving.paused():
                    branch.followed(to_the_end=True)
                    audited = branch.audit()
            progress("check what was read", steps - 1, steps)
            wrong = _wrong(store, reader, Path(scratch))
        finally:
            embedded_redis.down(store.home)
        return ChangeFigures(
            made, arriving.appended, round(arriving.appended / max(arriving.seconds, 1e-9), 1), tuple(changed), kills, reader.rows, len(reader.seen), reader.refused,
            tuple(wrong), audited, machine(),
        )  # fmt: skip


def _changed(branch: "Branch", edit: Edit, arriving: "Arriving") -> ChangeMeasured:
    """Plan, apply and roll back one edit; results arrive all the while but during the audits."""
    store = branch.store
    branch.edit(edit)
    planned, plan_seconds = branch.timed("plan", "--all", "--json")
    before = table_versions.current(store.home)
    applied, apply_seconds = branch.timed("apply", "--json")
    begun = time.perf_counter()
    branch.followed()
    followed_seconds = time.perf_counter() - begun
    after = table_versions.current(store.home)
    assert before is not None
    assert after is not None
    counts = list(_counts(planned["tables"], edit, before, after))
    found = 0
    with arriving.paused():
        branch.followed(to_the_end=True)
        found += branch.audit()
    branch.restore()
    rolled, rollback_seconds = branch.timed("rollback", "--json")
    with arriving.paused():
        branch.followed(to_the_end=True)
        found += branch.audit()
    views = {view["view"] for view in planned["tables"]["views"] if view["change"] != "untouched"}
    expected = {family.view for family in edit.changed} | {*edit.dropped}
    exact = bool(counts) and all(said == happened for said, happened in counts) and views == expected
    assert {*applied["build"]["computed"]} == {family.view for family in edit.changed}
    return ChangeMeasured(
        edit.name, round(plan_seconds, 2), round(apply_seconds, 2), round(followed_seconds, 2), round(rollback_seconds, 2),
        round(rolled["seconds"], 4), sum(said for said, _ in counts), sum(happened for _, happened in counts),
        exact, found,
    )  # fmt: skip


def _killed(branch: "Branch", chance: random.Random, took: tuple[float, float], *, rollback: bool) -> None:
    """Kill an apply, or a rollback of one, at a random moment; then the same command leads to its end."""
    window, base = EDITS[0], branch.fingerprint()
    branch.edit(window)
    if rollback:
        branch.velo("apply")
        changed = branch.fingerprint()
        branch.restore()
        branch.kill(chance.uniform(0, took[1]), "rollback")
        if branch.fingerprint() == changed:
            branch.velo("rollback")
    else:
        branch.kill(chance.uniform(0, took[0]), "apply")
        branch.velo("apply")
        branch.restore()
        branch.velo("rollback")
    if branch.fingerprint() != base:
        raise RuntimeError("the tables are not those of the formulas before")
    branch.followed()


class Branch:
    """A copy of the program, whose catalogue is edited, and the commands run from it on a store."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        for package in PACKAGES:
            shutil.copytree(
                CHECKOUT / package, folder / package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        self._texts = {path: (folder / path).read_text() for path in (FAMILIES_FILE, COLUMNS_FILE)}
        self._environ = {name: value for name, value in os.environ.items() if name not in OURS}
        self._environ |= {"VELO_HOME": str(store.home.root), "PYTHONPATH": str(folder)}

    def edit(self, edit: Edit) -> None:
        """Make an edit in the catalogue."""
        for path, pattern, text in edit.replaced:
            changed, count = re.subn(pattern, text, (self.folder / path).read_text(), count=1)
            if not count:
                raise RuntimeError(f"{path} has nothing to replace by {text!r}: correct benchmarks/change.py")
            (self.folder / path).write_text(changed)

    def restore(self) -> None:
        """Take every edit back."""
        for path, text in self._texts.items():
            (self.folder / path).write_text(text)

    def start(self, *argv: str, out: Any = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        """Start `velo …`."""
        command = [sys.executable, "-m", "velo.cli", *argv]
        return subprocess.Popen(command, cwd=self.folder, env=self._environ, stdout=out, stderr=out)

    def velo(self, *argv: str) -> bytes:
        """Run `velo …`; raises RuntimeError if it fails."""
        process = self.start(*argv)
        out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"velo {' '.join(argv)} ended with {process.returncode}: {err.decode()[-2000:]}")
        return bytes(out)

    def timed(self, *argv: str) -> tuple[dict[str, Any], float]:
        """Run `velo … --json`; returns its document and its seconds, start-up included."""
        begun = time.perf_counter()
        document: dict[str, Any] = json.loads(self.velo(*argv))
        return document, time.perf_counter() - begun

    def audit(self) -> int:
        """The differences that `velo audit` finds."""
        out, _ = self.start("audit", "--json").communicate()
        return int(json.loads(out)["found"])

    def kill(self, seconds: float, *argv: str) -> None:
        """Start `velo …` and kill it after some seconds; it may have ended."""
        process = self.start(*argv, out=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A running `velo stream`."""
        with (self.store.home.root / "stream.log").open("wb") as log:
            process = self.start("stream", "--snapshot-seconds", "2", out=log)
        try:
            yield
            if process.poll() is not None:
                said = (self.store.home.root / "stream.log").read_text()[-2000:]
                raise RuntimeError(f"the stream ended with {process.returncode}: {said}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def followed(self, *, to_the_end: bool = False) -> None:
        """Wait until the stream goes on by the formulas of the tables, or has applied all of the log by them."""

        def follows() -> bool:
            where = position(self.store.home)
            same = where is not None and where.running and where.epoch == _manifest(self.store).epoch
            return bool(same and where and (where.at_end or not to_the_end))

        until(follows)

    def fingerprint(self) -> str:
        """The formulas of the tables."""
        return _manifest(self.store).fingerprint


class Arriving:
    """Appends results of the store again, at later days and under new ids, `rate` a second, until the block ends."""

    def __init__(self, store: Store, rate: float) -> None:
        self.store, self.rate, self.appended, self.seconds = store, rate, 0, 0.0
        self._results = [message for _, message in messages(store.home) if isinstance(message, Result)]
        self._last = max(result.race.off_time for result in self._results)
        self._stop, self._pause = Event(), Event()
        self._idle = Event()
        self._thread = Thread(target=self._append)
        self._broken: BaseException | None = None

    def __enter__(self) -> "Arriving":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._broken is not None:
            raise self._broken

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No result arrives within the block."""
        self._idle.clear()
        self._pause.set()
        until(lambda: self._idle.is_set() or not self._thread.is_alive())
        try:
            yield
        finally:
            self._pause.clear()

    def _append(self) -> None:
        try:
            owed, before, first = 0.0, time.monotonic(), end(self.store.home).next_seq
            with LogWriter.open(self.store, clock=lambda: datetime.now(UTC)) as writer:
                while not self._stop.wait(APPEND_EVERY_S):
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
        except BaseException as broken:
            self._broken = broken
            raise

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
    key: tuple[str, ...]
    event_us: int
    values: tuple[float | None, ...]


class Reader:
    """Polls some keys of each view of `READ` as a service does: one atomic read, refused where Redis is not whole."""

    def __init__(self, store: Store) -> None:
        self.store, self.rows, self.refused = store, 0, 0
        self.seen: set[RowRead] = set()
        changed = {family.view: family for edit in EDITS for family in edit.changed}
        self._client = connect(store.home)
        self._expected: dict[str, dict[str, tuple[Layout, Expected]]] = {}
        for view in READ:
            layouts = {Layout.of(family) for family in (BY_VIEW[view], changed.get(view, BY_VIEW[view]))}
            self._expected[view] = {
                f"{layout.fingerprint:08x}": (layout, Expected(store.home, (layout,))) for layout in layouts
            }
        self.keys = {view: _busiest(store, BY_VIEW[view]) for view in READ}
        self._stop, self._thread = Event(), Thread(target=self._work)
        self._broken: BaseException | None = None

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._broken is not None:
            raise self._broken

    def _work(self) -> None:
        try:
            while not self._stop.wait(READ_EVERY_S):
                for view in READ:
                    self._read(view)
        except BaseException as broken:
            self._broken = broken
            raise

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

    def _row(
        self, view: str, layout: Layout, formulas: frozenset[str], key: tuple[str, ...], packed: bytes | None
    ) -> RowRead:
        if packed is None or len(packed) != layout.packed_type.itemsize:
            return RowRead(view, formulas, key, 0, ())
        [row] = np.frombuffer(packed, dtype=layout.packed_type)
        values = tuple(None if math.isnan(value) else float(value) for value in row["values"][:-1])
        return RowRead(view, formulas, key, int(row["event_us"]), values)

    def _formulas(self, view: str) -> str | None:
        return _manifest(self.store).formulas.views.get(view)


def _manifest(store: Store) -> table_versions.Manifest:
    folder = table_versions.current(store.home)
    assert folder is not None
    return table_versions.manifest_of(folder)


def _busiest(store: Store, family: Family) -> list[tuple[str, ...]]:
    parts = sorted((store.home.offline / family.view).glob("*.parquet"))
    names = ", ".join(family.keys)
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT {names} FROM {parquet(parts)} GROUP BY ALL ORDER BY count(*) DESC, {names} LIMIT {KEYS}"  # noqa: S608 our own names
        ).fetchall()


# What happened, against what the plan said


def _counts(planned: Mapping[str, Any], edit: Edit, before: Path, after: Path) -> Iterator[tuple[int, int]]:
    """Pairs of what the plan counted and what the published tables show, of each feature of each changed view."""
    known_at = from_text(planned["known_at"])
    changes = {view["view"]: view for view in planned["views"]}
    for view in edit.dropped:
        yield changes[view]["rows_then"], sum(1 for _ in (after / view).glob("*.parquet"))
    for family in edit.changed:
        change = changes[family.view]
        old, new = (_rows(folder, family, known_at) for folder in (before, after))
        yield change["rows_then"], sum(len(rows) for rows in new.values())
        named = {feature.name for feature in BY_VIEW[family.view].features}
        for feature in change["features"]:
            name = feature["feature"]
            points = differ = 0
            for key in old.keys() | new.keys():
                one, other = old.get(key, {}), new.get(key, {})
                then = now = None
                for at in sorted(one.keys() | other.keys()):
                    now = one.get(at, now)
                    then = other.get(at, then)
                    held = now.get(name) if now is not None and name in named else None
                    differ += held != (then.get(name) if then is not None else None)
                    points += 1
            yield feature["values"], points
            yield feature["differ"], differ


def _rows(folder: Path, family: Family, until_at: datetime) -> dict[tuple[str, ...], dict[datetime, dict[str, Any]]]:
    """The batch's rows of a view up to an instant: values by key, instant and feature."""
    parts = sorted(part for part in (folder / family.view).glob("*.parquet") if not part.name.startswith("stream-"))
    keys = len(family.keys)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        answer = connection.execute(
            f"SELECT {', '.join(family.keys)}, event_timestamp, * FROM {parquet(parts)} WHERE event_timestamp <= $until",  # noqa: S608 our own names
            {"until": until_at},
        )
        names = [column[0] for column in answer.description or ()]
        held: dict[tuple[str, ...], dict[datetime, dict[str, Any]]] = {}
        for row in answer.fetchall():
            held.setdefault(row[:keys], {})[row[keys]] = dict(zip(names[keys + 1 :], row[keys + 1 :], strict=True))
    return held


# What was read, against a build of its formulas


def _wrong(store: Store, reader: Reader, scratch: Path) -> Iterator[str]:
    """The rows that were read and that no whole build of the tables' formulas at that moment has."""
    states = [tuple(BY_VIEW[view] for view in READ), tuple(family for edit in EDITS for family in edit.changed)]
    tables: dict[tuple[str, str], dict[tuple[str, ...], list[tuple[int, tuple[Any, ...]]]]] = {}
    for number, families in enumerate(states):
        twin = Store.open(Settings(scratch / f"twin-{number}", store.timezone)).save()
        twin.home.log.symlink_to(store.home.log, target_is_directory=True)
        build(twin, datetime.now(UTC), families=families)
        marks = view_formulas(families)
        for family in families:
            tables[family.view, marks[family.view].fingerprint] = _changelog(twin, family, reader.keys[family.view])
    for row in sorted(reader.seen, key=lambda row: (row.view, row.key, row.event_us)):
        if not any(_agrees(row, tables[row.view, mark]) for mark in row.formulas if (row.view, mark) in tables):
            yield f"{row.view} {row.key} {row.event_us} {row.values} by {sorted(row.formulas)}"


def _changelog(
    store: Store, family: Family, keys: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], list[tuple[int, tuple[Any, ...]]]]:
    """The rows of some keys in order of time: instants in µs, and values."""
    parts = sorted((store.home.offline / family.view).glob("*.parquet"))
    names = ", ".join((*family.keys, "epoch_us(event_timestamp)", *(feature.name for feature in family.features)))
    held: dict[tuple[str, ...], list[tuple[int, tuple[Any, ...]]]] = {key: [] for key in keys}
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT {names} FROM {parquet(parts)} ORDER BY event_timestamp").fetchall()  # noqa: S608 our own names
    for row in rows:
        key = row[: len(family.keys)]
        if key in held:
            held[key].append((row[len(key)], row[len(key) + 1 :]))
    return held


def _agrees(row: RowRead, changelog: Mapping[tuple[str, ...], Sequence[tuple[int, tuple[Any, ...]]]]) -> bool:
    """Whether a row has the values of its key at its instant; a row equal to the one before may be left out of a build."""
    rows = changelog[row.key]
    at = bisect_right(rows, row.event_us, key=lambda held: held[0]) - 1
    if at < 0 or len(rows[at][1]) != len(row.values):
        return False
    return all(
        (value is None) == (held is None) and (value is None or math.isclose(value, held, rel_tol=1e-9, abs_tol=1e-9))
        for value, held in zip(row.values, rows[at][1], strict=True)
    )


def table(figures: ChangeFigures) -> Table:
    """The changes as rows, what the reader saw below them."""
    shown = Table(
        title=f"{figures.starts:,} starts, {figures.appended:,} results appended meanwhile, {figures.results_a_second:g} a second",
        caption=f"{figures.rows_read:,} rows read ({figures.distinct_rows:,} distinct), {figures.refused:,} reads refused, "
        f"{len(figures.wrong)} wrong; {figures.kills} kills, {figures.audit_after_kills} differences after them\n{figures.machine}",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in (
        "change", "plan s", "apply s", "stream follows s", "rollback s", "switch s", "values planned", "values changed",
        "counts", "audit",
    ):  # fmt: skip
        shown.add_column(name, justify="left" if name == "change" else "right")
    for change in figures.changes:
        shown.add_row(
            change.name, f"{change.plan_seconds:.1f}", f"{change.apply_seconds:.1f}", f"{change.followed_seconds:.1f}",
            f"{change.rollback_seconds:.1f}", f"{change.switch_seconds:.3f}", f"{change.differ:,}", f"{change.happened:,}",
            "exact" if change.exact else "WRONG", str(change.audit_found),
        )  # fmt: skip
    for row in figures.wrong[:20]:
        shown.add_row(f"wrong: {row}")
    return shown
