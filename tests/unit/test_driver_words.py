"""What a driver of a score says in words."""

from math import nan

import numpy as np
import pytest

from velo.feature_repo.catalogue.columns import COLUMNS
from velo.serving.scoring.driver_words import story_of, words
from velo.training.model.trees import FEATURES


@pytest.mark.parametrize(
    ("position", "prb", "field", "said"),
    [
        (2.0, 0.8, 6.0, "2 of 6 last time"),
        (nan, 0.0, 6.0, "did not finish of 6 last time"),
        (nan, nan, 6.0, "place unknown of 6 last time"),
        (nan, nan, 1.0, "did not finish of 1 last time"),
        (nan, nan, nan, "no run yet"),
    ],
)
def test_a_last_run_without_a_place_is_not_shown_as_one_that_was_not_finished(
    position: float, prb: float, field: float, said: str
) -> None:
    values = {"horse_form__position_last": position, "horse_form__prb_last": prb, "horse_form__field_last": field}
    assert words("horse_form:last run", values) == said


def test_every_feature_has_a_story_in_words_where_all_is_known_and_where_nothing_is() -> None:
    for value in (0.0, 1.0, np.nan):
        for name in FEATURES:
            said = words(story_of(name), dict.fromkeys(COLUMNS, value))
            assert said
            assert "nan" not in said
            assert "__" not in said


def test_rivals_beaten_are_reported_beside_what_the_odds_said_of_them() -> None:
    """Either may be what moves the score: a jockey who beats most, and fewer than expected, raises it all the same."""
    values = {"jockey_course__prb_1095d": 0.68, "jockey_course__over_1095d": 0.95}
    assert words("jockey_course", values) == "jockey here beat 68 % of rivals, 5 points fewer than the odds implied"
    values["jockey_course__over_1095d"] = 1.002
    assert words("jockey_course", values) == "jockey here beat 68 % of rivals, as many as the odds implied"
    values["jockey_course__over_1095d"] = np.nan
    assert words("jockey_course", values) == "jockey here beat 68 % of rivals"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (1.12, "beat more rivals lately than its odds implied, by 12 points"),
        (0.99, "beat fewer rivals lately than its odds implied, by 1 point"),
        (1.002, "beat as many rivals lately as its odds implied"),
        (np.nan, "no past odds"),
    ],
)
def test_form_against_the_odds_is_reported_in_points_for_a_difference_of_shares_is_no_per_cent(
    over: float, said: str
) -> None:
    assert words("horse_ability:odds", {"horse_ability__over_ewma": over}) == said
