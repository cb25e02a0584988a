"""Feast's own store at a size that may be too much for it is bounded, and what it is killed at is a bound, not a figure."""

from pathlib import Path

import pytest

from benchmarks.interleaved import Timing
from benchmarks.stock import BoundedRun, StockComparison, aim, bounded


def took(seconds: float, ended: str = "") -> BoundedRun:
    return BoundedRun(Timing.of([seconds]), ended, "" if ended else "digest", 100.0)


def test_a_process_that_holds_more_than_its_bound_is_killed_and_reported(tmp_path: Path) -> None:
    """Any Python is past 5 MB before it has joined anything."""
    asked = {"home": "none", "entities": "none", "few": "none", "views": [], "stock": True, "rounds": 1}
    ended = bounded(asked, tmp_path, most_mb=5)
    assert ended.ended.startswith("killed after 0 s at 0.0 GB")
    assert ended.digest == ""
    assert ended.peak_mb > 5


def test_a_process_that_fails_is_reported_as_such_and_is_no_figure(tmp_path: Path) -> None:
    ended = bounded({"home": "none"}, tmp_path)
    assert ended.ended.startswith("broken off")


@pytest.mark.parametrize(
    ("theirs", "met"),
    [(took(31), True), (took(29), False), (took(31, "killed"), True), (took(29, "killed"), None)],
    ids=["slower", "not slow enough", "killed late enough", "killed too soon to tell"],
)
def test_how_long_a_killed_one_ran_is_what_it_took_at_least(theirs: BoundedRun, met: bool | None) -> None:
    found = aim([StockComparison("all 11", 100_000, theirs, took(1))])
    assert found.met is met
    assert found.found.startswith("> ") is bool(theirs.ended)


def test_a_killed_ones_line_has_no_speed_and_its_answer_is_none() -> None:
    ours, theirs = StockComparison("all 11", 100_000, took(50, "killed after 50 s at 12.0 GB"), took(1)).lines
    assert ours[-1] == "the same"
    assert theirs[3:] == ("killed after 50 s at 12.0 GB", "", "> 50.0", "100", "none")
