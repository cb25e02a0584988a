"""Calibration of probabilities: debiased binned calibration error, and the calibration slope.

Each runner is one observation; `share` is its share of the win. Intervals resample whole race days (`velo.resampling`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from velo.resampling import Days, Figure
from velo.training.dataset.by_race import Floats

EQUAL_MASS_BINS: Final = 15
EQUAL_WIDTH_BINS: Final = 10
_EDGE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Bins:
    """A reliability diagram: the number of runners, the mean p and the win rate of each bin that is not empty."""

    runners: NDArray[np.int64]
    said: Floats
    won: Floats


def equal_mass(p: Floats, bins: int = EQUAL_MASS_BINS) -> NDArray[np.intp]:
    """The bin of each runner, cut at quantiles of p; equal p share a bin, so ties make fewer bins."""
    cuts = np.quantile(p, np.arange(1, bins) / bins)
    return np.asarray(np.searchsorted(np.unique(cuts), p, side="left"), dtype=np.intp)


def equal_width(p: Floats, bins: int = EQUAL_WIDTH_BINS) -> NDArray[np.intp]:
    """The bin of each runner, cut at 1/bins, 2/bins and so on, each bin with its upper end."""
    return np.asarray(np.clip(np.ceil(p * bins) - 1, 0, bins - 1), dtype=np.intp)


def reliability(p: Floats, share: Floats, bin_of: NDArray[np.intp]) -> Bins:
    """The diagram of runners grouped into bins."""
    runners = np.bincount(bin_of)
    held = runners > 0
    counts = runners[held].astype(np.float64)
    return Bins(runners[held], np.bincount(bin_of, p)[held] / counts, np.bincount(bin_of, share)[held] / counts)


def plain_error(p: Floats, share: Floats, bin_of: NDArray[np.intp]) -> float:
    """The mean over the runners of |win rate − mean p| of their bin: above 0 by chance even if every p is true."""
    bins = reliability(p, share, bin_of)
    return float(np.sum(bins.runners * np.abs(bins.won - bins.said)) / p.size)


def mean_gap(p: Floats, share: Floats, days: Days, bins: int = EQUAL_MASS_BINS) -> Figure:
    """The mean of |win rate − mean p| over equal-mass bins, less its expected value if every p is true; not below 0.

    It varies little by chance, but is biased low where the true gap is as small as chance itself: for a bound that must hold
    with few runners use `root_mean_gap`. `days` is of the runners.
    """
    sums, count = _by_day_and_bin(p, share, days, bins)
    drawn = _mean_gap(days.resampled(sums), count, 2.0**0.5)
    return days.figure(float(_mean_gap(sums.sum(axis=0)[None, :], count, 1.0)[0]), drawn, p.size)


def root_mean_gap(p: Floats, share: Floats, days: Days, bins: int = EQUAL_MASS_BINS) -> Figure:
    """The root mean square of win rate − mean p over equal-mass bins, less the part due to chance (Kumar et al. 2019).

    Each bin's variance w(1 − w)/(n − 1) is taken off its squared gap, which leaves the mean square unbiased whatever
    the true gap; a mean below 0 is 0.
    """
    sums, count = _by_day_and_bin(p, share, days, bins)
    drawn = _root_mean_gap(days.resampled(sums), count, 2.0)
    return days.figure(float(_root_mean_gap(sums.sum(axis=0)[None, :], count, 1.0)[0]), drawn, p.size)


def slope(p: Floats, share: Floats, days: Days) -> Figure:
    """The slope of a logistic regression of the win on logit p, with an intercept; below 1, p is overconfident.

    Its interval takes one Newton step from the fit in each resample, for all of them at once. None if p does not vary, or
    separates winners from losers: no finite slope fits.
    """
    inside = np.clip(p, _EDGE, 1.0 - _EDGE)
    columns = np.stack([np.ones(p.size), np.log(inside) - np.log1p(-inside)], axis=1)
    at = np.array([0.0, 1.0])
    if np.ptp(columns[:, 1]) == 0.0:
        return Figure(None, None, None, p.size)
    try:
        for _ in range(100):
            gradient, hessian = _score(columns, share, at)
            step = np.linalg.solve(hessian.sum(axis=0), gradient.sum(axis=0))
            # far from the optimum a whole step may overshoot forever, if p nearly separates winners from losers
            at = at + step / max(1.0, float(np.abs(step).max()))
            if np.abs(step).max() < 1e-10:
                break
        gradient, hessian = _score(columns, share, at)
        by_day = days.sums(np.concatenate([gradient, hessian.reshape(-1, 4)], axis=1))
        drawn = days.resampled(by_day)
        steps = np.linalg.solve(drawn[:, 2:].reshape(-1, 2, 2), drawn[:, :2, None])[:, 1, 0]
    except np.linalg.LinAlgError:
        # p separates the winners from the losers: no slope is steep enough
        return Figure(None, None, None, p.size)
    return days.figure(float(at[1]), at[1] + steps, p.size)


def _score(columns: Floats, share: Floats, at: Floats) -> tuple[Floats, Floats]:
    fitted = expit(columns @ at)
    weight = fitted * (1.0 - fitted)
    outer = columns[:, :, None] * columns[:, None, :]
    return columns * (share - fitted)[:, None], np.asarray(outer * weight[:, None, None], dtype=np.float64)


# A resample has the sampling variance twice, that of the data and that of the draw: it is subtracted twice.


def _by_day_and_bin(p: Floats, share: Floats, days: Days, bins: int) -> tuple[Floats, int]:
    """Sums by day, (days, 4 × bins): runners, p, wins and the variance of the wins if p is true; and the number of bins."""
    bin_of = equal_mass(p, bins)
    count = int(bin_of.max()) + 1
    cell = days.of * count + bin_of
    columns = (np.ones(p.size), p, share, p * (1.0 - p))
    sums = [np.bincount(cell, column, minlength=days.count * count).reshape(days.count, count) for column in columns]
    return np.concatenate(sums, axis=1), count


def _mean_gap(sums: Floats, count: int, times: float) -> Floats:
    runners, p, won, variance = (sums[:, at * count : (at + 1) * count] for at in range(4))
    chance = np.sqrt(variance * 2.0 / np.pi)
    gaps = np.abs(won - p).sum(axis=1) - times * chance.sum(axis=1)
    return np.asarray(np.maximum(gaps / runners.sum(axis=1), 0.0), dtype=np.float64)


def _root_mean_gap(sums: Floats, count: int, times: float) -> Floats:
    runners, p, won, _ = (sums[:, at * count : (at + 1) * count] for at in range(4))
    held = np.maximum(runners, 1.0)
    rate = won / held
    chance = rate * (1.0 - rate) / np.maximum(runners - 1.0, 1.0)
    squares = (rate - p / held) ** 2 - times * chance
    return np.asarray(np.sqrt(np.maximum((runners * squares).sum(axis=1) / runners.sum(axis=1), 0.0)), dtype=np.float64)
