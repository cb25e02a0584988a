"""Any family that the catalogue accepts, as a Hypothesis strategy, and a brute-force twin of it.

The twin is written apart from the catalogue's arithmetic: exact fractions over the starts known at an instant, and
nothing carried from one instant to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from velo.errors import UserError
from velo.feature_repo.catalogue.aggregates import Aggregate, OffsetSum, Ratio, Sum
from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Last, LastKnown, Max, Recent, Slope, Variance
from velo.racing.clock import local_date
from velo.racing.measures import MEASURES
from velo.racing.messages import Result
from velo.racing.starts import Start, starts_of

RATED = {name for name in MEASURES if "elo" in name}
"""What rests on other races has a twin of its own, in the oracle."""
COUNTS = sorted(name for name, measure in MEASURES.items() if measure.most == 1 and name not in RATED)
SUMMED = sorted(
    name for name, measure in MEASURES.items() if name.endswith("_e9") and measure.least == 0 and name not in RATED
)
ANY = sorted(MEASURES.keys() - RATED)
KEYS = ("trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell")
WINDOWS_DAYS = (1, 7, 14, 30, 90, 365)


@st.composite
def aggregates(draw: st.DrawFn, name: str) -> Aggregate:
    kind = draw(st.sampled_from(("total", "quotient", "prior", "balance")))
    if kind == "total":
        return Sum(name, draw(st.sampled_from(COUNTS)))
    if kind == "balance":
        measure, known = draw(st.sampled_from((("over_e9", "over_known"), ("market_log_e9", "priced"))))
        return OffsetSum(name, measure, known, draw(st.sampled_from((1, 16))))
    prior = draw(st.integers(1, 9)) if kind == "prior" else 0
    return Ratio(name, draw(st.sampled_from(COUNTS + SUMMED)), draw(st.sampled_from(COUNTS + SUMMED)), prior=prior)


@st.composite
def recents(draw: st.DrawFn, name: str) -> Recent:
    measure, depth, least = draw(st.sampled_from(ANY)), draw(st.integers(1, 10)), draw(st.integers(2, 4))
    kinds: dict[str, Recent] = {
        "last": Last(name, measure),
        "last as int": Last(name, measure, "int"),
        "last known": LastKnown(name, measure),
        "ewma": Ewma(name, measure, depth),
        "slope": Slope(name, measure, depth, least),
        "variance": Variance(name, measure, depth, least),
        "best": Max(name, measure, depth),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))]


@st.composite
def families(draw: st.DrawFn) -> Family:
    """A family that the catalogue accepts: any aggregates on any keys."""
    keys = tuple(draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)))
    career = tuple(draw(aggregates(f"c{number}")) for number in range(draw(st.integers(0, 3))))
    recent = tuple(draw(recents(f"r{number}")) for number in range(draw(st.integers(0, 5))))
    windows = tuple(draw(st.lists(st.sampled_from(WINDOWS_DAYS), max_size=3, unique=True)))
    windowed = tuple(draw(aggregates(f"w{number}")) for number in range(draw(st.integers(1, 3)))) if windows else ()
    assume(career or recent or windows)
    try:
        return Family("anyones", keys, "a family of a test", career, recent, windows, windowed)
    except UserError:
        assume(condition=False)
        raise


@dataclass(frozen=True)
class Known:
    """One start of one version of a result, known from one instant until another."""

    since: datetime
    until: datetime | None
    off_time: datetime
    race_id: str
    start: Start


class Twin:
    """A family's values at any instant, from the results of a log in their order."""

    def __init__(self, family: Family, results: Sequence[Result], timezone: ZoneInfo) -> None:
        self.family, self.timezone = family, timezone
        versions: dict[str, list[Result]] = {}
        for result in results:
            of_race = versions.setdefault(result.race_id, [])
            if not of_race or result.result_version > of_race[-1].result_version:
                of_race.append(result)
        self.by_key: dict[tuple[str, ...], list[Known]] = {}
        for of_race in versions.values():
            for result, after in zip(of_race, [*of_race[1:], None], strict=True):
                for start in starts_of(result.race, result.runners):
                    key = tuple(getattr(start, name) for name in family.keys)
                    if None not in key:
                        assert result.known_at is not None
                        until = None if after is None else after.known_at
                        known = Known(result.known_at, until, result.race.off_time, result.race_id, start)
                        self.by_key.setdefault(key, []).append(known)

    def instants(self, key: tuple[str, ...]) -> set[datetime]:
        """When a result of a key becomes known or is replaced."""
        return {at for each in self.by_key[key] for at in (each.since, each.until) if at is not None}

    def values(self, key: tuple[str, ...], at: datetime) -> list[Any] | None:
        """The values in the order of `Family.features`; None before the key's first result."""
        ever = [each for each in self.by_key[key] if each.since <= at]
        if not ever:
            return None
        holds = [each for each in ever if each.until is None or each.until > at]
        holds.sort(key=lambda hold: (hold.off_time, hold.race_id, hold.start.horse_id))
        starts = [hold.start for hold in holds]
        today = (local_date(at, self.timezone) - date(1970, 1, 1)).days
        values = [summed(aggregate, starts) for aggregate in self.family.career]
        values += [looked_back(aggregate, starts) for aggregate in self.family.recent]
        for days in self.family.windows:
            inside = [start for start in starts if start.race_day > today - days]
            values += [summed(aggregate, inside) for aggregate in self.family.windowed]
        return values


