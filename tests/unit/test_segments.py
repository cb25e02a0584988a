"""Segments: a planted difference is found, chance alone names few, and each figure is the one worked out by hand."""

import math

import numpy as np
import pytest

from velo.resampling import Days
from velo.training.dataset.by_race import Floats, normalised, softmax
from velo.training.evaluation.metrics import BacktestPeriod
from velo.training.evaluation.segments import (
    MARKET,
    MODEL,
    RATE,
    SegmentReport,
    discoveries,
    labels_of,
    segments_of,
)

RUNNERS, A_DAY, DAYS = 8, 8, 150
RACES = A_DAY * DAYS


def world(seed: int, *, market_error: Floats | float = 0.3, model_error: float = 0.3) -> SegmentReport:
    """Races in which the model and the market see the truth with errors of their own; `market_error` may differ by race."""
    rng = np.random.default_rng(seed)
    starts = np.arange(0, RACES * RUNNERS, RUNNERS)
    true = rng.normal(0.0, 0.8, RACES * RUNNERS)
    wrong = np.repeat(np.broadcast_to(market_error, RACES), RUNNERS)
    p, market = (softmax(true + error * rng.normal(size=true.size), starts) for error in (model_error, wrong))
    chances = softmax(true, starts).reshape(RACES, RUNNERS)
    won = starts + np.minimum((chances.cumsum(axis=1) < rng.random((RACES, 1))).sum(axis=1), RUNNERS - 1)
    share = np.zeros(true.size)
    share[won] = 1.0
    dates = np.datetime64("2024-01-01") + np.repeat(np.arange(RACES) // A_DAY, RUNNERS)
    season = BacktestPeriod(p, market, 1 / market, 1 / market, share, starts, Days.of_dates(dates, 1, resamples=20))
    surface = np.where(np.arange(RACES) % 4 == 0, "AW", "Turf")
    going = np.array(["fast", "good", "easy", "soft"])[rng.integers(0, 4, RACES)]
    labels = labels_of(
        starts,
        1 / market,
        dates,
        {
            "race_class": np.repeat(rng.integers(1, 7, RACES), RUNNERS).astype(np.float64),
            "distance_band": np.repeat(np.array(["sprint", "mile", "middle"])[rng.integers(0, 3, RACES)], RUNNERS),
            "draw_cell": [f"ayr|{name}|mile|good|0" for name in np.repeat(surface, RUNNERS)],
            "going_group": np.repeat(going, RUNNERS),
            "starts": rng.integers(0, 40, RACES * RUNNERS).astype(np.float64),
        },
    )
    return segments_of(season, market, labels)


def test_a_planted_segment_is_found_and_named_for_the_right_side() -> None:
    """On the all-weather, a quarter of the races, the market is much worse than the model; elsewhere both are alike."""
    found = world(3, market_error=np.where(np.arange(RACES) % 4 == 0, 1.0, 0.3))
    surest = found.segments[0]
    assert (surest.by, surest.value, surest.right) == ("surface", "AW", MODEL)
    assert surest.gain.value is not None
    assert surest.gain.value > 0
    turf = next(segment for segment in found.segments if segment.value == "Turf")
    assert turf.right is None


def test_the_market_is_right_where_the_model_is_worse() -> None:
    found = world(4, model_error=1.0)
    assert found.shown
    assert {segment.right for segment in found.shown} == {MARKET}


def test_chance_names_a_segment_in_few_of_twenty_worlds_without_a_difference() -> None:
    """No segment differs, so that each world with any named one is a false discovery: at most `RATE` of them on average."""
    worlds = [world(seed) for seed in range(20)]
    named = [bool(found.shown) for found in worlds]
    # by chance more than 3 of 20 are named once in 60 such tests
    assert sum(named) <= 3
    assert RATE == 0.05
    assert worlds[0].compared > 25
    uncorrected = sum(segment.p_value < RATE for found in worlds for segment in found.segments)
    assert uncorrected > 20, "without the correction many are named, so that this test can fail"


def test_the_procedure_keeps_every_p_below_the_last_that_is_under_its_line() -> None:
    """Of five at a rate of .05 the lines are .01, .02, .03, .04, .05: .022 is above its own, .03 is on its own."""
    assert discoveries([0.022, 0.9, 0.001, 0.03, 0.5], 0.05).tolist() == [True, False, True, True, False]
    assert discoveries([0.02, 0.9, 0.04], 0.05).tolist() == [False, False, False]
    assert discoveries([], 0.05).tolist() == []


def test_the_gain_is_the_log_likelihood_of_wins_and_losses_for_a_thousand_runners() -> None:
    """Twelve days of 4 races of two: p .75 on the winner where the market says .5, so each runner gains ln 1.5.

    The 48 winners are above the market: of them p expects 36, the market 24.
    """
    starts = np.arange(0, 96, 2)
    share = np.tile([1.0, 0.0], 48)
    p, market = np.tile([0.75, 0.25], 48), np.full(96, 0.5)
    dates = np.repeat(np.datetime64("2024-01-01") + np.arange(12), 8)
    season = BacktestPeriod(p, market, 1 / market, 1 / market, share, starts, Days.of_dates(dates, 1))
    found = segments_of(season, market, {"all": np.full(96, "every one", dtype=object)})
    segment = found.segments[0]
    assert (segment.races, segment.runners, segment.differ) == (48, 96, 0.25)
    assert segment.gain.value == pytest.approx(1000 * math.log(1.5))
    assert (segment.ae_model.value, segment.ae_market.value) == pytest.approx((48 / 36, 48 / 24))
    assert segment.p_value == 1.0, "values that do not vary have no standard error"


def test_properties_are_cut_where_the_report_says() -> None:
    starts = np.array([0, 2])
    odds = np.array([1.5, 3.0, 9.0, 8.0, np.nan])
    labels = labels_of(
        starts,
        odds,
        np.array(["2024-02-29", "2024-02-29", "2023-12-31", "2023-12-31", "2023-12-31"], dtype="datetime64[D]"),
        {
            "race_class": np.array([1.0, 1.0, np.nan, np.nan, np.nan]),
            "distance_band": ["mile"] * 5,
            "draw_cell": ["ayr|Turf|mile|good|1"] * 5,
            "going_group": ["good"] * 5,
            "starts": np.array([np.nan, 3.0, 4.0, 30.0, 31.0]),
        },
    )
    assert labels["class"].tolist() == ["1", "1", "unknown", "unknown", "unknown"]
    assert labels["favourite's price"].tolist() == ["1–5", "1–5", "5–8", "5–8", "5–8"]
    assert labels["month"].tolist() == ["02", "02", "12", "12", "12"]
    assert labels["horse's starts"].tolist() == ["0", "1–3", "4–10", "11–30", "> 30"]
    assert labels["field size"].tolist() == ["2–7"] * 5
    assert labels["surface"].tolist() == ["Turf"] * 5


def test_small_segments_and_races_without_a_market_are_not_compared() -> None:
    starts = np.arange(0, 96, 2)
    market = np.full(96, 0.5)
    market[:2] = np.nan
    dates = np.repeat(np.datetime64("2024-01-01") + np.arange(12), 8)
    share = np.tile([1.0, 0.0], 48)
    p = normalised(np.random.default_rng(1).random(96) + 0.5, starts)
    season = BacktestPeriod(p, market, 1 / market, 1 / market, share, starts, Days.of_dates(dates, 1))
    values = np.array(["many"] * 88 + ["few"] * 8, dtype=object)
    found = segments_of(season, market, {"size": values})
    assert (found.compared, found.too_small) == (1, 1)
    assert found.segments[0].runners == 86
