"""The market: margins taken out, the model and the market blended, each against its plain twin."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq

from velo.errors import UserError
from velo.training.dataset.by_race import normalised, softmax, starts_of, total
from velo.training.market.market import (
    METHODS,
    Blend,
    book,
    fit_blend,
    fit_market_exponent,
    inverses,
    market_offset,
    market_probabilities,
    power,
    proportional,
    residual_probabilities,
    shin,
)

Floats = NDArray[np.float64]

prices = st.lists(st.floats(1.02, 500.0), min_size=2, max_size=16)


def blocks(races: list[list[float]]) -> tuple[Floats, NDArray[np.intp]]:
    return np.array([odds for race in races for odds in race]), starts_of(
        [number for number, race in enumerate(races) for _ in race]
    )


def seen(count: int, seed: int, true_alpha: float, true_beta: float) -> tuple[Floats, Floats, NDArray[np.intp], Floats]:
    """Races whose winners are drawn from f^α·π^β, and who won."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 13, count)
    starts = np.cumsum(np.r_[0, sizes[:-1]]).astype(np.intp)
    pi = softmax(rng.normal(size=sizes.sum()), starts)
    f = softmax(np.log(pi) * 0.5 + rng.normal(size=pi.size), starts)
    chance = softmax(true_alpha * np.log(f) + true_beta * np.log(pi), starts)
    share = np.concatenate([rng.multinomial(1, p / p.sum()) for p in np.split(chance, starts[1:])]).astype(float)
    return f, pi, starts, share


# Blocks


def test_a_race_in_two_blocks_is_refused() -> None:
    assert starts_of(["a", "a", "b", "c", "c"]).tolist() == [0, 2, 3]
    assert starts_of([]).size == 0
    with pytest.raises(ValueError, match="more than one block"):
        starts_of(["a", "b", "a"])


# The margin


@pytest.mark.parametrize("method", METHODS)
@given(races=st.lists(prices, min_size=1, max_size=5))
def test_probabilities_sum_to_one_and_keep_the_order_of_the_odds(method: str, races: list[list[float]]) -> None:
    odds, starts = blocks(races)
    chances = market_probabilities(odds, starts, method)
    assert total(chances, starts) == pytest.approx(np.ones(starts.size), abs=1e-9)
    for of, at in zip(np.split(chances, starts[1:]), races, strict=True):
        assert np.all((of > 0) & (of <= 1))
        order = np.argsort(at)
        assert np.all(np.diff(of[order]) <= 1e-12)


def power_of_one(odds: list[float]) -> list[float]:
    k = brentq(lambda at: sum(o**-at for o in odds) - 1.0, -5.0, 500.0, xtol=1e-14)
    return [o**-k for o in odds]


def shin_of_one(odds: list[float]) -> list[float]:
    inverse = [1.0 / o for o in odds]
    whole = sum(inverse)
    if whole <= 1.0:
        return [value / whole for value in inverse]

    def at(z: float) -> list[float]:
        return [(math.sqrt(z * z + 4 * (1 - z) * v * v / whole) - z) / (2 * (1 - z)) for v in inverse]

    z = brentq(lambda z: sum(at(z)) - 1.0, 0.0, 1.0 - 1e-9, xtol=1e-15)
    return at(z)


@pytest.mark.parametrize(("fast", "plain"), [(power, power_of_one), (shin, shin_of_one)])
@given(races=st.lists(prices, min_size=1, max_size=5))
def test_all_races_at_once_give_what_one_race_gives_by_a_root_finder(
    fast: Callable[..., Floats], plain: Callable[[list[float]], list[float]], races: list[list[float]]
) -> None:
    odds, starts = blocks([race for race in races if sum(1 / o for o in race) < 1.9] or [[2.0, 2.5]])
    for got, of in zip(np.split(fast(odds, starts), starts[1:]), np.split(odds, starts[1:]), strict=True):
        assert got == pytest.approx(plain(of.tolist()), abs=2e-6)


def test_hand_worked_margins() -> None:
    """1.5 and 2.5: a book of 16/15. Shin's z for two runners has a closed form (Jullien and Salanié)."""
    odds, starts = blocks([[1.5, 2.5]])
    assert book(odds, starts)[0] == pytest.approx(16 / 15)
    assert proportional(odds, starts) == pytest.approx([0.625, 0.375])
    gap, whole = 1 / 1.5 - 1 / 2.5, 16 / 15
    z = (whole - 1) * (gap**2 - whole) / (whole * (gap**2 - 1))
    expected = [(math.sqrt(z * z + 4 * (1 - z) / o**2 / whole) - z) / (2 * (1 - z)) for o in (1.5, 2.5)]
    assert sum(expected) == pytest.approx(1.0)
    assert shin(odds, starts) == pytest.approx(expected, abs=1e-12)
    outsider = [method(odds, starts)[1] for method in (proportional, shin, power)]
    assert outsider[0] > outsider[1]
    assert outsider[0] > outsider[2], "both take more of the margin from the outsider"


@pytest.mark.parametrize("method", METHODS)
def test_a_fair_book_is_left_as_it_is_and_an_under_round_one_is_guarded(method: str) -> None:
    odds, starts = blocks([[2.0, 4.0, 4.0], [3.0, 4.0, 5.0]])
    chances = market_probabilities(odds, starts, method)
    assert chances[:3] == pytest.approx([0.5, 0.25, 0.25])
    assert book(odds, starts)[1] < 1.0
    assert chances[3:].sum() == pytest.approx(1.0)
    assert chances[3] > chances[4] > chances[5]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("none", [np.nan, 1.0, 0.0, -3.0, np.inf])
