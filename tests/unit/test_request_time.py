"""What is made at request time is the same wherever it is made, and null where anything it needs is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velo.feature_repo.catalogue.request_time import DEBUT, REQUEST, SINCE_LAST_RUN
from velo.feature_repo.catalogue.request_view import RequestFeature, asked, stored
from velo.racing.expressions import Expression, banded, case, largest

STORED = [each.feature for each in SINCE_LAST_RUN.stored]
RUNNER = {
    "race_day": 20_000,
    "race_class": 4,
    "distance_m": 1200.0,
    "weight_lbs": 130.0,
    "official_rating": 70,
    "last_race_day": 19_990,
    "last_class": 3,
    "last_distance_m": 1000.0,
    "last_weight_lbs": 133.0,
    "last_rating": 74,
}


def one(**changed: Any) -> dict[str, object]:
    made = SINCE_LAST_RUN.listed({name: [value] for name, value in (RUNNER | changed).items()})
    return {name: values[0] for name, values in made.items()}


def test_every_change_is_now_less_the_last_start() -> None:
    assert one() == {
        "days_since_last_run": 10,
        "layoff_band": "8-14",
        "class_change": 1,
        "distance_change_m": 200.0,
        "weight_change_lbs": -3.0,
        "rating_change": -4,
    }


def test_an_easier_class_is_a_positive_change() -> None:
    assert one(race_class=5, last_class=2)["class_change"] == 3
    assert one(race_class=1, last_class=2)["class_change"] == -1


def test_layoff_bands_meet_at_the_days_the_contract_names() -> None:
    edges = {0: "0-7", 7: "0-7", 8: "8-14", 14: "8-14", 15: "15-30", 30: "15-30", 31: "31-60", 60: "31-60"}
    edges |= {61: "61-120", 120: "61-120", 121: "121-365", 365: "121-365", 366: ">365", 5000: ">365"}
    for days, band in edges.items():
        assert one(last_race_day=20_000 - days)["layoff_band"] == band, days


def test_a_horse_without_a_start_is_a_debut_with_nothing_else_known() -> None:
    made = one(**dict.fromkeys(STORED))
    assert made.pop("layoff_band") == DEBUT
    assert set(made.values()) == {None}


def test_a_last_start_later_than_the_race_gives_neither_days_nor_band() -> None:
    made = one(last_race_day=20_001)
    assert made["days_since_last_run"] is None
    assert made["layoff_band"] is None


def test_an_unknown_day_of_the_race_is_no_debut() -> None:
    assert one(race_day=None)["layoff_band"] is None


def test_each_input_missing_makes_its_change_null_and_no_other() -> None:
    whole = one()
    changed = ["days_since_last_run", "class_change", "distance_change_m", "weight_change_lbs", "rating_change"]
    for now_of, last_of, name in zip([column.name for column in REQUEST], STORED, changed, strict=True):
        for missing in (now_of, last_of):
            made = one(**{missing: None})
            assert made[name] is None
            others = {other for other in whole if other not in (name, "layoff_band")}
            assert {other: made[other] for other in others} == {other: whole[other] for other in others}


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 30_000))] * len(RUNNER)), min_size=1, max_size=20))
def test_many_runners_at_once_are_each_as_alone(rows: list[tuple[int | None, ...]]) -> None:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(RUNNER)}
    together = SINCE_LAST_RUN.listed(columns)  # type: ignore[arg-type]
    for at in range(len(rows)):
        alone = SINCE_LAST_RUN.listed({name: values[at] for name, values in columns.items()})  # type: ignore[misc]
        assert {name: values[at] for name, values in together.items()} == {n: v[0] for n, v in alone.items()}


def test_the_features_are_those_declared_and_nan_is_as_none() -> None:
    assert list(SINCE_LAST_RUN.computed(RUNNER)) == [column.name for column in SINCE_LAST_RUN.features]
    assert one(race_class=np.nan) == one(race_class=None)


DAY, LAST, RUNS = asked("race_day"), stored("trainer_wins", "last_win_day"), stored("trainer_wins", "runs")


@pytest.mark.parametrize(
    ("value", "says_the_day"),
    [
        (RUNS, False),
        (DAY, True),
        (DAY - 19_000, True),
        (DAY - LAST, False),
        (2 * DAY - 2 * LAST, False),
        (2 * DAY - LAST, True),
        (RUNS.clamped(0, 9) * DAY.clamped(0, 1e6), True),
        (largest(DAY, LAST) - LAST, False),
        (case((DAY - LAST >= 0, DAY - LAST)), False),
        (case((RUNS > 1, DAY), default=LAST) - LAST, False),
        (case((DAY >= 20_000, RUNS)), True),
        (case((LAST.known, banded(DAY - LAST, (7,), ("a", "b"))), default="never"), False),
        (banded(DAY, (20_000,), ("a", "b")), True),
    ],
)
def test_a_model_sees_the_days_between_days_and_no_day(value: Expression, says_the_day: bool) -> None:
    """A value says the day if it differs where the race and the stored days are all later."""
    feature = RequestFeature("made", "text" if value.kind == "text" else "float", value)
    assert feature.is_calendar({LAST.data.name}) is says_the_day


def test_a_declaration_may_say_that_a_feature_is_not_the_calendar() -> None:
    assert RequestFeature("made", "float", DAY).is_calendar(set())
    assert not RequestFeature("made", "float", DAY, calendar=False).is_calendar(set())
    assert RequestFeature("made", "float", RUNS, calendar=True).is_calendar(set())
