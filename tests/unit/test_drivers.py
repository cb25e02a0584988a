"""The words of a driver never say the opposite of what it does, and a number that rounds to 0 has no sign."""

import numpy as np
import pytest

from velo.feature_repo.catalogue.columns import COLUMNS, ELO_TOTAL
from velo.serving.scoring.driver_words import words
from velo.serving.scoring.drivers import drivers
from velo.serving.scoring.feature_matrix import VIEWS, FeatureMatrix

OVER = "horse_ability__over_ewma"


def said(column: str, values: list[float], effects: list[float]) -> list[list[str]]:
    """The words for each runner of a race that differs in one column."""
    matrix = np.full((len(values), len(COLUMNS)), np.nan)
    matrix[:, COLUMNS.index(column)] = values
    nothing = np.zeros((len(values), len(VIEWS)), dtype=np.bool_)
    found = drivers(FeatureMatrix(matrix, nothing, nothing), (column,), np.array(effects)[:, np.newaxis])
    return [[driver.words for driver in runner] for runner in found]


def test_a_value_better_than_average_that_lowers_a_chance_is_said_to_be_below_the_races_average() -> None:
    """Over 1.02, 1.10 and 1.18 the race's average is 1.10: 2 points above the odds is the least of the three."""
    assert said(OVER, [1.02, 1.10, 1.18], [-0.5, 0.0, 0.5]) == [
        ["beat more rivals lately than its odds implied, by 2 points, below the race's average"],
        [],
        ["beat more rivals lately than its odds implied, by 18 points"],
    ]
    assert said(ELO_TOTAL, [-20.0, -80.0], [0.3, -0.3]) == [
        ["combined Elo \N{MINUS SIGN}20.0, above the race's average"],
        ["combined Elo \N{MINUS SIGN}80.0"],
    ]


def test_a_driver_whose_words_would_mean_the_opposite_is_left_out() -> None:
    """The model lowers the chance of the runner with the better value: for another reason, which the words do not give."""
    assert said(OVER, [1.12, 0.90], [-0.5, 0.5]) == [[], []]
    assert said(OVER, [np.nan, 0.90], [-0.5, -0.5])[0] == ["no past odds"]


@pytest.mark.parametrize(
    ("story", "column", "value", "text"),
    [
        ("elo", ELO_TOTAL, -0.04, "combined Elo of an average runner"),
        ("elo", ELO_TOTAL, 0.04, "combined Elo of an average runner"),
        ("elo", ELO_TOTAL, -0.06, "combined Elo \N{MINUS SIGN}0.1"),
        ("elo", ELO_TOTAL, 10.0, "combined Elo +10.0"),
        ("trainer_elo", "trainer_elo__elo", 0.0, "trainer's Elo is average"),
        ("rating change", "since_last_run__rating_change", 0.0, "same rating as in the last run"),
        ("rating change", "since_last_run__rating_change", -3.0, "rating \N{MINUS SIGN}3 since the last run"),
        ("horse_form:prb_slope", "horse_form__prb_slope", 0.004, "level form"),
        ("horse_form:prb_slope", "horse_form__prb_slope", 0.05, "form trend +0.05 a run"),
    ],
)
def test_a_number_that_rounds_to_nothing_has_no_sign(story: str, column: str, value: float, text: str) -> None:
    assert words(story, {column: value}) == text
