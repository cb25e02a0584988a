"""`velo bench point-in-time`: the join of `velo bench` over all views, at sizes of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.table import Table

from benchmarks import joins
from benchmarks.interleaved import Found
from benchmarks.stores import machine, store_of
from velo.feature_repo.catalogue.families import FAMILIES
from velo.streams.batch.build import build

ROUNDS: Final = 3
STARTS: Final = 100_000
"""The tables are those of so many starts, or of as many as there are entity rows where those are more."""


@dataclass(frozen=True, slots=True)
class JoinFigures:
    """One size and contender: entity rows in and out, median seconds of the rounds (without starting Feast), rows per second, peak MB.

    `same` says whether the answer is to the bit that of ours; of one that failed there is only what it said.
    """

    store: str
    rows: int
    rows_out: int | None
    seconds: float | None
    rows_per_second: float | None
    peak_mb: float | None
    same: bool
    failed: str | None
    machine: str


def measure(sizes: Sequence[int], stock_rows: int, runners: Path | None, timezone: str) -> list[JoinFigures]:
    """Join each size in turn through every contender, Feast's own store where there are at most `stock_rows`."""
    figures = []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store, _ = store_of(folder / "home", max(*sizes, STARTS), runners, timezone)
        build(store, datetime.now(UTC))
        for size in sizes:
            found = joins.joined(store, size, folder, (len(FAMILIES),), ROUNDS, stock=size <= stock_rows)
            [of_all] = found.values()
            figures += [_figures(name, size, of, of_all[joins.OURS]) for name, of in of_all.items()]
    return figures


def table(figures: Sequence[JoinFigures]) -> Table:
    """As shown to a person."""
    shown = Table(title=f"point-in-time join over all {len(FAMILIES)} views ({figures[0].machine})")
    for name in ("contender", "rows in", "rows out", "seconds", "rows/s", "peak MB", "answer"):
        shown.add_column(name, justify="left" if name == "contender" else "right")
    for one in figures:
        if one.failed is not None:
            shown.add_row(one.store, f"{one.rows:,}", "", f"failed: {one.failed}", "", "", "")
            continue
        shown.add_row(
            one.store,
            f"{one.rows:,}",
            f"{one.rows_out:,}",
            f"{one.seconds:.3f}",
            f"{one.rows_per_second:,.0f}",
            f"{one.peak_mb:,.0f}",
            "the same" if one.same else "another",
        )
    return shown


def _figures(name: str, rows: int, of: Found, ours: Found) -> JoinFigures:
    if of.failed is not None:
        return JoinFigures(name, rows, None, None, None, None, same=False, failed=of.failed, machine=machine())
    seconds = of.spread.median
    return JoinFigures(
        name,
        rows,
        of.last["rows"],
        round(seconds, 4),
        round(rows / seconds, 1),
        round(of.peak_mb, 1),
        same=of.last["digest"] == ours.last.get("digest"),
        failed=None,
        machine=machine(),
    )
