"""Folds: no day in two parts, nothing trained on that is not well before what it predicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velo.errors import UserError
from velo.training.dataset.races import LEAST_TRAIN_DAYS, forward_folds, refits_between

Dates = NDArray[np.datetime64]


def dates(days: int, a_day: int = 3, start: str = "2023-01-01", step: int = 2) -> Dates:
    return np.repeat(np.datetime64(start, "D") + np.arange(days) * step, a_day)


@given(
    st.lists(st.integers(1, 9), min_size=90, max_size=150),
    st.integers(1, 6),
    st.integers(0, 30),
)
def test_folds_go_forward_part_no_day_and_keep_their_embargo(races: list[int], folds: int, embargo: int) -> None:
    days = np.repeat(np.datetime64("2024-01-01") + np.arange(len(races)) * 2, races)
    order = np.random.default_rng(1).permutation(days.size)
    found = forward_folds(days[order], folds, embargo, first_share=0.6)
    assert len(found) == folds
    last = None
    for fold in found:
        train, test = days[order][fold.train], days[order][fold.test]
        assert test.size
        assert train.max() + np.timedelta64(embargo, "D") < test.min()
        assert not np.isin(days[order][~fold.test], test).any(), "a day lies in two parts"
        assert last is None or last < test.min()
        last = test.max()
    assert last == days.max(), "the last days are predicted too"
    tested = np.sum([fold.test for fold in found], axis=0)
    assert tested.max() == 1
    assert np.unique(days[order][tested == 0]).size == round(len(races) * 0.6)


def test_folds_hold_about_as_many_races_each() -> None:
    counts = [int(fold.test.sum()) for fold in forward_folds(dates(400), 5, 0)]
    assert sum(counts) == 600
    assert max(counts) - min(counts) <= 6


def test_a_fold_each_for_as_many_days_as_there_are() -> None:
    found = forward_folds(dates(64), 32, 0)
    assert [int(fold.test.sum()) for fold in found] == [3] * 32


def test_refits_train_on_what_was_before_their_days_and_their_embargo() -> None:
    days = dates(700, start="2022-01-01")
    edges = [np.datetime64(f"{year}-01-01") for year in (2023, 2024, 2025, 2040, 2041)]
    found = refits_between(days, edges, embargo_days=3)
    names = ["2023-01-01 to 2023-12-31", "2024-01-01 to 2024-12-31", "2025-01-01 to 2039-12-31"]
    assert [fold.name for fold in found] == names, "days without a race are left out"
    for fold, year in zip(found[:2], (2023, 2024), strict=True):
        assert set(days[fold.test].astype("datetime64[Y]").astype(int) + 1970) == {year}
        assert days[fold.train].max() < np.datetime64(f"{year - 1}-12-29")
        assert days[fold.train].min() == days.min()


def test_what_cannot_be_cut_is_reported() -> None:
    with pytest.raises(UserError, match="10 race days are too few for 9 folds"):
        forward_folds(dates(10), 9)
    with pytest.raises(UserError, match=f"fold 1 has 18 race days to train on, at least {LEAST_TRAIN_DAYS}"):
        forward_folds(dates(40), 2, 4)
    with pytest.raises(UserError, match="the embargo must be 0 days or more, got -1"):
        forward_folds(dates(400), 2, -1)
    with pytest.raises(UserError, match="0 folds after the first"):
        forward_folds(dates(400), 0)
