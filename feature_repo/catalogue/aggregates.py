"""Features that sum the measures of starts. A kind of aggregate is one class, and its `formula` is written once.

The formula is whole-number arithmetic on totals. Given numbers, arrays or texts (`Text`), the same formula yields the value of
one row, the values of many, the SQL of DuckDB and Spark, and the Python that the stream compiles: bit for bit alike.
`recent_aggregates` has the features of a key's last starts.

All arithmetic is on integers until one last division of two doubles, so that neither the order of summing nor the
engine changes a bit. Measures whose name ends in `_e9` count in billionths.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

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
ALL_STARTS: Final = "all known starts"
NEVER_NULL: Final = "never null: a key without a known start has no row"
_SUM, _PRODUCT, _ATOM = range(3)


@dataclass(frozen=True, slots=True)
class Text:
    """The text of an expression. Operators write what they do, with parentheses where they are needed, in SQL and Python alike.

    `level` says how tightly its last operator binds. The text of a database column or a variable is an atom.
    """

    text: str
    level: int = _ATOM

    def __pos__(self) -> "Text":
        return Text(f"({self.text})")

    def __add__(self, other: "Text | int") -> "Text":
        return Text(f"{self.text} + {_within(other, _PRODUCT)}", _SUM)

    def __sub__(self, other: "Text | int") -> "Text":
        return Text(f"{self.text} - {_within(other, _PRODUCT)}", _SUM)

    def __mul__(self, other: "Text | float") -> "Text":
        return Text(f"{_within(self, _PRODUCT)} * {_within(other, _ATOM)}", _PRODUCT)

    def __rmul__(self, other: int) -> "Text":
        return Text(f"{other} * {_within(self, _ATOM)}", _PRODUCT)

    def __floordiv__(self, other: "Text | int") -> "Text":
        return Text(f"({_within(self, _PRODUCT)} // {_within(other, _ATOM)})")

    def __truediv__(self, other: "Text | float") -> "Text":
        return Text(f"{_within(self, _PRODUCT)} / {_within(other, _ATOM)}", _PRODUCT)


def _within(operand: Text | float, level: int) -> str:
    if not isinstance(operand, Text):
        return str(operand)
    return operand.text if operand.level >= level else f"({operand.text})"


class Quotient(NamedTuple):
    """`over` ÷ `under` as doubles, null where `known` is 0. Each is a whole number, an array of them, or the text of one."""

    over: Any
    under: Any
    known: Any


class _OfTotals:
    """An aggregate of the totals of `measures` over starts."""

    __slots__ = ()

    def formula(self, total: Callable[[str], Any]) -> Any:
        """Its value, given that of the total of a measure: a `Quotient`, or a whole number."""
        raise NotImplementedError

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        made = self.formula(lambda measure: Text(total(measure)))
        if not isinstance(made, Quotient):
            return f"CAST({made.text} AS INTEGER)"
        over = f"CAST({made.over.text} AS DOUBLE)"
        if made.known is made.under:
            return f"{over} / NULLIF(CAST({made.under.text} AS DOUBLE), 0)"
        return f"CASE WHEN {made.known.text} > 0 THEN {over} / {float(made.under)} END"

    def spark(self, total: Callable[[str], str]) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(total))

    def python(self, total: Callable[[str], str]) -> str:
        """Python expression of `value`, given that of the total of a measure: what the stream compiles."""
        made = self.formula(lambda measure: Text(total(measure)))
        if not isinstance(made, Quotient):
            return str(made.text)
        under = "float(known)" if made.known is made.under else str(float(made.under))
        return f"(float({made.over.text}) / {under} if (known := {made.known.text}) else None)"

    def value(self, totals: Mapping[str, int]) -> Value:
        """Value, given the totals."""
        made = self.formula(totals.__getitem__)
        if not isinstance(made, Quotient):
            return int(made)
        return float(made.over) / float(made.under) if made.known else None

    def arrays(self, totals: Totals) -> Floats:
        """Values of many rows, given the totals of each: (rows,), NaN for null."""
        made = self.formula(totals.__getitem__)
        if not isinstance(made, Quotient):
            return np.asarray(made, dtype=np.float64)
        over, under = (np.asarray(number, dtype=np.float64) for number in made[:2])
        values: Floats = np.divide(over, under, out=np.full(over.shape, np.nan), where=made.known != 0)
        return values


@dataclass(frozen=True, slots=True)
class Sum(_OfTotals):
    """Σ of a measure that counts in ones."""

    name: str
    measure: str
    kind: Kind = "int"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures it sums."""
        return (self.measure,)

    def formula(self, total: Callable[[str], Any]) -> Any:
        """The total."""
        return total(self.measure)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"Σ {measures[self.measure].words}"

    def unit_of(self, measures: Measures) -> str:
        """What its values count."""
        return measures[self.measure].unit

    def null(self, measures: Measures) -> str:
        """When it is null, in words."""
        return NEVER_NULL


@dataclass(frozen=True, slots=True)
class Ratio(_OfTotals):
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

    def formula(self, total: Callable[[str], Any]) -> Quotient:
        """Both totals in one unit, in whole numbers, before the one division that rounds."""
        over, under = unit(self.numerator), unit(self.denominator)
        by_over, by_under = (1, 1) if over == under else (under, over)
        divisor = _scaled(total(self.denominator), self.prior * under, by_under)
        return Quotient(_scaled(total(self.numerator), self.prior * over, by_over), divisor, divisor)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        over, under = f"Σ {measures[self.numerator].words}", f"Σ {measures[self.denominator].words}"
        return f"({over} + {self.prior}) ÷ ({under} + {self.prior})" if self.prior else f"{over} ÷ {under}"

    def unit_of(self, measures: Measures) -> str:
        """What its values count."""
        over, under = measures[self.numerator], measures[self.denominator]
        if over.unit == under.unit:
            return "ratio"
        return f"{over.unit} per start" if over.is_count else over.unit

    def null(self, measures: Measures) -> str:
        """When it is null, in words."""
        return NEVER_NULL if self.prior else f"null if Σ {measures[self.denominator].words} is 0"


@dataclass(frozen=True, slots=True)
class OffsetSum(_OfTotals):
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

    def formula(self, total: Callable[[str], Any]) -> Quotient:
        """The total less what was added to each known value, in natural units."""
        known, scale = total(self.known), unit(self.measure)
        return Quotient(total(self.measure) - self.even * scale * known, scale, known)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return f"Σ {measures[self.measure].words}"

    def unit_of(self, measures: Measures) -> str:
        """What its values count."""
        return measures[self.measure].unit

    def null(self, measures: Measures) -> str:
        """When it is null, in words."""
        return f"null if Σ {measures[self.known].words} is 0"


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


def _scaled(total: Any, prior: int, factor: int) -> Any:
    # the parentheses are part of the fingerprint of tables that exist
    shifted = +(total + prior) if prior else total
    return shifted * factor if factor != 1 else shifted
