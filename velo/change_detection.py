"""Sequential tests for a lasting change of daily figures: CUSUMs of log likelihood ratios, tuned to a change of a given size.

A figure of a race day (the mean of a feature, say) moves with who runs: from day to day, with the season, and slowly with the
data's own growth. So a day is compared with the level of the race days `LAG` and more before it, and what counts as noise is
learnt from the days of a training set: their deviations from such levels, in runs of up to `LAG` days, because the days of a run
are alike. It is learnt twice, from days among those of their profile, and from days after them, as served days are. What still
grows, such as a count of all starts, moves more after its profile than within it. The larger noise counts.

The sum of log likelihood ratios of "the figure moved by the target" against "it did not" is a CUSUM; its exponential is an
e-detector, whose mean time to a false alarm is at least e^threshold days where deviations are no wilder than in training.
"""

from dataclasses import dataclass, fields, replace
from datetime import date
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]

TARGETS: Final = np.array([1.0, 0.2, 0.15])
"""The change of each channel that the tests are tuned to: standard deviations of the mean, share of nulls, bits of divergence."""
SMALLEST_SD: Final = np.array([0.1, 0.02, 0.015])
"""The least standard deviation of a day's figure: what never moved in training may move a little."""
SEASON_DAYS: Final = 365
"""Race days of a season, at most."""
FALSE_ALARMS: Final = 0.5
"""The expected number of false alarms of all tests of a season together, from which the threshold follows."""
LAG: Final = 5
"""A day's level ends this many race days before it, so that a change does not hide in its own level."""
FAR: Final = 60
"""The race days of an old level, from which the noise of a level without newer days is learnt."""
MEMORY: Final = 0.1
"""The weight of a new day in the level: it remembers about ten race days."""
FIRST_DAYS: Final = 20
"""Race days after which a level counts."""
LEAST_DAYS: Final = 150
"""The fewest race days of a training set for alarms: fewer say too little of how days differ, and the alarms would cry wolf."""
YEAR: Final = np.timedelta64(365, "D")
"""Noise is learnt from the last year of a training set: the values of a store's first months are still filling."""
LEVEL_EVERY: Final = 20
TRUSTED: Final = 0.5
"""The noise, as a part of the target, at which the variance counts double: what moves much by itself moves more in another season."""
SHAPE: Final = 2
"""The place of the divergence, whose noise is learnt once: half a training set has other bins, of half the seasons."""
FEWEST: Final = 3
"""The fewest race days of an alarm: what one day adds is bounded, so that one odd day is none."""
STEPS: Final = 24
GROWTH: Final = 1.2


def threshold(features: int) -> float:
    """The log likelihood ratio at which a test of `features` features raises an alarm."""
    return log(2 * TARGETS.size * max(features, 1) * SEASON_DAYS / FALSE_ALARMS)


