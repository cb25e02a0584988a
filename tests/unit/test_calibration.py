"""Calibration: curves per odds regime that correct what is biased and leave what is not; errors without their luck."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Days, Figure
from velo.training.dataset.by_race import normalised, softmax, total
from velo.training.evaluation.reliability import (
    equal_mass,
    equal_width,
    mean_gap,
    plain_error,
    reliability,
    root_mean_gap,
    slope,
)
from velo.training.market.calibration import BetaCurve, RegimeCalibration, StepCurve, fit_calibration, regime_weights

Floats = NDArray[np.float64]


def races(count: int, seed: int) -> tuple[Floats, NDArray[np.intp], Floats, NDArray[np.intp]]:
    """True chances, where races start, who won by them, and the day of each runner (8 races a day)."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 13, count)
    starts = np.cumsum(np.r_[0, sizes[:-1]]).astype(np.intp)
    true = softmax(rng.normal(scale=1.1, size=int(sizes.sum())), starts)
    share = np.concatenate([rng.multinomial(1, p / p.sum()) for p in np.split(true, starts[1:])]).astype(float)
    return true, starts, share, np.repeat(np.arange(count) // 8, sizes)


def rounded(figure: Figure) -> tuple[float, float, float]:
    assert figure.value is not None
    assert figure.low is not None
    assert figure.high is not None
    return figure.value, figure.low, figure.high


# Curves


def test_a_curve_has_its_say_by_how_near_the_price_is_to_its_middle() -> None:
    """Half way between two by the log of the price, each has half; beyond the ends the last has all, without a price none."""
    price = np.array([1.01, 3.0, (3.0 * 6.5) ** 0.5, 6.5, 32.0, 500.0, np.nan, 1.0, np.inf])
    found = [[1, 0, 0, 0, 0]] * 2 + [[0.5, 0.5, 0, 0, 0], [0, 1, 0, 0, 0]] + [[0, 0, 0, 0, 1]] * 2 + [[0] * 5] * 3
    assert regime_weights(price) == pytest.approx(np.array(found, dtype=float))


@pytest.mark.parametrize("enough", [50.0, 1e9])
def test_a_price_that_moves_by_a_tick_moves_no_chance_by_more(enough: float) -> None:
    """Two regimes that need opposite repairs: one says far too much, the next too little, and no price lies at a cliff."""
    true, _, share, _ = races(4000, 8)
    price = 0.85 / true
    bent = np.where(price <= 8.0, true**0.8, true**1.3)
    fitted = fit_calibration(bent, share, price, enough=enough)
    gaps = [regime.curve.at(np.array([0.12]))[0] for regime in fitted.regimes]
    assert max(gaps) > 1.2 * min(gaps)
    near = np.exp(np.linspace(np.log(1.5), np.log(100.0), 20_001))
    values = fitted.curve_values(np.full(near.size, 0.12), near)
    assert np.abs(np.diff(np.log(values))).max() < 0.001


@pytest.mark.slow
def test_a_bent_model_is_straightened_and_its_races_sum_to_one() -> None:
    """What says too much of favourites is repaired on other races than it was fitted on, in each way of fitting."""
    true, starts, share, _ = races(4000, 1)
    fresh, fresh_starts, fresh_share, _ = races(2000, 2)
    bent, fresh_bent = (normalised(p**1.6, s) for p, s in ((true, starts), (fresh, fresh_starts)))
    for enough in (50.0, 1e9):
        fitted = fit_calibration(bent, share, 0.85 / true, enough=enough)
        kinds = {type(regime.curve) for regime in fitted.regimes}
        assert kinds == ({BetaCurve} if enough > 1e6 else {StepCurve})
        mended = fitted.probabilities(fresh_bent, 0.85 / fresh, fresh_starts)
        assert total(mended, fresh_starts) == pytest.approx(np.ones(fresh_starts.size), abs=1e-9)
        bins = equal_mass(fresh_bent)
        assert plain_error(mended, fresh_share, bins) < 0.5 * plain_error(fresh_bent, fresh_share, bins)
        losses = [-float(np.log(p[fresh_share > 0]).mean()) for p in (mended, fresh_bent, fresh)]
        assert losses[0] < losses[1] - 0.01
        assert losses[0] < losses[2] + 0.01


def test_a_sound_model_is_left_nearly_as_it_is() -> None:
    true, starts, share, _ = races(1500, 3)
    fitted = fit_calibration(true, share, 0.85 / true)
    assert np.abs(fitted.probabilities(true, 0.85 / true, starts) - true).mean() < 0.01


def test_a_regime_with_few_winners_stays_near_the_curve_of_all() -> None:
    true, _, share, _ = races(1500, 4)
    price = np.where(np.arange(true.size) < 40, 40.0, 3.0)
    fitted = fit_calibration(true, share, price, enough=1e9)
    few = fitted.regimes[4].curve
    assert isinstance(few, BetaCurve)
    assert few.a == pytest.approx(fitted.everywhere.a, abs=0.15)
    assert fitted.regimes[2].runners == 0
    assert fitted.regimes[2].curve == fitted.everywhere


def test_a_regime_of_enough_runners_but_no_winner_says_never_to_no_one() -> None:
    p = np.r_[np.full(400, 0.4), np.full(2000, 0.06)]
    share = np.r_[np.tile([1.0, 0.0], 200), np.zeros(2000)]
    price = np.r_[np.full(400, 2.0), np.full(2000, 12.0)]
    fitted = fit_calibration(p, share, price, enough=0.0)
    assert isinstance(fitted.regimes[2].curve, StepCurve)
    values = fitted.curve_values(p, price)
    assert values.min() > 0
    assert values[-1] < 0.02


def test_a_runner_without_a_price_gets_the_curve_of_all() -> None:
    true, _, share, _ = races(300, 5)
    fitted = fit_calibration(true, share, 0.85 / true)
    values = fitted.curve_values(np.array([0.2]), np.array([np.nan]))
    assert values.tolist() == fitted.everywhere.at(np.array([0.2])).tolist()


@given(
    st.one_of(
        st.builds(BetaCurve, st.floats(0, 3), st.floats(0, 3), st.floats(-2, 2)),
        st.lists(
            st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=1, max_size=8, unique_by=lambda k: k[0]
        ).map(lambda knots: StepCurve(tuple(sorted(x for x, _ in knots)), tuple(sorted(y for _, y in knots)))),
    ),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_a_curve_keeps_the_order_and_stays_a_probability(curve: BetaCurve | StepCurve, p: list[float]) -> None:
    values = curve.at(np.sort(np.array(p)))
    assert np.all(np.diff(values) >= -1e-12)
    assert np.all((values >= 0) & (values <= 1))


def test_a_calibration_survives_its_text_to_the_last_bit() -> None:
    true, starts, share, _ = races(1500, 6)
    fitted = fit_calibration(true, share, 0.85 / true, enough=200.0)
    assert {type(regime.curve) for regime in fitted.regimes} == {BetaCurve, StepCurve}
    text = json.dumps(fitted.to_json())
    again = RegimeCalibration.from_json(json.loads(text))
    assert again == fitted
    before, after = (which.probabilities(true, 0.85 / true, starts) for which in (fitted, again))
    assert before.tolist() == after.tolist()


def test_text_of_another_format_or_kind_is_refused() -> None:
    true, _, share, _ = races(300, 7)
    kept = fit_calibration(true, share, 0.85 / true).to_json()
    with pytest.raises(UserError, match="format is 9, but this version reads 2: run `velo train` again"):
        RegimeCalibration.from_json(kept | {"format": 9})
    kept["regimes"][0]["kind"] = "spline"
    with pytest.raises(UserError, match="'spline'"):
        RegimeCalibration.from_json(kept)


def test_too_few_winners_are_reported() -> None:
    with pytest.raises(UserError, match="2 winners are too few to calibrate"):
        fit_calibration(np.full(4, 0.5), np.array([1.0, 0, 1.0, 0]), np.full(4, 2.0))


# Errors


def test_hand_worked_bins() -> None:
    p = np.array([0.1, 0.1, 0.3, 0.5, 1.0, 0.0])
    share = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    assert equal_width(p).tolist() == [0, 0, 2, 4, 9, 0]
    bins = reliability(p, share, equal_width(p))
    assert bins.runners.tolist() == [3, 1, 1, 1]
    assert bins.won == pytest.approx([1 / 3, 0, 1, 1])
    assert plain_error(p, share, equal_width(p)) == pytest.approx((3 * (1 / 3 - 0.2 / 3) + 0.3 + 0.5) / 6)


def test_equal_mass_bins_hold_equal_numbers_and_never_part_equals() -> None:
    p = np.random.default_rng(8).random(1500)
    assert np.bincount(equal_mass(p)).tolist() == [100] * 15
    assert np.unique(equal_mass(np.full(90, 0.1))).size == 1


def test_the_debiased_error_of_a_true_model_is_near_zero_where_the_plain_one_is_not() -> None:
    mean, plain = [], []
    for seed in range(12):
        true, _, share, day = races(600, 100 + seed)
        days = Days.of_dates(day, 1, 50)
        mean.append(rounded(mean_gap(true, share, days))[0])
        plain.append(plain_error(true, share, equal_mass(true)))
    assert np.mean(mean) < 0.004
    assert np.mean(plain) > 0.010


def test_a_true_gap_is_found_and_its_interval_holds_it() -> None:
    """Every runner is said 4 % too much of: the root mean gap is unbiased, the mean gap close below."""
    held = 0
    for seed in range(20):
        true, _, share, day = races(500, 200 + seed)
        days = Days.of_dates(day, 1, 200)
        value, low, high = rounded(root_mean_gap(true + 0.04, share, days))
        assert value == pytest.approx(0.04, abs=0.015)
        assert 0.02 < rounded(mean_gap(true + 0.04, share, days))[0] < 0.055
        held += low <= 0.04 <= high
    assert held >= 16


def test_the_slope_finds_how_much_too_much_is_said() -> None:
    true, starts, share, day = races(1500, 9)
    days = Days.of_dates(day, 1, 300)
    value, low, high = rounded(slope(true, share, days))
    assert low < 1.0 < high
    steep = rounded(slope(normalised(true**1.5, starts), share, days))
    assert steep[2] < 0.9
    assert value > steep[0]


@pytest.mark.parametrize("overlap", [0.0, 1e-3])
def test_a_slope_that_winners_known_beforehand_make_endless_is_none_or_steep_and_breaks_nothing(overlap: float) -> None:
    """As a leak has it: winners and losers lie apart, or all but a few do."""
    true, _, share, day = races(400, 11)
    wrong = np.random.default_rng(2).random(share.size) < overlap
    known = np.where((share > 0) ^ wrong, 0.98, 0.002) + 0.01 * true
    found = slope(known, share, Days.of_dates(day, 1, 50))
    assert found.value is None or found.value > 1.0


def test_one_newton_step_a_resample_comes_to_what_a_whole_fit_comes_to() -> None:
    """The interval's fast path against a fit of each resample in full."""
    from scipy.optimize import minimize

    true, _, share, day = races(400, 10)
    days = Days.of_dates(day, 3, 40)
    logit = np.log(true) - np.log1p(-true)

    def refit(weight: Floats) -> float:
        def loss(at: Floats) -> float:
            score = at[0] + at[1] * logit
            return float((weight * (np.logaddexp(0, score) - share * score)).sum())

        return float(minimize(loss, np.array([0.0, 1.0]), method="BFGS").x[1])

    whole = np.quantile([refit(weights[days.of]) for weights in days.weights], [0.025, 0.975])
    _, low, high = rounded(slope(true, share, days))
    assert [low, high] == pytest.approx(whole.tolist(), abs=0.01)


def test_a_model_that_says_the_same_of_all_has_no_slope() -> None:
    figure = slope(np.full(40, 0.1), np.r_[np.ones(4), np.zeros(36)], Days.of_dates(np.arange(40), 1))
    assert figure == Figure(None, None, None, 40)


# Resampling


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(-5, 5), st.floats(0.1, 5)), min_size=10, max_size=40))
def test_resampling_by_weights_is_resampling_day_by_day(rows: list[tuple[int, float, float]]) -> None:
    """Against a plain loop that lays the drawn days one beside another."""
    day, over, under = (np.array(column) for column in zip(*rows, strict=True))
    days = Days.of_dates(day, 7, 20)
    fast = days.resampled(days.sums(np.stack([over, under], axis=1)))
    labels = np.unique(day)
    for sums, weights in zip(fast, days.weights, strict=True):
        drawn = [labels[at] for at, times in enumerate(weights.astype(int)) for _ in range(times)]
        assert len(drawn) == labels.size
        assert sums == pytest.approx([sum(v[day == at].sum() for at in drawn) for v in (over, under)], abs=1e-9)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values, day = np.random.default_rng(1).random(200), np.arange(200) // 4
    first, again, other = (Days.of_dates(day, seed).mean(values) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first.n == 200


def test_few_days_give_a_value_without_an_interval_and_nothing_gives_nothing() -> None:
    few = Days.of_dates(np.array([0, 0, 1, 1]), 1)
    assert few.mean(np.array([1.0, 2.0, 3.0, 4.0])) == Figure(2.5, None, None, 4)
    assert few.where(np.zeros(4, dtype=bool)).mean(np.empty(0)) == Figure(None, None, None, 0)
    assert few.ratio(np.ones(4), np.zeros(4)) == Figure(None, None, None, 4)


def test_a_part_is_resampled_with_the_draws_of_the_whole() -> None:
    days = Days.of_dates(np.arange(60) // 2, 4)
    part = days.where(np.arange(60) < 30)
    assert part.weights is days.weights
    assert part.of.tolist() == days.of[:30].tolist()
