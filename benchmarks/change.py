"""`velo bench change`: change formulas beside a running stream and a reader, take each change back, and count wrong reads.

A copy of the program is the branch whose catalogue is edited: a window added, a formula changed, a family dropped. Each change is
planned over all keys, applied and rolled back by the commands, while results arrive and a reader polls Redis. What the plan
counted is compared with the tables that `velo apply` published, by a count of its own; each row that was read with a whole build
of the formulas of the tables at that moment. Then `velo apply` and `velo rollback` are killed at random moments.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.table import Table

from benchmarks import CHECKOUT
from benchmarks.change_reads import READ, Arriving, Changelog, Reader, agrees, changelog, manifest
from benchmarks.stores import OURS, machine, store_of, until
from velo.feature_repo.catalogue.aggregates import Ratio
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.stores import embedded_redis
from velo.racing.clock import from_text, to_us
from velo.settings import Settings
from velo.storage import table_versions
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.batch.formulas import view_formulas
from velo.streams.dataflow.metrics import position

PACKAGES: Final = ("velo", "feature_repo", "streams", "training", "serving")
FAMILIES_FILE: Final = Path("feature_repo/catalogue/families.py")
COLUMNS_FILE: Final = Path("feature_repo/catalogue/columns.py")
TRAINERS: Final = BY_VIEW["trainer_velocity"]
BIAS: Final = BY_VIEW["draw_bias"]


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the catalogue: patterns to replace by file, and the families that it changes."""

    name: str
    replaced: tuple[tuple[Path, str, str], ...]
    changed: tuple[Family, ...] = ()
    dropped: tuple[str, ...] = ()


_SHRUNK: Final = '"iv_shrunk", "win", "uni_e9", prior='
EDITS: Final = (
    Edit(
        "a window added",
        ((FAMILIES_FILE, re.escape("windows=(14, 30, 90)"), "windows=(14, 30, 60, 90)"),),
        (replace(TRAINERS, windows=(14, 30, 60, 90)),),
    ),
    Edit(
        "a formula changed",
        ((FAMILIES_FILE, re.escape(f"{_SHRUNK}5"), f"{_SHRUNK}10"),),
        (
            replace(
                BIAS,
                windowed=tuple(
                    replace(of, prior=10) if isinstance(of, Ratio) and of.name == "iv_shrunk" else of
                    for of in BIAS.windowed
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
CHANGED: Final = {family.view: family for edit in EDITS for family in edit.changed}
"""The families that the edits change, by view."""


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
            arriving = Arriving(store, rate)
            with arriving.running(), branch.stream():
                branch.followed()
                reader = Reader(store, CHANGED)
                with reader.running():
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


def _changed(branch: "Branch", edit: Edit, arriving: Arriving) -> ChangeMeasured:
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
        # a stream that starts again reads the catalogue: it must be the one of the tables until then
        branch.followed()
        branch.restore()
        branch.kill(chance.uniform(0, took[1]), "rollback")
        if branch.fingerprint() == changed:
            branch.velo("rollback")
    else:
        branch.kill(chance.uniform(0, took[0]), "apply")
        branch.velo("apply")
        branch.followed()
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
            same = where is not None and where.running and where.epoch == manifest(self.store).epoch
            return bool(same and where and (where.at_end or not to_the_end))

        until(follows)

    def fingerprint(self) -> str:
        """The formulas of the tables."""
        return manifest(self.store).fingerprint


def _counts(planned: Mapping[str, Any], edit: Edit, before: Path, after: Path) -> Iterator[tuple[int, int]]:
    """Pairs of what the plan counted and what the published tables show, of each feature of each changed view."""
    known_us = to_us(from_text(planned["known_at"]))
    changes = {view["view"]: view for view in planned["views"]}
    for view in edit.dropped:
        yield changes[view]["rows_then"], sum(1 for _ in (after / view).glob("*.parquet"))
    for family in edit.changed:
        change, was = changes[family.view], BY_VIEW[family.view]
        old, new = (changelog(folder, of, until_us=known_us) for folder, of in ((before, was), (after, family)))
        yield change["rows_then"], sum(map(len, new.values()))
        names = [[feature.name for feature in of.features] for of in (was, family)]
        for feature in change["features"]:
            at_old, at_new = (each.index(feature["feature"]) if feature["feature"] in each else None for each in names)
            pairs = [
                pair
                for key in old.keys() | new.keys()
                for pair in _values(old.get(key, []), new.get(key, []), at_old, at_new)
            ]
            yield feature["values"], len(pairs)
            yield feature["differ"], sum(value != other for value, other in pairs)


def _values(
    old: Sequence[tuple[int, tuple[Any, ...]]],
    new: Sequence[tuple[int, tuple[Any, ...]]],
    at_old: int | None,
    at_new: int | None,
) -> Iterator[tuple[Any, Any]]:
    """A feature's value before and after the change at each instant at which either has a row of a key."""
    before, after = dict(old), dict(new)
    value = other = None
    for at in sorted(before.keys() | after.keys()):
        if at in before and at_old is not None:
            value = before[at][at_old]
        if at in after and at_new is not None:
            other = after[at][at_new]
        yield value, other


def _wrong(store: Store, reader: Reader, scratch: Path) -> Iterator[str]:
    """The rows that were read and that no whole build of the tables' formulas at that moment has."""
    states = [tuple(BY_VIEW[view] for view in READ), tuple(CHANGED.values())]
    tables: dict[tuple[str, str], Changelog] = {}
    for number, families in enumerate(states):
        twin = Store.open(Settings(scratch / f"twin-{number}", store.timezone)).save()
        twin.home.log.symlink_to(store.home.log, target_is_directory=True)
        build(twin, datetime.now(UTC), families=families)
        marks = view_formulas(families)
        for family in families:
            tables[family.view, marks[family.view].fingerprint] = changelog(
                twin.home.offline, family, reader.keys[family.view]
            )
    for row in sorted(reader.seen, key=lambda row: (row.view, row.key, row.event_us)):
        if not any(agrees(row, tables[row.view, mark]) for mark in row.formulas if (row.view, mark) in tables):
            yield f"{row.view} {row.key} {row.event_us} {row.values} by {sorted(row.formulas)}"


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
