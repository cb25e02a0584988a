"""Bootstrap intervals over whole race days, since the races of a day are not independent.

All figures of a period use the same draws, so figures of one resample can be compared.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
LEAST_DAYS: Final = 10
"""Minimum race days for an interval; the bootstrap is unreliable with fewer."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, its 95 % interval and its number of bets, runners or races; None if it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def shown(self, digits: int = 3, times: float = 1.0, unit: str = "") -> str:
        """The value with its interval, such as `0.12 [0.10, 0.14]`, scaled and with a unit; a dash without a value."""
        if self.value is None:
            return "–"
        text = f"{self.value * times:.{digits}f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low * times:.{digits}f}, {self.high * times:.{digits}f}]"
        return text + unit

    def percent(self, digits: int = 1) -> str:
        """As `shown`, in percent."""
        return self.shown(digits, 100.0, " %")


@dataclass(frozen=True)
class Days:
    """The race day of every row (`of`, from 0), the number of days, and the seed and number of resamples."""

    of: Indices
    count: int
    seed: int
    resamples: int = RESAMPLES

    @staticmethod
    def of_dates(dates: ArrayLike, seed: int, resamples: int = RESAMPLES) -> "Days":
        """Make the days of rows from their local race dates."""
        distinct, of = np.unique(np.asarray(dates), return_inverse=True)
        return Days(np.asarray(of, dtype=np.intp), distinct.size, seed, resamples)

    @cached_property
    def weights(self) -> Floats:
        """The number of draws of each day in each resample, (resamples, days); every row sums to the number of days."""
        rng = np.random.default_rng(self.seed)
        share = np.full(self.count, 1.0 / max(self.count, 1))
        return np.asarray(rng.multinomial(self.count, share, size=self.resamples), dtype=np.float64)

    def where(self, wanted: NDArray[np.bool_]) -> "Days":
        """A subset of the rows, with the same draws; days without rows stay in the draws."""
        narrowed = Days(self.of[wanted], self.count, self.seed, self.resamples)
        narrowed.__dict__["weights"] = self.weights
        return narrowed

    def sums(self, values: Floats) -> Floats:
        """Sums by day of each column, (days, columns)."""
        columns = np.atleast_2d(values.T)
        return np.stack([np.bincount(self.of, column, minlength=self.count) for column in columns], axis=1)

    def resampled(self, by_day: Floats) -> Floats:
        """Column sums of every resample, (resamples, columns)."""
        return np.asarray(self.weights @ by_day, dtype=np.float64)

    def ratio(self, over: Floats, under: Floats, n: int | None = None) -> Figure:
        """Σ over ÷ Σ under with its interval; `n` defaults to the rows. The value is None if Σ under is 0.

        There is no interval if `over` is 0 throughout: every resample would be 0.
        """
        rows = over.size if n is None else n
        if over.size == 0 or under.sum() == 0.0:
            return Figure(None, None, None, rows)
        if not over.any():
            return Figure(0.0, None, None, rows)
        drawn = self.resampled(self.sums(np.stack([over, under], axis=1)))
        held = drawn[:, 1] != 0.0
        return self.figure(float(over.sum() / under.sum()), drawn[held, 0] / drawn[held, 1], rows)

    def mean(self, values: Floats) -> Figure:
        """The mean with its interval."""
        return self.ratio(values, np.ones(values.size))

    def figure(self, value: float, resampled: Floats, n: int) -> Figure:
        """A value with the quantiles of its resamples; no interval for fewer than `LEAST_DAYS` days."""
        if np.count_nonzero(np.bincount(self.of)) < LEAST_DAYS or resampled.size == 0:
            return Figure(value, None, None, n)
        tail = (1.0 - LEVEL) / 2.0
        low, high = np.quantile(resampled, [tail, 1.0 - tail])
        return Figure(value, float(low), float(high), n)
