"""Features of a key's last starts: the last value, means, trend, variance and maximum of the last known values.

A kind is one class, and its `formula` is written once: it reads the starts as numbers, arrays, SQL or Python text (see
`aggregates`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.aggregates import (
    ALL_STARTS,
    LIMIT,
    Floats,
    Kind,
    Measures,
    Text,
    Value,
    in_spark,
    unknown_measure,
)
from velo.racing.measures import MEASURES, unit

Numbers = NDArray[np.int64]
KnownNumbers = tuple[Numbers, NDArray[np.bool_]]
"""Numbers, and whether each is known."""
RECENT_DEPTH: Final = 10
"""The most of a key's latest values that a recent feature may use."""


class _Starts:
    """The starts of a key as numbers: the known values of a measure, newest first, and the `last` start's value."""

    def __init__(self, known: Sequence[int], last: float | None) -> None:
        self._known = known
        self.last: Any = last

    @property
    def newest(self) -> Any:
        """The newest known value."""
        return self._known[0]

    def latest(self, depth: int, less: int | None = None) -> Sequence[Any]:
        """The last known values, newest first, each less a number; an unknown one is left out, or is 0."""
        known = self._known[:depth]
        return [value - less for value in known] if less else known

    def total(self, numbers: Iterable[Any]) -> Any:
        """The sum of whole numbers."""
        return sum(numbers)

    def of_known(self, numbers: Sequence[int]) -> Sequence[Any]:
        """The numbers whose place, newest first, has a known value; the others are left out, or are 0."""
        return numbers[: len(self._known)]

    def count(self, depth: int) -> Any:
        """The number of known values among the last `depth`."""
        return min(len(self._known), depth)

    def most(self, depth: int) -> Any:
        """The largest of the last known values."""
        return max(self._known[:depth])

    def real(self, number: Any) -> Any:
        """A whole number as a double."""
        return float(number)

    def whole(self, number: Any) -> Any:
        """A whole number of 32 bits."""
        return int(number)

    def divisor(self, number: Any, factor: int) -> Any:
        """A whole number times a factor, as a double; null for 0."""
        return float(number * factor)


class _SqlStarts(_Starts):
    """The same as SQL of DuckDB. `known` gives the text of the k-th newest known value, which is null without one."""

    def __init__(self, known: Callable[[int], str], last: str) -> None:
        self._text = known
        self.last = Text(last)

    @property
    def newest(self) -> Text:
        return Text(self._text(0))

    def latest(self, depth: int, less: int | None = None) -> list[Text]:
        subtracted = "" if less is None else f" - {less}"
        return [Text(f"coalesce({self._text(back)}{subtracted}, 0)") for back in range(depth)]

    def total(self, numbers: Iterable[Text]) -> Text:
        return reduce(add, numbers)

    def of_known(self, numbers: Sequence[int]) -> list[Text]:
        return [Text(f"CASE WHEN {self._text(k)} IS NULL THEN 0 ELSE {number} END") for k, number in enumerate(numbers)]

    def count(self, depth: int) -> Text:
        return Text("(" + " + ".join(f"({self._text(back)} IS NOT NULL)::BIGINT" for back in range(depth)) + ")")

    def most(self, depth: int) -> Text:
        return Text(f"greatest({', '.join(map(self._text, range(depth)))})")

    def real(self, number: Text) -> Text:
        return Text(f"CAST({number.text} AS DOUBLE)")

    def whole(self, number: Text) -> Text:
        return Text(f"CAST({number.text} AS INTEGER)")

    def divisor(self, number: Text, factor: int) -> Text:
        return Text(f"NULLIF(CAST(({number.text})::BIGINT * {factor} AS DOUBLE), 0)")