@dataclass(frozen=True, slots=True)
class Noise:
    """How the days of a training set deviate from the level before them, by channel and feature.

    `near` and `far` are variances of a day's deviation from a level that ended `LAG` and `FAR` race days before, `near_age` and
    `far_age` days before. `rows` is the mean number of runners a day. `levels` are the levels after the days `level_days`.
    """

    near: Floats
    far: Floats
    near_age: Floats
    far_age: Floats
    rows: Floats
    level_days: Dates
    levels: Floats

    @classmethod
    def of(cls, days: Dates, rows: Floats, channels: Floats, later: tuple[Floats, Floats]) -> "Noise | None":
        """The noise of a training set's days, (days, channels, features) in order of time; None for too few days.

        `later` has the rows and channels of its second half, compared with a profile of the first half alone.
        """
        if days.size < LEAST_DAYS:
            return None
        levels = _levels(channels)
        typical = float(rows.mean())
        scale = _scale(rows)
        first = max(FIRST_DAYS + LAG, int(np.searchsorted(days, days[-1] - YEAR)))
        if days.size - first < LEAST_DAYS - FIRST_DAYS - LAG:
            first = FIRST_DAYS + LAG
        near = _near(channels, levels, scale, first)
        beyond = _near(later[1], _levels(later[1]), _scale(later[0]), FIRST_DAYS + LAG)
        near[:SHAPE] = np.maximum(near, beyond)[:SHAPE]
        near = near * (1.0 + np.square(near / np.square(TRUSTED * TARGETS)[:, None]))
        ages = (days[LAG:] - days[:-LAG]).astype(np.float64)
        far, far_age = near, float(ages.mean())
        if days.size > FAR + FIRST_DAYS + LAG:
            apart = ((channels[FAR:] - levels[:-FAR]) / scale[FAR:])[max(first - FAR, FIRST_DAYS) :]
            far = np.maximum(near, _mean(np.square(apart)))
            far_age = float((days[FAR:] - days[:-FAR]).astype(np.float64).mean())
        kept = np.unique(np.r_[np.arange(FIRST_DAYS, days.size, LEVEL_EVERY), days.size - 1])
        near_age = np.array(ages.mean())
        return cls(near, far, near_age, np.array(far_age), np.array(typical), days[kept], levels[kept])

    def variance(self, age: Floats, rows: float) -> Floats:
        """The variance of a day's deviations from levels that are `age` days old; `rows` are its runners as `Cohorts.weights` has them."""
        older = np.maximum(0.0, age - float(self.near_age)) / max(1.0, float(self.far_age - self.near_age))
        grown = self.near + (self.far - self.near) * older
        return np.asarray(grown * max(1.0, float(self.rows) / max(rows, 1.0)), dtype=np.float64)

    def days_to_report(self) -> Floats:
        """The mean number of race days in which a lasting change by the target is reported, by channel and feature."""
        per_day = np.square(TARGETS)[:, None] / (2.0 * self.near)
        return np.asarray(np.maximum(FEWEST, np.ceil(threshold(self.near.shape[1]) / per_day)), dtype=np.float64)

    def arrays(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a channel of a feature: it began about `since`, was reported by the figures of `reported`, and is `size` large.

    `cleared` is the race day at which the figures were back, None while they are not.
    """

    channel: int
    feature: int
    since: date
    reported: date
    size: float
    cleared: date | None = None


def changes(noise: Noise, days: Dates, rows: Floats, channels: Floats) -> list[Change]:
    """The changes of some race days, in order of time, that their tests report; the days begin after or in the training set."""
    watch = _Watch(noise, days[0] if days.size else noise.level_days[-1])
    for at, day in enumerate(days):
        watch.day(day, float(rows[at]), channels[at])
    return watch.reported


class _Watch:
    """The state of all tests, day by day."""

    def __init__(self, noise: Noise, first: np.datetime64) -> None:
        self.noise = noise
        at = max(0, int(np.searchsorted(noise.level_days, first)) - 1)
        self.level = noise.levels[at].copy()
        self.ended = np.full(self.level.shape, noise.level_days[at])
        self.before = [(self.ended.copy(), self.level.copy())]
        self.threshold = threshold(self.level.shape[1])
        self.sums = np.zeros((2, *self.level.shape))
        self.since = np.full(self.sums.shape, first)
        self.moved, self.count = np.zeros(self.sums.shape), np.zeros(self.sums.shape)
        self.on = np.zeros(self.sums.shape, dtype=np.bool_)
        self.reported: list[Change] = []

    def day(self, day: np.datetime64, rows: float, channels: Floats) -> None:
        """Add the figures of one race day."""
        ended, level = self.before[0]
        off = channels - level
        known = ~np.isnan(off)
        age = (day - ended).astype(np.float64)
        variance = self.noise.variance(age, rows)
        self._add(day, np.where(known, off, 0.0), variance, known)
        still = known & ~self.on.any(axis=0)
        self.level = np.where(still, self.level + MEMORY * (channels - self.level), self.level)
        fresh = np.isnan(self.level) & ~np.isnan(channels)
        self.level = np.where(fresh, channels, self.level)
        self.ended = np.where(still | fresh, day, self.ended)
        self.before = [*self.before, (self.ended, self.level)][-LAG:]

    def _add(self, day: np.datetime64, off: Floats, variance: Floats, known: NDArray[np.bool_]) -> None:
        for side, sign in enumerate((1.0, -1.0)):
            added = np.where(known, _ratio(sign * off, variance, self.threshold), 0.0)
            idle = self.sums[side] == 0.0
            self.since[side] = np.where(idle, day, self.since[side])
            total = np.clip(self.sums[side] + added, 0.0, 2.0 * self.threshold)
            running = total > 0.0
            self.moved[side] = np.where(running, np.where(idle, 0.0, self.moved[side]) + off, 0.0)
            self.count[side] = np.where(running, np.where(idle, 0.0, self.count[side]) + known, 0.0)
            self.sums[side] = total
            raised = (total >= self.threshold) & ~self.on[side]
            cleared = self.on[side] & ~running
            self.on[side] = (self.on[side] | raised) & ~cleared
            self._report(day, side, raised, cleared)

    def _report(self, day: np.datetime64, side: int, raised: NDArray[np.bool_], cleared: NDArray[np.bool_]) -> None:
        for channel, feature in zip(*np.nonzero(raised), strict=True):
            at = side, channel, feature
            size = float(self.moved[at] / max(self.count[at], 1.0))
            since = local_date(self.since[at])
            self.reported.append(Change(int(channel), int(feature), since, local_date(day), size))
        for channel, feature in zip(*np.nonzero(cleared), strict=True):
            self._clear(local_date(day), int(channel), int(feature), side)

    def _clear(self, day: date, channel: int, feature: int, side: int) -> None:
        for at in range(len(self.reported) - 1, -1, -1):
            change = self.reported[at]
            same = change.channel == channel and change.feature == feature and (change.size < 0) == bool(side)
            if same and change.cleared is None:
                self.reported[at] = replace(change, cleared=day)
                return


def local_date(day: np.datetime64) -> date:
    """A day of numpy as a date."""
    return date.fromisoformat(str(day.astype("datetime64[D]")))


def _scale(rows: Floats) -> Floats:
    """What multiplies the deviation of a day with fewer runners than usual."""
    return np.asarray(np.sqrt(np.maximum(1.0, rows.mean() / rows))[:, None, None], dtype=np.float64)


def _near(channels: Floats, levels: Floats, scale: Floats, first: int) -> Floats:
    """The variance of the deviations of the days from `first` on from the levels `LAG` days before."""
    off = ((channels[LAG:] - levels[:-LAG]) / scale[LAG:])[first - LAG :]
    return _tamed(np.maximum(_long_run(off), np.square(SMALLEST_SD)[:, None]), off)


def _levels(channels: Floats) -> Floats:
    """The level after each day: an exponential mean, which begins with the mean of the first days."""
    level = _mean(channels[:FIRST_DAYS])
    levels = np.empty_like(channels)
    for at, figures in enumerate(channels):
        level = np.where(np.isnan(figures), level, level + MEMORY * (figures - level))
        levels[at] = level
    return levels


def _mean(figures: Floats) -> Floats:
    """The mean over the first axis of what is known; 0 where nothing is."""
    known = np.count_nonzero(~np.isnan(figures), axis=0)
    return np.asarray(np.nan_to_num(figures).sum(axis=0) / np.maximum(known, 1), dtype=np.float64)


def _long_run(off: Floats) -> Floats:
    """The variance of a day's deviation, as large as runs of up to `LAG` days need it; a day without a figure adds none."""
    filled = np.nan_to_num(off)
    known = np.maximum(np.count_nonzero(~np.isnan(off), axis=0), 1)
    largest = np.square(filled).sum(axis=0) / known
    total = np.cumsum(np.concatenate([np.zeros((1, *filled.shape[1:])), filled]), axis=0)
    for days in range(2, min(LAG, off.shape[0]) + 1):
        runs = (total[days:] - total[:-days]) / np.sqrt(days)
        largest = np.maximum(largest, np.square(runs).sum(axis=0) / np.maximum(known - days + 1, 1))
    return np.asarray(largest, dtype=np.float64)


def _ratio(off: Floats, variance: Floats, threshold: float) -> Floats:
    """The log likelihood ratio of a day's deviation under a change by the target, bounded to a part of the threshold."""
    target = TARGETS[:, None]
    return np.clip(target / variance * (off - target / 2.0), -threshold / FEWEST, threshold / FEWEST)


def _tamed(variance: Floats, off: Floats) -> Floats:
    """A variance so large that no test comes more than half way to an alarm on these days."""
    filled, least = np.nan_to_num(off), threshold(off.shape[2])
    for _ in range(STEPS):
        worst = np.zeros_like(variance)
        for sign in (1.0, -1.0):
            total = np.zeros_like(variance)
            for figures in filled:
                total = np.maximum(0.0, total + _ratio(sign * figures, variance, least))
                worst = np.maximum(worst, total)
        wild = worst > least / 2.0
        if not wild.any():
            break
        variance = np.where(wild, variance * GROWTH, variance)
    return variance
