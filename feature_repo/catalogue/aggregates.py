"""How a feature is made from the measures of starts. Each kind is one class that holds all its forms, bit for bit alike.

`sql` is for DuckDB and `spark` for Spark; `python` is the text that the stream compiles, `arrays` its form over many rows,
`value` the plain form that the others are tested against, and `describe` the words.

All arithmetic is on integers until one last division of two doubles, so that neither the order of summing nor the
engine changes a bit. Measures whose name ends in `_e9` count in billionths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from velo.racing.measures import MEASURES, Measure, unit

Kind = Literal["int", "float"]
Value = int | float | None
Measures = Mapping[str, Measure]
Totals = Mapping[str, NDArray[np.int64]]
Floats = NDArray[np.float64]
RECENT_DEPTH: Final = 10
"""How many of a key's latest values the recent features may look back on."""


STARTS_OF_A_HORSE: Final = 2000
"""More starts than any horse has: what a total over one horse's starts must have room for."""
STARTS_OF_A_KEY: Final = 2**24
"""The same for a trainer, a jockey, a cell of the draw."""
_LIMIT: Final = 2**63


@dataclass(frozen=True, slots=True)
class Sum:
    """Σ of a measure that counts in ones."""

    name: str
    measure: str
    kind: Kind = "int"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures it sums."""
        return (self.measure,)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"Σ {measures[self.measure].words}"

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        return f"CAST({total(self.measure)} AS INTEGER)"

    def python(self, total: Callable[[str], str]) -> str:
        """Python expression of `value`, given that of the total of a measure: what the stream compiles."""
        return total(self.measure)

    def value(self, totals: Mapping[str, int]) -> Value:
        """Value, given the totals."""
        return totals[self.measure]

    def spark(self, total: Callable[[str], str]) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(total))

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,)."""
        return totals[self.measure].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Ratio:
    """(Σ numerator + prior) ÷ (Σ denominator + prior) in natural units; null where the denominator is zero."""

    name: str
    numerator: str
    denominator: str
    prior: int = 0
    kind: Kind = "float"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures it sums."""
        return (self.numerator, self.denominator)

    @property
    def _factors(self) -> tuple[int, int]:
        over, under = unit(self.numerator), unit(self.denominator)
        return (1, 1) if over == under else (under, over)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        over, under = f"Σ {measures[self.numerator].words}", f"Σ {measures[self.denominator].words}"
        return f"({over} + {self.prior}) ÷ ({under} + {self.prior})" if self.prior else f"{over} ÷ {under}"

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        by_numerator, by_denominator = self._factors
        over = _scaled(total(self.numerator), self.prior * unit(self.numerator), by_numerator)
        under = _scaled(total(self.denominator), self.prior * unit(self.denominator), by_denominator)
        return f"CAST({over} AS DOUBLE) / NULLIF(CAST({under} AS DOUBLE), 0)"

    def python(self, total: Callable[[str], str]) -> str:
        """Python expression of `value`, given that of the total of a measure: what the stream compiles."""
        by_numerator, by_denominator = self._factors
        over = _scaled(total(self.numerator), self.prior * unit(self.numerator), by_numerator)
        under = _scaled(total(self.denominator), self.prior * unit(self.denominator), by_denominator)
        return f"(float({over}) / float(under) if (under := {under}) else None)"

    def value(self, totals: Mapping[str, int]) -> Value:
        """Value, given the totals."""
        by_numerator, by_denominator = self._factors
        under = (totals[self.denominator] + self.prior * unit(self.denominator)) * by_denominator
        over = (totals[self.numerator] + self.prior * unit(self.numerator)) * by_numerator
        return float(over) / float(under) if under else None

    def spark(self, total: Callable[[str], str]) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(total))

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,), NaN for null."""
        by_numerator, by_denominator = self._factors
        # bring both to one unit in whole numbers, before the one division that rounds
        over = ((totals[self.numerator] + self.prior * unit(self.numerator)) * by_numerator).astype(np.float64)
        under = ((totals[self.denominator] + self.prior * unit(self.denominator)) * by_denominator).astype(np.float64)
        made = np.full(len(over), np.nan)
        np.divide(over, under, out=made, where=under != 0)
        return made


