"""The profile of a training set and the cohorts of race days: figures worked out by hand, and the sequential tests' promises."""

from datetime import date
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from velo.change_detection import LEAST_DAYS, TARGETS, changes, threshold
from velo.drift import BINS, CHANNELS, Conditions, Profile, jensen_shannon, psi

Floats = NDArray[np.float64]
FIRST = np.datetime64("2023-01-02")
NAMES = ("by runner", "by meeting", "by season", "often null", "constant", "never known")


Rows = tuple[Floats, NDArray[np.datetime64], Conditions]


def season(days: int, seed: int, first: int = 0) -> Rows:
    """Race days of two meetings of 40 runners at two of four courses.

    `by meeting` differs between courses by more than between runners, `by season` rises and falls by a standard deviation.
    """
    rng = np.random.default_rng(seed)
    values, dates, courses = [], [], []
    for day in range(first, first + days):
        for course in rng.permutation(4)[:2]:
            rows = rng.normal(size=(40, len(NAMES)))
            rows[:, 1] = 2.0 * course + rng.normal(scale=0.3) + rows[:, 1]
            rows[:, 2] += np.sin(2 * np.pi * day / 365)
            rows[rng.random(40) < 0.4, 3] = np.nan
            rows[:, 4], rows[:, 5] = 7.0, np.nan
            values.append(rows)
            dates += [FIRST + np.timedelta64(day, "D")] * 40
            courses += [(f"course {course}", "mile", "good")] * 40
    return np.concatenate(values), np.array(dates), np.array(courses)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.of(NAMES, *season(365, 1))


def reported(
    profile: Profile, values: Floats, days: NDArray[np.datetime64], courses: Conditions
) -> dict[tuple[str, str], int]:
    """The race day (from 1) on which each change of a feature's channel is reported first."""
    assert profile.noise is not None
    cohorts = profile.cohorts(values, days, courses)
    found: dict[tuple[str, str], int] = {}
    for change in changes(profile.noise, cohorts.days, cohorts.weights, cohorts.channels):
        at = int(np.searchsorted(cohorts.days, np.datetime64(change.reported))) + 1
        found.setdefault((NAMES[change.feature], CHANNELS[change.channel]), at)
    return found


def test_psi_and_jensen_shannon_are_those_of_two_coins() -> None:
    fair, biased = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    # (0.5 − 0.25) ln 2 + (0.5 − 0.75) ln(2/3) = 0.25 ln 3
    assert psi(fair, biased) == pytest.approx(0.25 * log(3))
    # the entropy of (3/8, 5/8) less the mean entropy of the two: 0.954434 − (1 + 0.811278) / 2
    assert jensen_shannon(fair, biased) == pytest.approx(0.048795, abs=1e-6)
    assert psi(fair, fair) == jensen_shannon(fair, fair) == 0.0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_a_profile_has_the_figures_of_its_values() -> None:
    values = np.array([[1.0], [2.0], [np.nan], [4.0], [4.0], [np.nan]])
    days = np.array(["2024-01-01"] * 3 + ["2024-01-02"] * 3, dtype="datetime64[D]")
    conditions = np.array([(course, "mile", "good") for course in "abaabb"])
    made = Profile.of(["f"], values, days, conditions)
    assert (made.mean[0], made.least[0], made.most[0]) == (2.75, 1.0, 4.0)
    assert made.sd[0] == pytest.approx(1.299038, abs=1e-6)
    assert made.null_share()[0] == pytest.approx(1 / 3)
    # two distinct of two values on the first day, one of two on the second
    assert made.distinct[0] == pytest.approx(3 / 4)
    assert made.histogram[0].sum() == pytest.approx(1.0)
    assert made.noise is None
    pooled = made.cohorts(values, days, conditions).last(1)
    assert (pooled.rows, pooled.null_share[0], pooled.least[0], pooled.most[0]) == (3, pytest.approx(1 / 3), 4.0, 4.0)
    assert pooled.distinct[0] == 0.5


