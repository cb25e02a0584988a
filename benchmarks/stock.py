"""Feast's own DuckDB store given as many rows as ours, at which it may need more memory than there is: each in a process of
its own, within a bound of memory and of time. One that is killed has taken as long as it ran, and ours may be held to that.
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
"""Two that the stock store survives at 100,000 rows, one of few rows a key and one of more; then all."""


@dataclass(frozen=True, slots=True)
class BoundedRun:
    """What one store took for a join, each time, or how long it had run when it was ended, and why; its peak MB."""

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
        """So many times as long as ours the stock store took, at least."""
        return self.stock.taken.median / self.ours.taken.median

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """As rows of the join's table."""
        return [self._line(OURS_FRAME, self.ours, ""), self._line(STOCK, self.stock, f"{self.times:,.1f}")]

    @property
    def told(self) -> str:
        """In words."""
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
    """Both stores over the same entity rows, shape by shape; `few` are entity rows to get warm with."""
    found = []
    for shape, views in SHAPES.items():
        told = {
            "home": str(home),
            "entities": str(entities),
            "few": str(few),
            "views": list(views),
        }
        ours = bounded(told | {"stock": False, "rounds": ROUNDS}, scratch)
        if ours.ended:
            raise RuntimeError(f"our store was {ours.ended} over {shape} views")
        found.append(StockComparison(shape, rows, bounded(told | {"stock": True, "rounds": 1}, scratch), ours))
    return found


def aim(found: Sequence[StockComparison]) -> Aim:
    """What is aimed at is all views, the last shape; where the stock store was killed too soon, that tells nothing."""
    last = found[-1]
    met = last.times >= TIMES
    return Aim(
        f"≥ {TIMES:.0f}× Feast's DuckDB store at {last.rows:,} rows, all views",
        "; ".join(one.told for one in reversed(found)),
        None if last.stock.ended and not met else met,
    )


def bounded(arguments: dict[str, Any], scratch: Path, most_mb: float = MOST_MB) -> BoundedRun:
    """`joining` in a process of its own, killed where it takes more than `most_mb` of memory or `MOST_SECONDS`."""
    begun = scratch / "begun"
    begun.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.stores",
            "benchmarks.stock:joining",
            json.dumps(arguments | {"begun": str(begun)}),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    most = ran = 0.0
    try:
        while process.poll() is None and most <= most_mb and ran <= MOST_SECONDS:
            time.sleep(LOOK_SECONDS)
            most = max(most, peak_mb(process.pid))
            ran = time.time() - begun.stat().st_mtime if begun.exists() else 0.0
        killed = process.poll() is None
    finally:
        process.kill()
        said, _ = process.communicate()
    if killed or process.returncode:
        what = "killed" if killed else "broken off"
        return BoundedRun(Timing.of([ran]), f"{what} after {ran:.0f} s at {most / 1000:.1f} GB", "", most)
    done = json.loads(said.splitlines()[-1])
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
    """Join a few rows to get warm, then so many times all; the file `begun` is made between."""
    through_feast(home, few, views, stock)()
    join = through_feast(home, entities, views, stock)
    Path(begun).touch()
    answers = [join() for _ in range(rounds)]
    return {"taken": [one["taken"] for one in answers], "digest": answers[-1]["digest"]}
