"""Features of a key's last starts: the last value, means, trend, variance and maximum of the last known values.

The forms are those of `aggregates`: `sql`, `spark` and `python` are expressions, `value` the plain form that the others are
tested against, and `describe` the words.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import Final

from velo.feature_repo.catalogue.aggregates import LIMIT, Kind, Measures, Value, in_spark, unknown_measure
from velo.racing.measures import MEASURES, unit

RECENT_DEPTH: Final = 10
"""The most of a key's latest values that a recent feature may use."""


class _Recent:
    """A feature of a key's last starts; `measure` has the name of its measure."""

    __slots__ = ()

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        raise NotImplementedError

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most)


@dataclass(frozen=True, slots=True)
class Last(_Recent):
    """A measure of the last start; null where that start has none."""

    name: str
    measure: str
    kind: Kind = "float"
    depth: int = 0

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"{measures[self.measure].words} of the last start"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        return (
            f"CAST({last} AS DOUBLE) / {float(unit(self.measure))}"
            if self.kind == "float"
            else f"CAST({last} AS INTEGER)"
        )

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first (at most `RECENT_DEPTH`), and the last start's."""
        if last is None:
            return None
        return float(last) / float(unit(self.measure)) if self.kind == "float" else int(last)

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        known = f"float(last) / {float(unit(self.measure))}" if self.kind == "float" else "int(last)"
        return f"(None if (last := {last}) is None else {known})"


@dataclass(frozen=True, slots=True)
class LastKnown(_Recent):
    """The newest value that is known, however many starts ago; null without one."""

    name: str
    measure: str
    kind: Kind = "int"
    depth: int = 1

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"{measures[self.measure].words}, the newest known"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        known = newest(0)
        return (
            f"CAST({known} AS INTEGER)"
            if self.kind == "int"
            else f"CAST({known} AS DOUBLE) / {float(unit(self.measure))}"
        )

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        if not newest:
            return None
        return int(newest[0]) if self.kind == "int" else float(newest[0]) / float(unit(self.measure))

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        known = f"{newest}[0]"
        return f"(({known} if {self.kind == 'int'} else float({known}) / {float(unit(self.measure))}) if {newest} else None)"


@dataclass(frozen=True, slots=True)
class Ewma(_Recent):
    """Exponentially weighted mean of the last `depth` known values, weight 0.6^i from the newest, normalised."""

    name: str
    measure: str
    depth: int = 10
    kind: Kind = "float"

    @property
    def weights(self) -> tuple[int, ...]:
        """0.6^i times 5^(depth − 1): whole numbers, newest first."""
        return tuple(3**back * 5 ** (self.depth - 1 - back) for back in range(self.depth))

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"mean {measures[self.measure].words} of the last {self.depth} known, weights 0.6^i from the newest"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        over = " + ".join(f"coalesce({newest(k)}, 0) * {w}" for k, w in enumerate(self.weights))
        under = " + ".join(f"CASE WHEN {newest(k)} IS NULL THEN 0 ELSE {w} END" for k, w in enumerate(self.weights))
        return f"CAST({over} AS DOUBLE) / NULLIF(CAST(({under})::BIGINT * {unit(self.measure)} AS DOUBLE), 0)"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        if not newest:
            return None
        weights, under = _ewma_scale(self.depth, self.measure, len(newest))
        return float(sum(map(mul, newest, weights))) / under

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        # most recent features are of this kind or the largest: their arithmetic is written out, which saves a call
        totals = [sum(self.weights[:known]) * unit(self.measure) for known in range(RECENT_DEPTH + 1)]
        weights, scales = bind(self.weights), bind(tuple(map(float, totals)))
        return f"(float(sum(map({bind(mul)}, {newest}, {weights}))) / {scales}[len({newest})] if {newest} else None)"

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most) * sum(self.weights)


