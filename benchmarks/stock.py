"""Compare Feast's own DuckDB store with ours at a size that may exceed the memory.

Each runs in its own process, which is killed at a limit of memory or time; the seconds until then are a lower bound.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import CHECKOUT
from benchmarks.interleaved import Timing
from benchmarks.joins import OURS_FRAME, STOCK, through_feast
from benchmarks.page import Aim
from benchmarks.stores import peak_mb
from velo.feature_repo.catalogue.families import BY_VIEW, FAMILIES

MOST_MB: Final = 12_000.0
MOST_SECONDS: Final = 100.0
LOOK_SECONDS: Final = 0.1
ROUNDS: Final = 3
TIMES: Final = 30.0
SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "4 horse": ("horse_form", "horse_course", "horse_distance", "horse_going"),
    "jockey_course": ("jockey_course",),
    f"all {len(FAMILIES)}": tuple(family.view for family in FAMILIES),
}
"""Two sets of views that the stock store survives at 100,000 rows, with few and with more rows per key; then all."""


@dataclass(frozen=True, slots=True)
class BoundedRun:
    """The seconds of each join, or until the process was ended, and why (`ended`); its peak MB."""

    taken: Timing
    ended: str
    digest: str
    peak_mb: float


@dataclass(frozen=True, slots=True)
class StockComparison:
    """Both stores at one shape and size."""

    shape: str
    rows: int
    stock: BoundedRun
    ours: BoundedRun

    @property
    def times(self) -> float:
        """The stock store's seconds divided by ours; a lower bound if it was killed."""
        return self.stock.taken.median / self.ours.taken.median

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """Rows of the join's table."""
        return [self._line(OURS_FRAME, self.ours, ""), self._line(STOCK, self.stock, f"{self.times:,.1f}")]

    @property
    def summary(self) -> str:
        """The comparison in words."""
        views = f"the view {self.shape}" if self.shape in BY_VIEW else f"{self.shape} views"
        how = f", where it was {self.stock.ended}" if self.stock.ended else ""
        return f"{'> ' if self.stock.ended else ''}{self.times:,.0f}× over {views}{how}"

    def _line(self, name: str, of: BoundedRun, ratio: str) -> tuple[str, ...]:
        if of.ended:
            return self.shape, name, f"{self.rows:,}", of.ended, "", f"> {ratio}", f"{of.peak_mb:,.0f}", "none"
        same = "the same" if of.digest == self.ours.digest else "another"
        speed = f"{self.rows / of.taken.median:,.0f}"
        return self.shape, name, f"{self.rows:,}", of.taken.shown(",.3f"), speed, ratio, f"{of.peak_mb:,.0f}", same


def beside(home: Path, entities: Path, few: Path, rows: int, scratch: Path) -> list[StockComparison]:
    """Run both stores over the same entity rows, shape by shape; `few` are entity rows for the warm-up."""
    found = []
    for shape, views in SHAPES.items():
        arguments = {"home": str(home), "entities": str(entities), "few": str(few), "views": list(views)}
        ours = bounded(arguments | {"stock": False, "rounds": ROUNDS}, scratch)
        if ours.ended:
            raise RuntimeError(f"our store was {ours.ended} over {shape} views")
        found.append(StockComparison(shape, rows, bounded(arguments | {"stock": True, "rounds": 1}, scratch), ours))
    return found


def aim(found: Sequence[StockComparison]) -> Aim:
    """The aim covers all views, the last shape; it is open if the stock store was killed too early to judge."""
    last = found[-1]
    met = last.times >= TIMES
    return Aim(
        f"≥ {TIMES:.0f}× Feast's DuckDB store at {last.rows:,} rows, all views",
        "; ".join(comparison.summary for comparison in reversed(found)),
        None if last.stock.ended and not met else met,
    )


def bounded(arguments: dict[str, Any], scratch: Path, most_mb: float = MOST_MB) -> BoundedRun:
    """Run `joining` in its own process, killed above `most_mb` of memory or after `MOST_SECONDS`."""
    begun = scratch / "begun"
    begun.unlink(missing_ok=True)
    call = ["benchmarks.stores", "benchmarks.stock:joining", json.dumps(arguments | {"begun": str(begun)})]
    process = subprocess.Popen(
        [sys.executable, "-m", *call], stdout=subprocess.PIPE, text=True, cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    most = ran = 0.0
    try:
        while process.poll() is None and most <= most_mb and ran <= MOST_SECONDS:
            time.sleep(LOOK_SECONDS)
            most = max(most, peak_mb(process.pid))
            ran = time.time() - begun.stat().st_mtime if begun.exists() else 0.0
        killed = process.poll() is None
    finally:
        process.kill()
        output, _ = process.communicate()
    if killed or process.returncode:
        what = "killed" if killed else "broken off"
        return BoundedRun(Timing.of([ran]), f"{what} after {ran:.0f} s at {most / 1000:.1f} GB", "", most)
    done = json.loads(output.splitlines()[-1])
    return BoundedRun(Timing.of(done["result"]["taken"]), "", done["result"]["digest"], max(most, done["peak_mb"]))


def joining(
    home: str,
    entities: str,
    few: str,
    views: list[str],
    stock: bool,  # noqa: FBT001 called by name
    rounds: int,
    begun: str,
) -> dict[str, Any]:
    """Join a few rows to warm up, create the file `begun`, then join all rows `rounds` times."""
    through_feast(home, few, views, stock)()
    join = through_feast(home, entities, views, stock)
    Path(begun).touch()
    answers = [join() for _ in range(rounds)]
    return {"taken": [answer["taken"] for answer in answers], "digest": answers[-1]["digest"]}