def natural(measure: str, value: float) -> Fraction:
    return Fraction(value) / (10**9 if measure.endswith("_e9") else 1)


def total(measure: str, starts: Sequence[Start]) -> Fraction:
    return sum((natural(measure, getattr(start, measure) or 0) for start in starts), Fraction(0))


def summed(aggregate: Aggregate, starts: Sequence[Start]) -> float | int | None:
    if isinstance(aggregate, Sum):
        return int(total(aggregate.measure, starts))
    if isinstance(aggregate, OffsetSum):
        known = total(aggregate.known, starts)
        return float(total(aggregate.measure, starts) - aggregate.even * known) if known else None
    under = total(aggregate.denominator, starts) + aggregate.prior
    return float((total(aggregate.numerator, starts) + aggregate.prior) / under) if under else None


def looked_back(recent: Recent, starts: Sequence[Start]) -> float | int | None:
    measured = [getattr(start, recent.measure) for start in starts]
    if isinstance(recent, Last):
        last = measured[-1] if measured else None
        return None if last is None else last if recent.kind == "int" else float(natural(recent.measure, last))
    if isinstance(recent, LastKnown):
        return next((value for value in reversed(measured) if value is not None), None)
    newest = [natural(recent.measure, value) for value in reversed(measured) if value is not None][: recent.depth]
    count = len(newest)
    if isinstance(recent, Max):
        return float(max(newest)) if newest else None
    if isinstance(recent, Ewma):
        weights = [Fraction(3, 5) ** age for age in range(count)]
        return float(sum(w * v for w, v in zip(weights, newest, strict=True)) / sum(weights)) if newest else None
    if count < recent.least:
        return None
    mean = sum(newest) / count
    if isinstance(recent, Variance):
        return float(sum((value - mean) ** 2 for value in newest) / (count - 1))
    middle = Fraction(count - 1, 2)
    oldest_first = list(reversed(newest))
    over = sum(((at - middle) * (value - mean) for at, value in enumerate(oldest_first)), Fraction(0))
    return float(over / sum(((at - middle) ** 2 for at in range(count)), Fraction(0)))


def same(got: Sequence[Any] | None, expected: Sequence[Any] | None) -> bool:
    if got is None or expected is None:
        return got is expected
    return all(
        each == other if each is None or other is None else each == pytest.approx(other, rel=1e-9, abs=1e-9)
        for each, other in zip(got, expected, strict=True)
    )