class _ArrayStarts(_Starts):
    """The same of many rows: `known` gives the k-th newest known value of each, and whether there is one."""

    def __init__(self, known: Sequence[KnownNumbers], last: Numbers) -> None:
        self._numbers = known
        self.last = last

    @property
    def newest(self) -> Numbers:
        return self._numbers[0][0]

    def latest(self, depth: int, less: int | None = None) -> list[Numbers]:
        return [np.where(known, values - (less or 0), 0) for values, known in self._numbers[:depth]]

    def of_known(self, numbers: Sequence[int]) -> list[Numbers]:
        return [np.where(known, number, 0) for number, (_, known) in zip(numbers, self._numbers, strict=False)]

    def count(self, depth: int) -> Any:
        return np.sum([known for _, known in self._numbers[:depth]], axis=0, dtype=np.int64)

    def most(self, depth: int) -> Any:
        return np.max([np.where(known, values, -LIMIT) for values, known in self._numbers[:depth]], axis=0)

    def real(self, number: Numbers) -> Floats:
        return np.asarray(number, np.float64)

    def whole(self, number: Numbers) -> Floats:
        return np.asarray(number, np.float64)

    def divisor(self, number: Numbers, factor: int) -> Floats:
        return self.real(number * factor)


class _PythonStarts(_Starts):
    """The same as Python text, of what formulas without arithmetic on many values need."""

    def __init__(self, known: str, last: str) -> None:
        self._name = known
        self.last = Text(last)

    @property
    def newest(self) -> Text:
        return Text(f"{self._name}[0]")

    def most(self, depth: int) -> Text:
        return Text(f"max({self._name}[:{depth}])")

    def real(self, number: Text) -> Text:
        return Text(f"float({number.text})")

    def whole(self, number: Text) -> Text:
        return Text(f"int({number.text})")


class _Recent:
    """A feature of a key's last starts.

    It is null with fewer than `least` of the last `depth` known values, or without the last start's value where `depth` is 0.
    The texts describe it: `words` its formula, `units` what its values count, `window` the starts, `null` when it is null.
    """

    __slots__ = ()

    name: str
    measure: str
    kind: Kind
    depth: int
    words = ""
    units = "{unit}"
    window = "the last {depth} known values"
    null = "null without a known value"
    inline = False
    """Whether the stream compiles the text of the formula, which saves a call, as most features are of such kinds."""

    @property
    def least(self) -> int:
        """The fewest known values that it needs."""
        return 1

    def formula(self, of: _Starts) -> Any:
        """Its value, where it is not null."""
        raise NotImplementedError

    def described(self, text: str, measures: Measures = MEASURES) -> str:
        """One of its texts, filled in."""
        measure = measures[self.measure]
        return text.format(measure=measure.words, unit=measure.unit, depth=self.depth, least=self.least)

    def describe(self, measures: Measures = MEASURES) -> str:
        """Its formula in words."""
        return self.described(self.words, measures)

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        of = _SqlStarts(newest, last)
        made: Text = self.formula(of)
        # a formula that one value is enough for is null without one
        return (
            f"CASE WHEN {of.count(self.depth).text} >= {self.least} THEN {made.text} END"
            if self.least > 1
            else made.text
        )

    def spark(self, newest: Callable[[int], str], last: str) -> str:
        """As `sql`, for Spark."""
        return in_spark(self.sql(newest, last))

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first (at most `RECENT_DEPTH`), and the last start's."""
        enough = len(newest) >= self.least if self.depth else last is not None
        made: Value = self.formula(_Starts(newest, last)) if enough else None
        return made

    def arrays(self, newest: Sequence[KnownNumbers], last: KnownNumbers) -> Floats:
        """Values of many rows, given the k-th newest known values and the last start's: (rows,), NaN for null."""
        of = _ArrayStarts(newest, last[0])
        enough = of.count(self.depth) >= self.least if self.depth else last[1]
        # without enough values a formula may divide by 0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(enough, self.formula(of), np.nan)

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """Python expression of `value`: what the stream compiles. `bind` gives the name of an object in it."""
        if not self.inline:
            return f"{bind(self.value)}({newest}, {last})"
        made = self.formula(_PythonStarts(newest, last)).text
        return f"({made} if {newest} else None)" if self.depth else f"(None if {last} is None else {made})"

    def largest_number(self, least: int, most: int) -> int:
        """A bound on every whole number that it is computed by, given those of the measure."""
        return max(-least, most)

    def _natural(self, of: _Starts, number: Any) -> Any:
        """A whole number of the measure in natural units, or as it is where the feature is an int."""
        return of.whole(number) if self.kind == "int" else of.real(number) / float(unit(self.measure))


