"""Intervals by resampling whole race days: what happens on one day shares its going, its draw and its luck.

One set of draws serves all figures of a period, so that figures of the same resample belong together.
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
"""Of fewer days no interval is told: resampling them says more of the method than of the luck."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, its 95 % interval and the number of bets, runners or races in it; None where it cannot be told."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Days:
    """The race day of every row (`of`, from 0), how many there are, and the seed of their resamples."""

    of: Indices
    count: int
    seed: int
    resamples: int = RESAMPLES

    @staticmethod
    def of_dates(dates: ArrayLike, seed: int, resamples: int = RESAMPLES) -> "Days":
        """The days of rows from their local race dates."""
        distinct, of = np.unique(np.asarray(dates), return_inverse=True)
        return Days(np.asarray(of, dtype=np.intp), distinct.size, seed, resamples)

    @cached_property
    def weights(self) -> Floats:
        """How often each resample drew each day, (resamples, days); every row sums to the number of days."""
        rng = np.random.default_rng(self.seed)
        share = np.full(self.count, 1.0 / max(self.count, 1))
        return np.asarray(rng.multinomial(self.count, share, size=self.resamples), dtype=np.float64)

    def where(self, wanted: NDArray[np.bool_]) -> "Days":
        """Some of the rows, under the same draws of the same days: what has no row on a day has nothing of it."""
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
        """Σ over ÷ Σ under with its interval; `n` rows unless told otherwise. No figure where Σ under is 0.

        No interval where `over` is 0 throughout: what never happened cannot be drawn anew.
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
        """A value with the quantiles of its resamples; no interval where the rows are of fewer than `LEAST_DAYS` days."""
        if np.count_nonzero(np.bincount(self.of)) < LEAST_DAYS or resampled.size == 0:
            return Figure(value, None, None, n)
        tail = (1.0 - LEVEL) / 2.0
        low, high = np.quantile(resampled, [tail, 1.0 - tail])
        return Figure(value, float(low), float(high), n)
