"""`velo bench build`: the whole batch build at several sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from benchmarks.stores import apart, machine, store_of
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.batch.build import build


@dataclass(frozen=True, slots=True)
class BuildFigures:
    """One size: starts in the log, rows built, seconds, starts per second, peak memory in MB."""

    starts: int
    rows: int
    seconds: float
    cpu_seconds: float
    starts_per_second: float
    peak_mb: float
    machine: str


def measure(sizes: Sequence[int], runners: Path | None, timezone: str) -> list[BuildFigures]:
    """Build each size from its log, everything anew, in a process of its own."""
    figures = []
    with TemporaryDirectory() as scratch:
        for size in sizes:
            home = Path(scratch) / f"home-{size}"
            _, starts = store_of(home, size, runners, timezone)
            done = apart("benchmarks.build:whole", home=str(home))
            figures.append(
                BuildFigures(
                    starts,
                    done.result["rows"],
                    round(done.seconds, 2),
                    round(done.cpu_seconds, 2),
                    round(starts / done.seconds, 1),
                    round(done.peak_mb, 1),
                    machine(),
                )
            )
    return figures


def whole(home: str) -> dict[str, Any]:
    """One build of everything."""
    report = build(Store.open(Settings(home=Path(home))), datetime.now(UTC), whole=True)
    return {"rows": sum(report.rows.values())}


def table(figures: Sequence[BuildFigures]) -> Table:
    """As shown to a person."""
    shown = Table(title=f"velo build, everything, all views ({figures[0].machine})")
    for name in ("starts", "rows", "seconds", "processor s", "starts/s", "peak MB"):
        shown.add_column(name, justify="right")
    for one in figures:
        shown.add_row(
            f"{one.starts:,}",
            f"{one.rows:,}",
            f"{one.seconds:.1f}",
            f"{one.cpu_seconds:.1f}",
            f"{one.starts_per_second:,.0f}",
            f"{one.peak_mb:,.0f}",
        )
    return shown
