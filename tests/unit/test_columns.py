"""What a model may see of a race: its ratings tell nothing of the future, and other races nothing of it."""

from datetime import date
from typing import Any

import numpy as np
import pytest

from velo.errors import UserError
from velo.feature_repo.catalogue import columns

RATINGS = ("official_rating", "horse_form__last_rating", "since_last_run__rating_change")


def base(runners: int, **given: list[float]) -> dict[str, Any]:
    """Every column a matrix is made from, unknown but for those given."""
    fields: dict[str, Any] = {name: np.full(runners, np.nan) for name in columns.BASE}
    return fields | {name: np.array(values) for name, values in given.items()}


def of(matrix: np.ndarray[Any, Any], name: str) -> list[float]:
    return [float(value) for value in matrix[:, columns.COLUMNS.index(name)]]


def test_a_column_that_code_reads_and_the_catalogue_lost_is_refused_with_its_place() -> None:
    columns.refuse_missing(["draw_elo__elo", "draw"], "a.py")
    with pytest.raises(UserError, match=r"no 'draw_elo__elo', which a\.py reads: rename it there too, or remove it"):
        columns.refuse_missing(["draw", "draw_elo__elo"], "a.py", {"draw": 0})


def test_who_alone_lacks_a_rating_is_not_distinguished_from_those_who_have_one() -> None:
    """Results collected later may have the ratings of retired horses alone: then a missing one predicts a career."""
    ratings = {name: [50.0, 60.0, 70.0, 80.0] for name in RATINGS} | {"official_rating": [50.0, np.nan, 70.0, 80.0]}
    made = columns.matrix(base(4, **ratings), np.array([1, 1, 2, 2]))
    for name in RATINGS:
        assert np.isnan(of(made, name)[:2]).all()
        assert of(made, name)[2:] == [70.0, 80.0]
    assert np.isnan(of(made, "official_rating_z")[:2]).all()
    assert of(made, "official_rating_rank")[2:] == [2.0, 1.0]


def test_a_rating_unknown_last_time_hides_no_rating_of_today() -> None:
    made = columns.matrix(
        base(2, official_rating=[50.0, 60.0], horse_form__last_rating=[np.nan, 58.0]), np.zeros(2, int)
    )
    assert of(made, "official_rating") == [50.0, 60.0]
    assert of(made, "horse_form__last_rating")[1] == 58.0


def test_a_runner_is_set_against_its_own_past_by_weight_and_by_day() -> None:
    """Pounds in hand of its best figure, its weight as a share of its own, and how long it has been at it."""
    given = {
        "weight_lbs": [120.0, 130.0],
        "body_weight_lbs": [1200.0, 0.0],
        "horse_ability__body_weight_last": [1190.0, np.nan],
        "horse_ability__figure_peak": [60.0, np.nan],
        "horse_ability__day": [730_000.0, np.nan],
        "horse_form__last_race_day": [10_900.0, np.nan],
        "since_last_run__days_since_last_run": [14.0, np.nan],
    }
    made = columns.matrix(base(2, **given), np.zeros(2, int))
    assert of(made, "in_hand_peak")[0] == -60.0
    assert of(made, "weight_share")[0] == 0.1
    assert of(made, "body_weight_change_lbs")[0] == 10.0
    assert of(made, "seasoned_days")[0] == 10_914 + date(1970, 1, 1).toordinal() - 730_000
    for name in columns.DERIVED:
        assert np.isnan(of(made, name)[1])


def test_the_rivals_likely_to_lead_are_the_others_of_the_race_and_an_unknown_one_counts_none() -> None:
    """Two races: leaders of every second and every fourth start meet, and one that led once meets a debutant."""
    led = [0.5, 0.25, 0.0, 1.0, np.nan]
    made = columns.matrix(base(5, horse_running__led=led), np.array([3, 3, 3, 1, 1]))
    assert of(made, "rivals_led") == [0.25, 0.5, 0.75, 0.0, 1.0]


def test_a_race_alone_has_the_bits_it_has_among_others() -> None:
    random = np.random.default_rng(7)
    races = np.repeat(np.arange(30), random.integers(1, 14, 30))
    given = {name: random.normal(60.0, 9.0, races.size) for name in columns.BASE}
    given["official_rating"][random.random(races.size) < 0.05] = np.nan
    given["draw"] = random.permutation(races.size).astype(float)
    among = columns.matrix(given, races)
    for race in range(30):
        rows = races == race
        alone = columns.matrix({name: values[rows] for name, values in given.items()}, np.zeros(rows.sum(), int))
        assert np.array_equal(alone, among[rows], equal_nan=True)
