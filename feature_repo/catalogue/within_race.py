"""A feature against the other runners of its race: one implementation for training and serving (contract 6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WithinRace:
    """Ranks and z-scores, each of the shape of the values they were made from."""

    rank: Floats
    zscore: Floats


def names_of(features: Sequence[str]) -> tuple[str, ...]:
    """Column names of `stacked`: every rank, then every z-score."""
    return (*(f"{name}_rank" for name in features), *(f"{name}_z" for name in features))


def stacked(within: WithinRace) -> Floats:
    """The ranks beside the z-scores, in the order of `names_of`."""
    return np.hstack([within.rank, within.zscore])


def within_race(values: ArrayLike, race: ArrayLike) -> WithinRace:
    """Ranks and z-scores of each column among the runners of each race.

    `values` is (runners, features) or (runners,), NaN for null; `race` is (runners,), whole numbers, runners of a
    race in any order and anywhere. Rank 1 is the highest, ties share the mean of their ranks. A z-score divides by
    the population's deviation, and is 0 where all known values of the race are equal. A null stays null and counts
    for nobody else. The result for a runner depends on its own race alone, and not on the order of runners, to the
    last bit.
    """
    table = np.asarray(values, dtype=np.float64)
    numbers = np.asarray(race)
    if table.ndim == 2 and table.size and (numbers == numbers[0]).all():
        return _of_one_race(table)
    races = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    if table.ndim == 1:
        rank, zscore = _column(table, races)
        return WithinRace(rank, zscore)
    rank, zscore = np.empty_like(table), np.empty_like(table)
    for column in range(table.shape[1]):
        rank[:, column], zscore[:, column] = _column(table[:, column], races)
    return WithinRace(rank, zscore)


def centred(values: ArrayLike, race: ArrayLike) -> Floats:
    """Each column less its mean over the known values of its race, in the column's own unit.

    `values` is (runners, features), NaN for null; `race` as in `within_race`. A null stays null and does not count for the others.
    The result for a runner depends on its own race only, and not on the order of runners.
    """
    table = np.asarray(values, dtype=np.float64)
    numbers = np.asarray(race)
    if table.size and (numbers == numbers[0]).all():
        return _centred_in_one_race(table)
    races = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    differences = np.full_like(table, np.nan)
    for column in range(table.shape[1]):
        known = np.flatnonzero(~np.isnan(table[:, column]))
        if known.size == 0:
            continue
        order = known[np.lexsort((-table[known, column], races[known]))]
        within = np.cumsum(np.r_[False, np.diff(races[order]) != 0])
        ordered = table[order, column]
        differences[order, column] = ordered - (np.bincount(within, ordered) / np.bincount(within))[within]
    return differences


def _centred_in_one_race(table: Floats) -> Floats:
    """All columns of one race at a time: the same bits as column by column."""
    by_column = np.ascontiguousarray(table.T)
    _, falling, counted = _falling(by_column)
    # + 0.0: the sum of column by column begins at zero, and so is never -0.0
    mean = (np.add.accumulate(falling, axis=1)[:, -1] + 0.0) / np.maximum(counted, 1)
    return np.ascontiguousarray((by_column - mean[:, None]).T)


def _falling(by_column: Floats) -> tuple[NDArray[np.bool_], Floats, NDArray[np.intp]]:
    """From (columns, runners): which values are known, those values in falling order followed by zeros, and their number."""
    known = ~np.isnan(by_column)
    counted = known.sum(axis=1)
    # nulls sort last, and add 0 to a sum
    ordered = -np.sort(-by_column, axis=1)
    ordered[np.arange(by_column.shape[1]) >= counted[:, None]] = 0.0
    return known, ordered, counted


def _column(values: Floats, races: NDArray[np.intp]) -> tuple[Floats, Floats]:
    rank, zscore = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return rank, zscore
    # Sorted within the race: ranks come of it, and sums no longer depend on the order runners came in.
    order = known[np.lexsort((-values[known], races[known]))]
    sorted_values, sorted_races = values[order], races[order]
    new_race = np.flatnonzero(np.r_[True, np.diff(sorted_races) != 0])
    sizes = np.diff(np.r_[new_race, order.size])
    within = np.repeat(np.arange(new_race.size), sizes)
    rank[order] = _ranks(sorted_values, within, new_race)
    zscore[order] = _zscores(sorted_values, within, new_race, sizes)
    return rank, zscore


def _ranks(values: Floats, within: NDArray[np.intp], new_race: NDArray[np.intp]) -> Floats:
    place = np.arange(values.size) - new_race[within] + 1.0
    new_value = np.r_[True, (np.diff(values) != 0) | (np.diff(within) != 0)]
    tie = np.cumsum(new_value) - 1
    return np.asarray((np.bincount(tie, place) / np.bincount(tie))[tie], dtype=np.float64)


def _zscores(values: Floats, within: NDArray[np.intp], new_race: NDArray[np.intp], sizes: NDArray[np.intp]) -> Floats:
    # bincount adds in order, one value at a time: the same sum whatever races stand around this one.
    mean = np.bincount(within, values) / sizes
    deviation = values - mean[within]
    spread = np.sqrt(np.bincount(within, deviation * deviation) / sizes)
    equal = values[new_race] == values[new_race + sizes - 1]
    spread = np.where(equal | (spread == 0), np.inf, spread)
    return np.asarray(deviation / spread[within], dtype=np.float64) + 0.0


def _of_one_race(table: Floats) -> WithinRace:
    """All columns of one race at a time, what a race about to be run is scored with: the same bits as column by column."""
    by_column = np.ascontiguousarray(table.T)
    known, falling, counted = _falling(by_column)
    rank = np.where(known, _mean_places(table).T, np.nan)
    sizes = np.maximum(counted, 1)
    mean = np.add.accumulate(falling, axis=1)[:, -1] / sizes
    deviation = falling - mean[:, None]
    deviation[np.arange(falling.shape[1]) >= counted[:, None]] = 0.0
    spread = np.sqrt(np.add.accumulate(deviation * deviation, axis=1)[:, -1] / sizes)
    lowest = falling[np.arange(sizes.size), sizes - 1]
    spread = np.where((falling[:, 0] == lowest) | (spread == 0), np.inf, spread)
    zscore = (by_column - mean[:, None]) / spread[:, None] + 0.0
    return WithinRace(np.ascontiguousarray(rank.T), np.ascontiguousarray(zscore.T))


def _mean_places(table: Floats) -> Floats:
    """Of (runners, features), the mean of the places that each value's ties share; of a null nothing."""
    rivals, own = table[:, None, :], table[None, :, :]
    # who is higher counts twice, who is equal once: small whole numbers, added a row of all columns at a time
    points = (rivals > own).view(np.uint8) + (rivals >= own).view(np.uint8)
    return np.asarray((np.add.reduce(points, axis=0, dtype=np.uint32) + 1) / 2, dtype=np.float64)
