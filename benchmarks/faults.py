"""`velo bench faults`: inject every fault into a copy of a small store, and show the outcomes as one table.

After the fault and the recovery, more results are loaded. Then the log's results are counted against the acknowledged ones,
and both stores are audited value by value.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.markup import escape
from rich.table import Table

from benchmarks import crash_test, fault_harness
from benchmarks.fault_harness import NotRun, Recovery, Sandbox
from benchmarks.fault_scenarios import FAULTS, Fault
from benchmarks.page import put_between
from benchmarks.stores import machine, now
from velo.errors import UserError
from velo.feature_repo.stores.redis_client import connect
from velo.streams.audit import audit

KILLS: Final = "kills"
NAMES: Final = (KILLS, *(fault.name for fault in FAULTS))
COLUMNS: Final = ("fault", "what is seen", "lost", "how it comes back", "seconds", "instants compared", "differences")
NOT_RUN: Final = "not run here"
MARK: Final = "velo bench faults"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """The outcome of a fault: in words, the seconds of the recovery, the instants the audit compared, and its differences.

    `missing` counts acknowledged results that the log lost.
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
    """The outcomes of a run, and the figures of the kills (None without them)."""

    outcomes: tuple[FaultOutcome, ...]
    kills: crash_test.KillFigures | None
    seconds: float
    machine: str

    @property
    def broken(self) -> bool:
        """Whether any acknowledged result was lost, or any value differs."""
        return any(outcome.differences or outcome.missing for outcome in self.outcomes)


def measure(
    only: Sequence[str], count: int, starts: int, seed: int, runners: Path | None, timezone: str,
    progress: Progress = lambda step, done, steps: None,
) -> FaultFigures:  # fmt: skip
    """Inject every fault, or those named; `count` kills are spread over replays of about `starts` starts.

    Raises `UserError` for an unknown name.
    """
    unknown = sorted(set(only) - set(NAMES))
    if unknown:
        raise UserError(f"{', '.join(unknown)} is not a fault: choose from {', '.join(NAMES)}")
    chosen = [fault for fault in FAULTS if not only or fault.name in only]
    begun, outcomes, killed, chance = time.perf_counter(), [], None, random.Random(seed)
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "base").mkdir()
        base = fault_harness.prepared(Path(scratch) / "base") if chosen else None
        for done, fault in enumerate(chosen):
            progress(fault.name, done, len(chosen) + 1)
            assert base is not None
            outcomes.append(outcome(fault, base, Path(scratch) / fault.name, chance))
    if not only or KILLS in only:
        progress(KILLS, len(chosen), len(chosen) + 1)
        killed = crash_test.measure(count, starts, seed, runners, timezone)
        outcomes.insert(0, _of_kills(killed))
    return FaultFigures(tuple(outcomes), killed, round(time.perf_counter() - begun, 1), machine())


def outcome(fault: Fault, base: Sandbox, folder: Path, chance: random.Random) -> FaultOutcome:
    """Inject one fault into a copy of a prepared store, let it recover, and audit it."""
    with ExitStack() as stack:
        try:
            disk = (
                stack.enter_context(fault_harness.small_disk(folder.with_suffix(".disk")))
                if fault.on_small_disk
                else None
            )
        except NotRun as why:
            return FaultOutcome(fault.name, fault.harm, f"{NOT_RUN}: {why}", "", "", 0.0, 0, 0, 0)
        sandbox = stack.enter_context(fault_harness.sandbox(base, folder, chance, disk))
        return audited(sandbox, fault, fault.inject(sandbox))


def audited(sandbox: Sandbox, fault: Fault, recovery: Recovery) -> FaultOutcome:
    """Load more results after a recovery, count the log's results, and audit both stores."""
    sandbox.velo("ingest", "runners", sandbox.later)
    sandbox.succeed("stream", "--once")
    loaded = _results_of(sandbox) + recovery.results
    report = audit(sandbox.store, now(), client=connect(sandbox.home))
    return FaultOutcome(
        fault.name, fault.harm, recovery.seen, recovery.lost, recovery.back, recovery.back_seconds,
        sum(report.compared.values()), report.found, loaded - sandbox.acknowledged(),
    )  # fmt: skip


def _results_of(sandbox: Sandbox) -> int:
    """The number of races in the two files of a sandbox."""
    import duckdb

    paths = [str(sandbox.first), str(sandbox.later)]
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


def _cells(outcome: FaultOutcome) -> list[str]:
    texts = [outcome.fault, outcome.seen, outcome.lost, outcome.back]
    if outcome.seen.startswith(NOT_RUN):
        return [*texts, "", "", ""]
    seconds = f"{outcome.back_seconds:.1f}" if outcome.back_seconds else "–"
    return [*texts, seconds, f"{outcome.compared:,}", str(outcome.differences + outcome.missing)]


def table(figures: FaultFigures) -> Table:
    """The outcomes for the terminal."""
    shown = Table(title=f"faults, in {figures.seconds:.0f} s ({figures.machine})", show_lines=True)
    for name in ("fault; what is seen; lost; how it comes back", *COLUMNS[4:]):
        shown.add_column(name, justify="right" if name in COLUMNS[4:] else "left", overflow="fold")
    for outcome in figures.outcomes:
        words, numbers = _cells(outcome)[:4], _cells(outcome)[4:]
        marks = ("", "sees: ", "lost: ", "back: ")
        text = "\n".join(mark + word for mark, word in zip(marks, words, strict=True) if word)
        shown.add_row(escape(text), *numbers)
    return shown


def markdown(figures: FaultFigures) -> str:
    """The outcomes as a Markdown table."""
    rows: Iterable[Sequence[str]] = (
        COLUMNS,
        ["---"] * 4 + ["--:"] * 3,
        *([cell.replace("|", r"\|") for cell in _cells(outcome)] for outcome in figures.outcomes),
    )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{figures.seconds:.0f} s in all, on {figures.machine}."]) + "\n"


def write_into(page: Path, figures: FaultFigures) -> None:
    """Put the table between the page's marks; a run of some faults replaces only their rows.

    Raises `UserError` for a page without the marks.
    """
    table, every = markdown(figures), {outcome.name for outcome in figures.outcomes} == set(NAMES)
    put_between(page, MARK, lambda old: table if every else _merged(old, table))


def _merged(old: str, new: str) -> str:
    """The old table with its rows replaced by those of the new one; the line below it stays."""
    order = [KILLS, *(fault.harm for fault in FAULTS)]

    def rows(text: str) -> dict[str, str]:
        lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
        named = {line[2:].split(" | ")[0]: line for line in lines}
        return {name if name in order else KILLS: line for name, line in named.items()}

    merged = sorted((rows(old) | rows(new)).items(), key=lambda row: order.index(row[0]))
    below = [line for line in old.splitlines() if line.endswith(".") and " s in all, on " in line]
    return "\n".join([*new.splitlines()[:2], *(line for _, line in merged), "", *below]) + "\n"
