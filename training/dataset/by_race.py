"""Arithmetic within races: the rows of a race lie together, and `starts` has the first row of each race."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def starts_of(race: ArrayLike) -> Indices:
    """The first row of each race, (races,), from the race of every row; raises `ValueError` if a race's rows do not lie together."""
    codes = np.asarray(race)
    if codes.size == 0:
        return np.empty(0, dtype=np.intp)
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    if np.unique(codes).size != starts.size:
        raise ValueError("a race lies in more than one block of rows: sort the rows by race first")
    return np.asarray(starts, dtype=np.intp)


def sizes_of(starts: Indices, rows: int) -> Indices:
    """The number of runners of each race, (races,)."""
    return np.asarray(np.diff(np.r_[starts, rows]), dtype=np.intp)


def total(values: Floats, starts: Indices) -> Floats:
    """Sum over the runners of each race, (races,)."""
    if starts.size == 0:
        return np.empty(0)
    return np.asarray(np.add.reduceat(values, starts), dtype=np.float64)


def spread(by_race: Floats, starts: Indices, rows: int) -> Floats:
    """A value per race, repeated for each of its runners, (rows,)."""
    return np.asarray(np.repeat(by_race, sizes_of(starts, rows)), dtype=np.float64)


def normalised(values: Floats, starts: Indices) -> Floats:
    """Values divided by their race's sum, (rows,); a NaN makes its whole race NaN."""
    return np.asarray(values / spread(total(values, starts), starts, values.size), dtype=np.float64)


def softmax(scores: Floats, starts: Indices) -> Floats:
    """Probabilities from scores, which sum to 1 in each race, (rows,); a NaN makes its whole race NaN."""
    if starts.size == 0:
        return np.empty(0)
    raised = np.exp(scores - spread(np.maximum.reduceat(scores, starts), starts, scores.size))
    return normalised(np.asarray(raised, dtype=np.float64), starts)