def test_a_profile_is_read_as_it_was_stored_and_other_bytes_are_refused(profile: Profile) -> None:
    stored = profile.to_bytes()
    read = Profile.from_bytes(stored)
    assert stored == profile.to_bytes()
    assert (read.features, read.courses, read.rows) == (profile.features, profile.courses, profile.rows)
    assert np.array_equal(read.edges, profile.edges, equal_nan=True)
    assert read.noise is not None
    assert profile.noise is not None
    assert np.array_equal(read.noise.levels, profile.noise.levels)
    with pytest.raises(ValueError, match="not a profile"):
        Profile.from_bytes(stored[:100])


def test_a_season_without_a_drift_raises_no_alarm(profile: Profile) -> None:
    """Courses that differ, a season that moves a mean by its standard deviation, constants and nulls are no drift."""
    assert [reported(profile, *season(365, seed, first=365)) for seed in (2, 3)] == [{}, {}]


@pytest.mark.parametrize("feature", ["by runner", "by season", "often null"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_drift_of_one_standard_deviation_is_reported_within_five_race_days(
    profile: Profile, feature: str, sign: float
) -> None:
    values, days, courses = season(60, 9, first=365)
    at = NAMES.index(feature)
    begin = FIRST + np.timedelta64(395, "D")
    values[days >= begin, at] += sign * profile.sd[at]
    found = reported(profile, values, days, courses)
    assert 31 <= found.pop((feature, "mean")) <= 35
    assert {name for name, _ in found} <= {feature}


def test_a_drift_from_the_first_served_day_is_reported(profile: Profile) -> None:
    values, days, courses = season(10, 10, first=365)
    values[:, 0] += profile.sd[0]
    assert reported(profile, values, days, courses)["by runner", "mean"] <= 5


def test_values_that_turn_null_and_values_that_freeze_are_reported(profile: Profile) -> None:
    values, days, courses = season(40, 11, first=365)
    late = days >= FIRST + np.timedelta64(385, "D")
    values[late & (np.arange(late.size) % 2 == 0), 0] = np.nan
    values[late, 2] = profile.mean[2] + np.sin(2 * np.pi * 385 / 365)
    found = reported(profile, values, days, courses)
    assert found["by runner", "null share"] <= 25
    assert found["by season", "shape"] <= 25


def test_an_alarm_ends_when_the_values_are_back(profile: Profile) -> None:
    values, days, courses = season(60, 12, first=365)
    since, until = (FIRST + np.timedelta64(365 + day, "D") for day in (20, 30))
    values[(days >= since) & (days < until), 0] += profile.sd[0]
    assert profile.noise is not None
    cohorts = profile.cohorts(values, days, courses)
    [change] = [
        change
        for change in changes(profile.noise, cohorts.days, cohorts.weights, cohorts.channels)
        if (change.feature, change.channel) == (0, 0)
    ]
    assert change.since == since.item()
    assert change.size == pytest.approx(1.0, abs=0.3)
    assert change.cleared is not None
    assert date(2024, 2, 1) <= change.cleared <= date(2024, 2, 20)


def test_too_few_race_days_give_no_noise_and_the_threshold_follows_the_number_of_tests() -> None:
    assert Profile.of(NAMES, *season(LEAST_DAYS - 1, 3)).noise is None
    assert threshold(1) == pytest.approx(log(2 * TARGETS.size * 365 / 0.5))
    assert threshold(200) - threshold(100) == pytest.approx(log(2))


def test_a_course_that_training_did_not_have_is_compared_with_all_courses(profile: Profile) -> None:
    values, days, _ = season(5, 13)
    cohorts = profile.cohorts(values, days, np.array([("elsewhere", "far", "wet")] * days.size))
    assert cohorts.counts.shape == (5, len(NAMES), BINS + 1)
    assert np.allclose(cohorts.expected, profile.histogram)
