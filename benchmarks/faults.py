"""`velo bench faults`: everything done to a store that may happen to one, and what became of it, as one table.

Each fault has a small store of its own. After the harm and the way back the store is told what it was not told yet; then
the results that it holds are counted against those that were acknowledged, and both stores are audited, value by value.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.markup import escape
from rich.table import Table

from benchmarks import crash_test, fault_harness
from benchmarks.fault_harness import NotRun, Scene
from benchmarks.fault_scenarios import FAULTS, Fault
from benchmarks.page import put_between
from benchmarks.stores import machine
from velo.errors import UserError
from velo.feature_repo.stores.redis_client import connect
from velo.streams.audit import audit

KILLS: Final = "kills"
NAMES: Final = (KILLS, *(one.name for one in FAULTS))
COLUMNS: Final = ("fault", "what is seen", "lost", "how it comes back", "seconds", "instants compared", "differences")
NOT_RUN: Final = "not run here"
MARK: Final = "velo bench faults"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """One fault as it went: in words, the seconds of the way back, and what the audit compared and found different.

    `missing` counts acknowledged results that the log no longer holds.
    """

    name: str
    fault: str
    seen: str
    lost: str
    back: str
    back_seconds: float
    compared: int
    differences: int
    missing: int


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """All faults of a run, and what the kills were (None where none were asked for)."""

    outcomes: tuple[FaultOutcome, ...]
    kills: crash_test.KillFigures | None
    seconds: float
    machine: str

    @property
    def broken(self) -> bool:
        """Whether anything was lost that may not be, or differs."""
        return any(one.differences or one.missing for one in self.outcomes)


def measure(
    only: Sequence[str], count: int, starts: int, seed: int, runners: Path | None, timezone: str,
    progress: Progress = lambda step, done, steps: None,
) -> FaultFigures:  # fmt: skip
    """Make every fault, or those named; `count` kills fall into replays of about so many `starts`.

    Raises `UserError` for a name that is no fault.
    """
    strange = sorted(set(only) - set(NAMES))
    if strange:
        raise UserError(f"{', '.join(strange)} is no fault: choose of {', '.join(NAMES)}")
    chosen = [one for one in FAULTS if not only or one.name in only]
    begun, outcomes, killed, chance = time.perf_counter(), [], None, random.Random(seed)
    with TemporaryDirectory() as scratch:
        base = fault_harness.prepared(_made(Path(scratch) / "base")) if chosen else None
        for done, fault in enumerate(chosen):
            progress(fault.name, done, len(chosen) + 1)
            assert base is not None
            outcomes.append(outcome(fault, base, Path(scratch) / fault.name, chance))
    if not only or KILLS in only:
        progress(KILLS, len(chosen), len(chosen) + 1)
        killed = crash_test.measure(count, starts, seed, runners, timezone)
        outcomes.insert(0, _of_kills(killed))
    return FaultFigures(tuple(outcomes), killed, round(time.perf_counter() - begun, 1), machine())


def outcome(fault: Fault, base: Scene, folder: Path, chance: random.Random) -> FaultOutcome:
    """Make one fault to a copy of a prepared store, and see what became of it."""
    with ExitStack() as stack:
        try:
            disk = (
                stack.enter_context(fault_harness.small_disk(folder.with_suffix(".disk")))
                if fault.on_small_disk
                else None
            )
        except NotRun as why:
            return FaultOutcome(fault.name, fault.harm, f"{NOT_RUN}: {why}", "", "", 0.0, 0, 0, 0)
        scene = stack.enter_context(fault_harness.scene(base, folder, chance, disk))
        account = fault.scene(scene)
        scene.velo("ingest", "runners", scene.later)
        scene.succeed("stream", "--once")
        told = _results_of(scene)
        report = audit(scene.store, datetime.now(UTC), client=connect(scene.home))
        return FaultOutcome(
            fault.name, fault.harm, account.seen, account.lost, account.back, account.back_seconds,
            sum(report.compared.values()), report.found, told - scene.acknowledged(),
        )  # fmt: skip


def _results_of(scene: Scene) -> int:
    """How many races the two files of a scene tell."""
    import duckdb

    paths = [str(scene.first), str(scene.later)]
    with duckdb.connect() as connection:
        [(races,)] = connection.execute(
            "SELECT count(DISTINCT race_id) FROM read_parquet($paths)", {"paths": paths}
        ).fetchall()
    return int(races)


def _of_kills(killed: crash_test.KillFigures) -> FaultOutcome:
    doing = ", ".join(f"{count} {name}" for name, count in killed.doing.items() if count)
    return FaultOutcome(
        KILLS, f"the stream killed {killed.kills} times (SIGKILL), at random moments",
        f"nothing: the process is gone (it was {doing})", "nothing",
        f"start it again (whole replays: {killed.replays}, messages: {killed.messages:,})",
        round(killed.seconds / max(killed.kills, 1), 1), killed.values_compared, killed.differences, 0,
    )  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _cells(one: FaultOutcome) -> list[str]:
    told = [one.fault, one.seen, one.lost, one.back]
    if one.seen.startswith(NOT_RUN):
        return [*told, "", "", ""]
    seconds = f"{one.back_seconds:.1f}" if one.back_seconds else "–"
    return [*told, seconds, f"{one.compared:,}", str(one.differences + one.missing)]


def table(figures: FaultFigures) -> Table:
    """As shown to a person."""
    shown = Table(title=f"faults, in {figures.seconds:.0f} s ({figures.machine})", show_lines=True)
    for name in ("fault; what is seen; lost; how it comes back", *COLUMNS[4:]):
        shown.add_column(name, justify="right" if name in COLUMNS[4:] else "left", overflow="fold")
    for one in figures.outcomes:
        words, numbers = _cells(one)[:4], _cells(one)[4:]
        marks = ("", "sees: ", "lost: ", "back: ")
        told = "\n".join(mark + word for mark, word in zip(marks, words, strict=True) if word)
        shown.add_row(escape(told), *numbers)
    return shown


def markdown(figures: FaultFigures) -> str:
    """As a page of the documentation holds it."""
    rows: Iterable[Sequence[str]] = (
        COLUMNS,
        ["---"] * 4 + ["--:"] * 3,
        *([cell.replace("|", r"\|") for cell in _cells(one)] for one in figures.outcomes),
    )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{figures.seconds:.0f} s in all, on {figures.machine}."]) + "\n"


def write_into(page: Path, figures: FaultFigures) -> None:
    """Put the table between the page's marks, or of a run of some faults their rows into the one that is there.

    Raises `UserError` for a page without the marks.
    """
    told, every = markdown(figures), {one.name for one in figures.outcomes} == set(NAMES)
    put_between(page, MARK, lambda held: told if every else _merged(held, told))


def _merged(held: str, told: str) -> str:
    """The table that a page holds with the rows of another in place of its own; what it says below it stays."""
    order = [KILLS, *(one.harm for one in FAULTS)]

    def rows(text: str) -> dict[str, str]:
        lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
        named = {line[2:].split(" | ")[0]: line for line in lines}
        return {name if name in order else KILLS: line for name, line in named.items()}

    merged = sorted((rows(held) | rows(told)).items(), key=lambda one: order.index(one[0]))
    below = [line for line in held.splitlines() if line.endswith(".") and " s in all, on " in line]
    return "\n".join([*told.splitlines()[:2], *(line for _, line in merged), "", *below]) + "\n"