@dataclass(frozen=True, slots=True)
class OffsetSum:
    """Σ of a measure that is told with `even` added to it, so as never to be negative, without what was added; null where none is known."""

    name: str
    measure: str
    known: str
    even: int
    kind: Kind = "float"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures it sums."""
        return (self.measure, self.known)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"Σ {measures[self.measure].words}"

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        known, scale = total(self.known), unit(self.measure)
        balance = f"{total(self.measure)} - {self.even * scale} * {known}"
        return f"CASE WHEN {known} > 0 THEN CAST({balance} AS DOUBLE) / {float(scale)} END"

    def python(self, total: Callable[[str], str]) -> str:
        """Python expression of `value`, given that of the total of a measure: what the stream compiles."""
        scale = unit(self.measure)
        balance = f"{total(self.measure)} - {self.even * scale} * known"
        return f"(float({balance}) / {float(scale)} if (known := {total(self.known)}) else None)"

    def value(self, totals: Mapping[str, int]) -> Value:
        """Value, given the totals."""
        known, scale = totals[self.known], unit(self.measure)
        return float(totals[self.measure] - self.even * scale * known) / float(scale) if known else None

    def spark(self, total: Callable[[str], str]) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(total))

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,), NaN for null."""
        known, scale = totals[self.known], unit(self.measure)
        balance = (totals[self.measure] - self.even * scale * known).astype(np.float64)
        return np.where(known > 0, balance / float(scale), np.nan)


Aggregate = Sum | Ratio | OffsetSum


@dataclass(frozen=True, slots=True)
class Last:
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most)


@dataclass(frozen=True, slots=True)
class LastKnown:
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most)


@dataclass(frozen=True, slots=True)
class Ewma:
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most) * sum(self.weights)


@dataclass(frozen=True, slots=True)
class Slope:
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return 2 * max(-least, most) * self.depth**3


@dataclass(frozen=True, slots=True)
class Variance:
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
        """What is taken from each value before it is squared."""
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(abs(least - self.centre), abs(most - self.centre)) ** 2 * self.depth**2


@dataclass(frozen=True, slots=True)
class Max:
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

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most)


Recent = Last | LastKnown | Ewma | Slope | Variance | Max


def faults(aggregate: Aggregate, starts: int, measures: Measures = MEASURES) -> Iterator[str]:
    """Why totals over this many starts of a key would not be exact, in words; nothing where they are."""
    for name in dict.fromkeys(aggregate.measures):
        measure = measures.get(name)
        if measure is None:
            yield _unknown(name)
        elif not measure.whole or measure.least < 0:
            yield f"{name} is not a whole number of 0 or more, so it cannot be summed: take its last value or its mean of the last ten"
        elif measure.most * starts >= _LIMIT or (unit(name) == 1 and measure.most > 1):
            yield f"the sum of {name} over {starts:,} starts may not fit: use a measure of smaller numbers"


def recent_faults(recent: Recent, measures: Measures = MEASURES) -> Iterator[str]:
    """Why a recent feature would not be exact, in words; nothing where it is."""
    measure = measures.get(recent.measure)
    if measure is None:
        yield _unknown(recent.measure)
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
    elif recent.largest_number(measure.least, measure.most) >= _LIMIT:
        yield f"sums of {recent.measure} over {recent.depth} starts may not fit: use fewer starts or a measure of smaller numbers"


def in_spark(expression: str) -> str:
    """An expression with the floor division of whole numbers, none negative, as Spark writes it."""
    return expression.replace(" // ", " div ")


def _unknown(name: str) -> str:
    return f"{name} is not a measure of a start: use one of velo/racing/measures.py, or declare it in the family's measures"


@lru_cache
def _ewma_scale(depth: int, measure: str, known: int) -> tuple[tuple[int, ...], float]:
    weights = Ewma("", measure, depth).weights[:known]
    return weights, float(sum(weights) * unit(measure))


def _scaled(total: str, prior: int, factor: int) -> str:
    shifted = f"({total} + {prior})" if prior else total
    return f"{shifted} * {factor}" if factor != 1 else shifted


def _count(newest: Callable[[int], str], depth: int) -> str:
    return "(" + " + ".join(f"({newest(k)} IS NOT NULL)::BIGINT" for k in range(depth)) + ")"
