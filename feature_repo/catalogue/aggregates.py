"""How a feature is made from the measures of starts: each kind once, as SQL and as plain Python, bit for bit alike.

All arithmetic is on integers until one last division of two doubles, so that neither the order of summing nor the
engine changes a bit. Measures whose name ends in `_e9` count in billionths.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import Final, Literal

Kind = Literal["int", "float"]
Value = int | float | None
E9: Final = 10**9
RECENT_DEPTH: Final = 10
"""How many of a key's latest values the recent features may look back on."""


WORDS: Final[Mapping[str, str]] = {
    "one": "starts",
    "win": "wins",
    "place": "places",
    "prb_e9": "share of rivals beaten",
    "prb_known": "starts against rivals",
    "exp_e9": "wins the market expected",
    "win_priced": "wins where every starter had odds",
    "uni_e9": "wins by chance alone (1 ÷ starters)",
    "market_e9": "market's expectation (1 = an average runner)",
    "market_log_e9": "log2 of the market's expectation (16 = an average runner)",
    "priced": "starts where every starter had odds",
    "over_e9": "share of rivals beaten above what the odds expected (1 = as expected)",
    "over_known": "starts against rivals where every starter had odds",
    "pace_e9": "speed against the race's mean",
    "pace_known": "starts timed with a rival",
    "speed_e9": "speed against par for the distance",
    "speed_known": "timed starts",
    "figure_e9": "figure in pounds",
    "lengths_e9": "lengths behind the winner (30 at most)",
    "position": "position",
    "field": "number of starters",
    "race_day": "race day (days since 1970-01-01)",
    "day_e9": "day of the race (the first of the year 1 is 1)",
    "race_class": "class of the race",
    "distance_m": "distance in metres",
    "weight_lbs": "weight carried in pounds",
    "official_rating": "official rating",
    "body_weight_lbs": "body weight in pounds",
    "elo_rated": "starts rated",
    "horse_elo_e9": "Elo points the horse earned",
    "jockey_elo_e9": "Elo points the jockey earned",
    "trainer_elo_e9": "Elo points the trainer earned",
    "draw_elo_e9": "Elo points the third of the draw earned",
    "suited_elo_e9": "Elo points the horse earned by course and distance",
}
"""What each measure of a start says, as the formulas tell it."""


def unit(measure: str) -> int:
    """What one natural unit of a measure counts in it."""
    return E9 if measure.endswith("_e9") else 1


@dataclass(frozen=True, slots=True)
class Total:
    """Σ of a measure that counts in ones."""

    name: str
    measure: str
    kind: Kind = "int"

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures it sums."""
        return (self.measure,)

    def describe(self) -> str:
        """Its formula in words."""
        return f"Σ {WORDS[self.measure]}"

    def sql(self, total: Callable[[str], str]) -> str:
        """Expression, given the expression of the total of a measure."""
        return f"CAST({total(self.measure)} AS INTEGER)"

    def python(self, total: Callable[[str], str]) -> str:
        """Python expression of `value`, given that of the total of a measure: what the stream compiles."""
        return total(self.measure)

    def value(self, totals: Mapping[str, int]) -> Value:
        """Value, given the totals."""
        return totals[self.measure]


@dataclass(frozen=True, slots=True)
class Quotient:
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

    def describe(self) -> str:
        """Its formula in words."""
        over, under = f"Σ {WORDS[self.numerator]}", f"Σ {WORDS[self.denominator]}"
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


@dataclass(frozen=True, slots=True)
class Balance:
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

    def describe(self) -> str:
        """Its formula in words."""
        return f"Σ {WORDS[self.measure]}"

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


Aggregate = Total | Quotient | Balance


@dataclass(frozen=True, slots=True)
class Last:
    """A measure of the last start; null where that start has none."""

    name: str
    measure: str
    kind: Kind = "float"
    depth: int = 0

    def describe(self) -> str:
        """Its formula in words."""
        return f"{WORDS[self.measure]} of the last start"

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

    def python(self, last: str) -> str:
        """Python expression of `value`, given that of the last start's: what the stream compiles."""
        known = f"float(last) / {float(unit(self.measure))}" if self.kind == "float" else "int(last)"
        return f"(None if (last := {last}) is None else {known})"


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

    def describe(self) -> str:
        """Its formula in words."""
        return f"mean {WORDS[self.measure]} of the last {self.depth} known, weights 0.6^i from the newest"

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


@dataclass(frozen=True, slots=True)
class Slope:
    """Least-squares slope of the last `depth` known values on their order, oldest first: positive is improving."""

    name: str
    measure: str
    depth: int = 6
    least: int = 3
    kind: Kind = "float"

    def describe(self) -> str:
        """Its formula in words."""
        return (
            f"least-squares slope a start of {WORDS[self.measure]}, the last {self.depth} known ({self.least} or more)"
        )

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
    def _centre(self) -> int:
        return unit(self.measure) // 2

    def describe(self) -> str:
        """Its formula in words."""
        return f"sample variance of {WORDS[self.measure]}, the last {self.depth} known ({self.least} or more)"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        values = [f"coalesce({newest(k)} - {self._centre}, 0)" for k in range(self.depth)]
        count = _count(newest, self.depth)
        total = " + ".join(values)
        squares = " + ".join(f"{value} * {value}" for value in values)
        over = f"{count} * ({squares}) - ({total}) * ({total})"
        under = f"CAST({count} * ({count} - 1) AS DOUBLE) * {float(unit(self.measure) ** 2)}"
        return f"CASE WHEN {count} >= {self.least} THEN CAST({over} AS DOUBLE) / ({under}) END"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        centre = self._centre
        values = [value - centre for value in newest[: self.depth]]
        count = len(values)
        if count < self.least:
            return None
        over = count * sum(map(mul, values, values)) - sum(values) ** 2
        return float(over) / (float(count * (count - 1)) * float(unit(self.measure) ** 2))


@dataclass(frozen=True, slots=True)
class Best:
    """Largest of the last `depth` known values."""

    name: str
    measure: str
    depth: int = 6
    kind: Kind = "float"

    def describe(self) -> str:
        """Its formula in words."""
        return f"largest {WORDS[self.measure]} of the last {self.depth} known"

    def sql(self, newest: Callable[[int], str], last: str) -> str:
        """Expression, given those of the k-th newest known value and of the last start's."""
        best = f"greatest({', '.join(newest(k) for k in range(self.depth))})"
        return f"CAST({best} AS DOUBLE) / {float(unit(self.measure))}"

    def value(self, newest: Sequence[int], last: float | None) -> Value:
        """Value, given the known values newest first, and the last start's."""
        values = newest[: self.depth]
        return float(max(values)) / float(unit(self.measure)) if values else None


Recent = Last | Ewma | Slope | Variance | Best


@lru_cache
def _ewma_scale(depth: int, measure: str, known: int) -> tuple[tuple[int, ...], float]:
    weights = Ewma("", measure, depth).weights[:known]
    return weights, float(sum(weights) * unit(measure))


def _scaled(total: str, prior: int, factor: int) -> str:
    shifted = f"({total} + {prior})" if prior else total
    return f"{shifted} * {factor}" if factor != 1 else shifted


def _count(newest: Callable[[int], str], depth: int) -> str:
    return "(" + " + ".join(f"({newest(k)} IS NOT NULL)::BIGINT" for k in range(depth)) + ")"
