"""A simulated year of racing, made once a process, as its races and starters."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from velo.simulator import SeasonSpec, SimulatedSeason, simulate_season

LONDON = ZoneInfo("Europe/London")
YEAR = SeasonSpec(seed=7, start=date(2023, 3, 1), days=365, races_per_year=3000, amended_share=0.02)
WEEK = SeasonSpec(seed=3, start=date(2024, 6, 1), days=7, races_per_year=2000)
NON_FINISHERS = {"PU", "F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ"}
Row = dict[str, Any]


@cache
def season(knowledge: float = YEAR.market_knowledge) -> SimulatedSeason:
    """A year of racing, made once for each market."""
    return simulate_season(replace(YEAR, market_knowledge=knowledge))


@cache
def versions() -> dict[tuple[str, int], list[Row]]:
    """The year's rows by race and version."""
    races: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in season().runners.to_pylist():
        races[row["race_id"], row["result_version"]].append(row)
    return dict(races)


def first_versions() -> list[list[Row]]:
    """The races as weighed in."""
    return [rows for (_, version), rows in versions().items() if version == 1]


def starters(rows: Iterable[Row]) -> list[Row]:
    """Who ran."""
    return [row for row in rows if row["status"] in NON_FINISHERS | {"FINISHED"}]
