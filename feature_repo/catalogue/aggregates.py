"""Features that sum the measures of starts. Each kind of aggregate is one class that holds all its forms, bit for bit alike.

`sql` is for DuckDB and `spark` for Spark; `python` is the text that the stream compiles, `arrays` its form over many rows,
`value` the plain form that the others are tested against, and `describe` the words. `recent_aggregates` has the features of a
key's last starts.

All arithmetic is on integers until one last division of two doubles, so that neither the order of summing nor the
engine changes a bit. Measures whose name ends in `_e9` count in billionths.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from velo.racing.measures import MEASURES, Measure, unit

Kind = Literal["int", "float"]
Value = int | float | None
Measures = Mapping[str, Measure]
Totals = Mapping[str, NDArray[np.int64]]
Floats = NDArray[np.float64]
STARTS_OF_A_HORSE: Final = 2000
"""More starts than any horse has: a total over a horse's starts must have room for them."""
STARTS_OF_A_KEY: Final = 2**24
"""The same for a trainer, a jockey, a cell of the draw."""
LIMIT: Final = 2**63
"""Whole numbers at or above this do not fit 64 bits."""


class _Totals:
    """An aggregate of totals over starts."""

    __slots__ = ()

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        raise NotImplementedError

    def spark(self, total: Callable[[str], str]) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(total))


@dataclass(frozen=True, slots=True)
class Sum(_Totals):
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

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,)."""
        return totals[self.measure].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Ratio(_Totals):
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
class OffsetSum(_Totals):
    """Σ of a measure that is stored with `even` added, so that it is never negative, less what was added; null if none is known."""

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

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,), NaN for null."""
        known, scale = totals[self.known], unit(self.measure)
        balance = (totals[self.measure] - self.even * scale * known).astype(np.float64)
        return np.where(known > 0, balance / float(scale), np.nan)


Aggregate = Sum | Ratio | OffsetSum


def faults(aggregate: Aggregate, starts: int, measures: Measures = MEASURES) -> Iterator[str]:
    """Why totals over this many starts of a key would not be exact, in words; nothing where they are."""
    for name in dict.fromkeys(aggregate.measures):
        measure = measures.get(name)
        if measure is None:
            yield unknown_measure(name)
        elif not measure.whole or measure.least < 0:
            yield f"{name} is not a whole number of 0 or more, so it cannot be summed: take its last value or its mean of the last ten"
        elif measure.most * starts >= LIMIT or (unit(name) == 1 and measure.most > 1):
            yield f"the sum of {name} over {starts:,} starts may not fit: use a measure of smaller numbers"


def in_spark(expression: str) -> str:
    """An expression with the floor division of whole numbers, none negative, as Spark writes it."""
    return expression.replace(" // ", " div ")


def unknown_measure(name: str) -> str:
    """The fault of a name that is not a measure, in words."""
    return f"{name} is not a measure of a start: use one of velo/racing/measures.py, or declare it in the family's measures"


def _scaled(total: str, prior: int, factor: int) -> str:
    shifted = f"({total} + {prior})" if prior else total
    return f"{shifted} * {factor}" if factor != 1 else shifted