def test_a_race_with_a_runner_without_odds_has_no_market_and_its_neighbours_keep_theirs(
    method: str, none: float
) -> None:
    odds, starts = blocks([[2.0, 3.0], [2.0, none, 5.0], [7.0], [1.8, 2.2]])
    chances = market_probabilities(odds, starts, method)
    assert np.isnan(chances[2:5]).all()
    alone = market_probabilities(*blocks([[2.0, 3.0], [1.8, 2.2]]), method)
    assert chances[[0, 1, 6, 7]].tolist() == alone.tolist()
    assert chances[5] == 1.0, "a race of one runner is certain"
    assert np.isnan(inverses(odds)[3])


def test_an_unknown_method_is_reported_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'odds-ratio' is not a method.* proportional, power, shin"):
        market_probabilities(np.array([2.0, 2.0]), np.array([0]), "odds-ratio")


# The blend


def test_the_blend_finds_the_exponents_that_made_the_winners() -> None:
    f, pi, starts, share = seen(4000, 5, 0.4, 0.8)
    blend = fit_blend(f, pi, starts, share)
    assert blend.alpha_se is not None
    assert blend.beta_se is not None
    assert abs(blend.alpha - 0.4) < 3 * blend.alpha_se < 0.2
    assert abs(blend.beta - 0.8) < 3 * blend.beta_se < 0.2
    assert blend.races == 4000


def test_the_blend_is_at_the_optimum() -> None:
    """The slope vanishes there and no neighbour is better, a dead heat among the races."""
    f, pi, starts, share = seen(300, 6, 0.5, 0.5)
    share[:2] = 0.5
    share[2 : starts[1]] = 0.0
    blend = fit_blend(f, pi, starts, share)

    def loss(alpha: float, beta: float) -> float:
        chance = normalised(f**alpha * pi**beta, starts)
        return float(-(share * np.log(chance)).sum() / starts.size)

    assert blend.log_loss == pytest.approx(loss(blend.alpha, blend.beta), abs=1e-12)
    for step in (1e-3, -1e-3):
        assert loss(blend.alpha + step, blend.beta) > blend.log_loss
        assert loss(blend.alpha, blend.beta + step) > blend.log_loss
    slope = (loss(blend.alpha + 1e-5, blend.beta) - loss(blend.alpha - 1e-5, blend.beta)) / 2e-5
    assert abs(slope) < 1e-7


def test_standard_errors_are_those_of_repeated_samples() -> None:
    fits = [
        fit_market_exponent(pi, starts, share) for _, pi, starts, share in (seen(200, s, 0.0, 1.1) for s in range(60))
    ]
    spread = np.std([fit.beta for fit in fits])
    found = np.mean([fit.beta_se for fit in fits if fit.beta_se is not None])
    assert found == pytest.approx(spread, rel=0.3)
    assert np.mean([fit.beta for fit in fits]) == pytest.approx(1.1, abs=float(3 * spread / math.sqrt(60)))
    assert all(fit.alpha == 0.0 and fit.alpha_se is None for fit in fits)


def test_races_without_a_market_take_no_part_and_get_no_blend() -> None:
    f, pi, starts, share = seen(100, 7, 0.3, 0.9)
    whole = fit_blend(f, pi, starts, share)
    more = [np.r_[f, 0.5, 0.5], np.r_[pi, np.nan, 0.5], np.r_[starts, f.size], np.r_[share, 1.0, 0.0]]
    blend = fit_blend(*more)
    assert (blend.alpha, blend.beta, blend.races) == (whole.alpha, whole.beta, 100)
    chances = blend.probabilities(more[0], more[1], more[2])
    assert np.isnan(chances[-2:]).all()
    assert total(chances, more[2])[:-1] == pytest.approx(np.ones(100), abs=1e-12)


def test_a_model_that_says_nothing_gets_no_standard_error_and_changes_no_market() -> None:
    _, pi, starts, share = seen(100, 8, 0.0, 1.0)
    uniform = normalised(np.ones(pi.size), starts)
    blend = fit_blend(uniform, pi, starts, share)
    alone = fit_market_exponent(pi, starts, share)
    assert blend.alpha_se is None
    assert blend.beta == pytest.approx(alone.beta, abs=1e-6)


def test_too_few_races_are_reported() -> None:
    f, pi, starts, share = seen(10, 9, 1.0, 1.0)
    with pytest.raises(UserError, match="10 races with a market are too few"):
        fit_blend(f, pi, starts, share)


def test_a_blend_survives_its_text_to_the_last_bit() -> None:
    f, pi, starts, share = seen(50, 10, 0.4, 0.7)
    blend = fit_blend(f, pi, starts, share)
    assert Blend.from_json(json.loads(json.dumps(blend.to_json()))) == blend
    with pytest.raises(ValueError, match="needs the model's probabilities"):
        blend.probabilities(None, pi, starts)


def test_a_residual_model_that_adds_nothing_is_the_sharpened_market() -> None:
    _, pi, starts, share = seen(50, 11, 0.0, 1.0)
    beta = fit_market_exponent(pi, starts, share)
    chances = residual_probabilities(np.zeros(pi.size), pi, beta.beta, starts)
    assert chances == pytest.approx(beta.probabilities(None, pi, starts), abs=1e-12)
    assert total(market_offset(pi, beta.beta, starts), starts) == pytest.approx(np.zeros(50), abs=1e-9)