@dataclass(frozen=True, slots=True)
class Last(_Recent):
    """A measure of the last start; null where that start has none."""

    name: str
    measure: str
    kind: Kind = "float"
    depth: int = 0
    words, window, null = "{measure} of the last start", "the last start", "null if the last start has none"
    inline = True

    def formula(self, of: _Starts) -> Any:
        """The last start's value."""
        return self._natural(of, of.last)


@dataclass(frozen=True, slots=True)
class LastKnown(_Recent):
    """The newest value that is known, however many starts ago; null without one."""

    name: str
    measure: str
    kind: Kind = "int"
    depth: int = 1
    words, window, null = "{measure}, the newest known", ALL_STARTS, "null if no start has one"
    inline = True

    def formula(self, of: _Starts) -> Any:
        """The newest known value."""
        return self._natural(of, of.newest)


@dataclass(frozen=True, slots=True)
class Ewma(_Recent):
    """Exponentially weighted mean of the last `depth` known values, weight 0.6^i from the newest, normalised."""

    name: str
    measure: str
    depth: int = 10
    kind: Kind = "float"
    words = "mean {measure} of the last {depth} known, weights 0.6^i from the newest"

    @property
    def weights(self) -> tuple[int, ...]:
        """0.6^i times 5^(depth − 1): whole numbers, newest first."""
        return tuple(3**back * 5 ** (self.depth - 1 - back) for back in range(self.depth))

    def formula(self, of: _Starts) -> Any:
        """The weighted sum of the known values over the sum of their weights."""
        over = of.total(map(mul, of.latest(self.depth), self.weights))
        return of.real(over) / of.divisor(of.total(of.of_known(self.weights)), unit(self.measure))

    def python(self, last: str, newest: str, bind: Callable[[object], str]) -> str:
        """As `_Recent.python`, with the sums of the weights worked out once."""
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
    words = "least-squares slope a start of {measure}, the last {depth} known ({least} or more)"
    units, null = "{unit} per start", "null with fewer than {least} known values"

    def formula(self, of: _Starts) -> Any:
        """The slope on the order, in whole numbers until the one division."""
        values, count = of.latest(self.depth), of.count(self.depth)
        total = of.total(values)
        back = of.total(map(mul, range(self.depth), values))
        over = count * ((count - 1) * total - back) - (count * (count - 1) // 2) * total
        return of.real(over) / of.real((count * count * (count * count - 1) // 12) * unit(self.measure))

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
    words = "sample variance of {measure}, the last {depth} known ({least} or more)"
    units, null = "{unit}, squared", "null with fewer than {least} known values"

    @property
    def centre(self) -> int:
        """The value that is subtracted from each value before it is squared."""
        return unit(self.measure) // 2

    def formula(self, of: _Starts) -> Any:
        """The variance, in whole numbers until the division."""
        values, count = of.latest(self.depth, self.centre), of.count(self.depth)
        total = of.total(values)
        over = count * of.total(map(mul, values, values)) - total * total
        return of.real(over) / (of.real(count * (count - 1)) * float(unit(self.measure) ** 2))

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
    words = "largest {measure} of the last {depth} known"
    inline = True

    def formula(self, of: _Starts) -> Any:
        """The largest."""
        return of.real(of.most(self.depth)) / float(unit(self.measure))


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
