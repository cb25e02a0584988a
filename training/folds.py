"""Folds in order of time: training days, an embargo, then the predicted days. A race day is never split.

The embargo leaves out races whose luck still affects the features of the first predicted days (a course, a going, a trainer in
form), and gives late results time to arrive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError

Wanted = NDArray[np.bool_]
Dates = NDArray[np.datetime64]

EMBARGO_DAYS: Final = 7
LEAST_TRAIN_DAYS: Final = 30
"""The fewest race days that a model is fitted on."""


@dataclass(frozen=True)
class Fold:
    """The races of training and of prediction, (races,) each; every training day is before every predicted day."""

    name: str
    train: Wanted
    test: Wanted


def forward_folds(
    race_dates: Dates, folds: int = 5, embargo_days: int = EMBARGO_DAYS, first_share: float = 0.5
) -> tuple[Fold, ...]:
    """Cut `folds` folds of about the same number of races, each trained on all days before it and its embargo.

    `race_dates` are local, one per race, in any order. The first `first_share` of the race days is for training only. Raises
    `UserError` for too few days.
    """
    if folds < 1 or not 0.0 < first_share < 1.0:
        raise UserError(f"{folds} folds after the first {first_share:g} of days cannot be cut: give ≥ 1, and 0 to 1")
    days, counts = np.unique(race_dates, return_counts=True)
    begin = round(days.size * first_share)
    if days.size - begin < folds or begin < 1:
        raise UserError(
            f"{days.size} race days are too few for {folds} folds: load more results, or ask for fewer folds"
        )
    # cut between days so that the parts have about the same number of races, and each at least one day
    so_far = np.cumsum(counts[begin:]) / counts[begin:].sum()
    cuts = [begin]
    for number in range(1, folds):
        nearest = begin + int(np.argmin(np.abs(so_far - number / folds))) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), days.size - (folds - number)))
    ends = [*cuts[1:], days.size]
    return tuple(
        _fold(f"fold {number}", race_dates, days[first], days[last - 1], embargo_days)
        for number, (first, last) in enumerate(zip(cuts, ends, strict=True), start=1)
    )


def refits_between(race_dates: Dates, edges: Sequence[np.datetime64], embargo_days: int = 0) -> tuple[Fold, ...]:
    """A fold from each edge to the day before the next, trained on all days before it; a fold without a race is left out."""
    folds = []
    for first, after in pairwise(edges):
        last = after - np.timedelta64(1, "D")
        if np.any((race_dates >= first) & (race_dates <= last)):
            folds.append(_fold(f"{first} to {last}", race_dates, first, last, embargo_days))
    return tuple(folds)


def _fold(
    name: str,
    race_dates: Dates,
    first: np.datetime64,
    last: np.datetime64,
    embargo_days: int,
) -> Fold:
    if embargo_days < 0:
        raise UserError(f"the embargo must be 0 days or more, got {embargo_days}")
    train = race_dates < first - np.timedelta64(embargo_days, "D")
    days = np.unique(race_dates[train]).size
    if days < LEAST_TRAIN_DAYS:
        raise UserError(
            f"{name} has {days} race days to train on, at least {LEAST_TRAIN_DAYS} are needed: load more results, "
            "or begin to predict later"
        )
    return Fold(name, np.asarray(train, dtype=np.bool_), (race_dates >= first) & (race_dates <= last))