@dataclass(frozen=True, slots=True)
class Slope(_Recent):
    """Least-squares slope of the last `depth` known values on their order, oldest first: positive is improving."""

    name: str
    measure: str
    depth: int = 6
    least: int = 3
    kind: Kind = "float"

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"least-squares slope a start of {measures[self.measure].words}, the last {self.depth} known ({self.least} or more)"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        values = [f"coalesce({newest(k)}, 0)" for k in range(self.depth)]
        count = _count(newest, self.depth)
        total = " + ".join(values)
        back = " + ".join(f"{k} * {value}" for k, value in enumerate(values))
        over = f"{count} * (({count} - 1) * ({total}) - ({back})) - ({count} * ({count} - 1) // 2) * ({total})"
        under = f"({count} * {count} * ({count} * {count} - 1) // 12) * {unit(self.measure)}"
        return f"CASE WHEN {count} >= {self.least} THEN CAST({over} AS DOUBLE) / CAST({under} AS DOUBLE) END"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        values = newest[: self.depth]
        count = len(values)
        if count < self.least:
            return None
        total = sum(values)
        back = sum(map(mul, range(count), values))
        over = count * ((count - 1) * total - back) - (count * (count - 1) // 2) * total
        under = (count * count * (count * count - 1) // 12) * unit(self.measure)
        return float(over) / float(under)

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        return f"{bind(self.value)}({newest}, {last})"

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return 2 * max(-least, most) * self.depth**3


@dataclass(frozen=True, slots=True)
class Variance(_Recent):
    """Sample variance of the last `depth` known values.

    Summed around one half, so that the squares of six values in billionths between 0 and 1 fit 63 bits.
    """

    name: str
    measure: str
    depth: int = 6
    least: int = 2
    kind: Kind = "float"

    @property
    def centre(self) -> int:
        """The value that is subtracted from each value before it is squared."""
        return unit(self.measure) // 2

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"sample variance of {measures[self.measure].words}, the last {self.depth} known ({self.least} or more)"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        values = [f"coalesce({newest(k)} - {self.centre}, 0)" for k in range(self.depth)]
        count = _count(newest, self.depth)
        total = " + ".join(values)
        squares = " + ".join(f"{value} * {value}" for value in values)
        over = f"{count} * ({squares}) - ({total}) * ({total})"
        under = f"CAST({count} * ({count} - 1) AS DOUBLE) * {float(unit(self.measure) ** 2)}"
        return f"CASE WHEN {count} >= {self.least} THEN CAST({over} AS DOUBLE) / ({under}) END"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        centre = self.centre
        values = [value - centre for value in newest[: self.depth]]
        count = len(values)
        if count < self.least:
            return None
        over = count * sum(map(mul, values, values)) - sum(values) ** 2
        return float(over) / (float(count * (count - 1)) * float(unit(self.measure) ** 2))

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        return f"{bind(self.value)}({newest}, {last})"

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(abs(least - self.centre), abs(most - self.centre)) ** 2 * self.depth**2


@dataclass(frozen=True, slots=True)
class Max(_Recent):
    """Largest of the last `depth` known values."""

    name: str
    measure: str
    depth: int = 6
    kind: Kind = "float"

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"largest {measures[self.measure].words} of the last {self.depth} known"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        best = f"greatest({', '.join(newest(k) for k in range(self.depth))})"
        return f"CAST({best} AS DOUBLE) / {float(unit(self.measure))}"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        values = newest[: self.depth]
        return float(max(values)) / float(unit(self.measure)) if values else None

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        return f"(float(max({newest}[:{self.depth}])) / {float(unit(self.measure))} if {newest} else None)"


Recent = Last | LastKnown | Ewma | Slope | Variance | Max


def recent_faults(recent: Recent, measures: Measures = MEASURES) -> Iterator[str]:
    """Why a recent feature would not be exact, in words; nothing where it is."""
    measure = measures.get(recent.measure)
    if measure is None:
        yield unknown_measure(recent.measure)
        return
    if isinstance(recent, Last | LastKnown) and recent.kind == "int" and (not measure.whole or measure.size > 2**31):
        yield f"{recent.measure} is not a whole number of 32 bits: declare the feature a float"
        return
    if isinstance(recent, Last):
        return
    fewest = 2 if isinstance(recent, Slope | Variance) else 1
    if not fewest <= recent.depth <= RECENT_DEPTH:
        yield f"depth must be {fewest} to {RECENT_DEPTH}, got {recent.depth}"
    elif isinstance(recent, Slope | Variance) and not 2 <= recent.least <= recent.depth:
        yield f"least must be 2 to the depth {recent.depth}, got {recent.least}"
    elif not measure.whole:
        yield f"{recent.measure} is not a whole number, so sums of it are not exact: take its last value"
    elif recent.largest_number(measure.least, measure.most) >= LIMIT:
        yield f"sums of {recent.measure} over {recent.depth} starts may not fit: use fewer starts or a measure of smaller numbers"


@lru_cache
def _ewma_scale(depth: int, measure: str, known: int) -> tuple[tuple[int, ...], float]:
    weights = Ewma("", measure, depth).weights[:known]
    return weights, float(sum(weights) * unit(measure))


def _count(newest: Callable[[int], str], depth: int) -> str:
    return "(" + " + ".join(f"({newest(k)} IS NOT NULL)::BIGINT" for k in range(depth)) + ")"
