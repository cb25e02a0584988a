"""What stands on top of a model: taught by the market in training alone, blended by what was learned out of fold, kept as text."""

import json

import numpy as np
import pytest

from tests.support.market_worlds import RACES, RUNNERS, SMALL, a_world
from velo.errors import UserError
from velo.feature_repo.catalogue.market_moves import COLUMNS, market_columns
from velo.training.bundle import Bundle, Model
from velo.training.dataset.by_race import Floats, softmax, total
from velo.training.dataset.entity_rows import Prices
from velo.training.dataset.races import AT_DECISION, AT_SP, at_decision
from velo.training.evaluation.blend_calibrate import surest
from velo.training.evaluation.metrics import winner_loss
from velo.training.market.blending import (
    BENTER,
    KINDS,
    MEAN,
    MOVES,
    RESIDUAL,
    Blending,
    OutOfFoldPredictions,
    chances,
    learn,
    moving_blend,
)
from velo.training.market.market import LEAST_RACES, fit_blend, market_offset, move_inputs, proportional
from velo.training.model.ensemble import Ensemble
from velo.training.model.fitting import Rounds, TreesAndLogit, choose_rounds, fit_on_market
from velo.training.model.trees import FEATURES, ModelOptions, direction
from velo.training.race_model import Runners

pytestmark = pytest.mark.slow


def seen(residual: Floats | None = None) -> OutOfFoldPredictions:
    matrix, races = a_world()
    f = softmax(0.9 * matrix[:, 0], races.starts)
    return OutOfFoldPredictions(
        races.starts, f, races.pi, f if residual is None else residual, races.share, 0.85 / races.pi
    )


def test_what_is_taught_sums_to_one_and_races_without_a_market_teach_their_winner() -> None:
    _, races = a_world()
    races.pi[:RUNNERS] = np.nan
    target = races.target(0.8)
    np.testing.assert_allclose(races.total(target), 1.0)
    np.testing.assert_array_equal(target[:RUNNERS], races.share[:RUNNERS])
    np.testing.assert_array_equal(races.target(0.0), races.share)
    taught = (target - 0.2 * races.share)[RUNNERS:] / 0.8
    exponents = np.log(taught[1:] / taught[:-1]) / np.log(races.pi[RUNNERS + 1 :] / races.pi[RUNNERS:-1])
    inside = np.diff(np.repeat(np.arange(RACES - 1), RUNNERS)) == 0
    np.testing.assert_allclose(exponents[inside], exponents[0])
    few = races.only(np.arange(RACES) < LEAST_RACES - 1)
    np.testing.assert_array_equal(few.target(0.8), few.share)


def test_the_market_of_a_predicted_race_is_no_input() -> None:
    """π teaches, and nothing more: the fundamental model has no way to read it."""
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    rounds = choose_rounds(given, races, SMALL)
    model = TreesAndLogit(SMALL, rounds).fit(given, races)
    assert TreesAndLogit(SMALL, rounds).fit(given, races) == model
    alone = model.probabilities(given, races.starts)
    assert np.corrcoef(alone, softmax(matrix[:, 0], races.starts))[0, 1] > 0.3


def test_a_model_on_top_of_the_market_finds_what_the_market_left_out() -> None:
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    found = fit_on_market(TreesAndLogit(SMALL, Rounds(30, 30)), given, races)
    assert found is not None
    assert np.corrcoef(found.model.utilities(given), matrix[:, 0])[0, 1] > 0.1
    few = races.only(np.arange(RACES) < LEAST_RACES - 1)
    assert fit_on_market(TreesAndLogit(SMALL, Rounds(30, 30)), given.of(few), few) is None


def test_contributions_of_both_parts_add_up_to_the_utility_but_for_a_constant() -> None:
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    model = TreesAndLogit(SMALL, Rounds(20, 20)).fit(given, races)
    left_over = model.utilities(given) - model.contributions(given).sum(axis=1)
    np.testing.assert_allclose(left_over, left_over[0], atol=1e-9)


def test_an_ensemble_of_one_part_is_that_part() -> None:
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    model = TreesAndLogit(SMALL, Rounds(20, 20)).fit(given, races)
    only_trees = Ensemble(model.trees, model.logit, 0.0)
    np.testing.assert_array_equal(only_trees.utilities(given), model.tree_scores(given))
    only_linear = Ensemble(model.trees, model.logit, 1.0)
    np.testing.assert_array_equal(only_linear.utilities(given), model.logit.scores(given.centred))


def moving_world(seed: int = 2) -> OutOfFoldPredictions:
    """A market 5 minutes before the off that still moves on towards the closing one, which knows more; f knows nothing of it."""
    matrix, races = a_world(seed)
    rng = np.random.default_rng(seed)
    error = 0.8 * rng.normal(size=races.pi.size)
    closing = np.log(races.pi)
    logs = [closing + error * (1 - known) for known in (0.05, 0.2, 0.5, 0.6, 0.7)]
    then, now = (np.stack([1 / softmax(log, races.starts) for log in part], axis=1) for part in (logs[:4], logs[4:]))
    columns = market_columns(now[:, 0], then, np.full(races.pi.size, np.nan), races.starts)
    pi = proportional(now[:, 0], races.starts)
    f = softmax(0.9 * matrix[:, 0], races.starts)
    inputs = move_inputs(columns, races.starts)
    return OutOfFoldPredictions(races.starts, f, pi, f, races.share, now[:, 0], inputs, races.pi)


def test_late_money_is_followed_where_the_market_has_begun_to_move() -> None:
    """The blend with the moves predicts winners of other races better than Benter's, and comes nearer to the closing market."""
    learned, other = moving_world(2), moving_world(3)
    moving, benter = moving_blend(learned), fit_blend(learned.f, learned.pi, learned.starts, learned.share)
    assert moving is not None
    ours, plain = (chances(kind, other, benter, moving) for kind in (MOVES, BENTER))
    assert winner_loss(ours, other.share, other.starts).mean() < winner_loss(plain, other.share, other.starts).mean()
    assert other.closing is not None
    gaps = [np.abs(np.log(p / other.closing)).mean() for p in (ours, plain)]
    assert gaps[0] < 0.7 * gaps[1]
    still = moving.probabilities(other.f, other.pi, other.starts)
    np.testing.assert_allclose(total(still, other.starts), 1.0)


def test_a_bundle_blends_with_the_moves_as_the_backtest_did_and_keeps_them() -> None:
    some = moving_world()
    learned = learn(some, some, MOVES)
    kept = Blending.from_json(json.loads(json.dumps(learned.to_json())))
    assert kept == learned
    assert learned.moving is not None
    expected = learned.curves[MOVES].probabilities(
        chances(MOVES, some, learned.benter, learned.moving), some.price, some.starts
    )
    matrix, races = a_world(2)
    model = TreesAndLogit(SMALL, Rounds(2, 2)).fit(Runners(matrix, races.starts, FEATURES), races)
    bundle = Bundle("v", FEATURES, {}, {}, Model(model, kept))
    for at in races.starts[:20]:
        own = slice(at, at + RUNNERS)
        columns = np.full((RUNNERS, len(COLUMNS)), np.nan)
        assert some.moves is not None
        columns[:, 2:-2] = some.moves[own, :-1]
        served = bundle.blend(some.f[own], some.price[own], matrix[own], columns)
        assert served is not None
        np.testing.assert_allclose(served, expected[own], rtol=1e-9)
        effect = bundle.market_effect(some.price[own], columns) - bundle.market_effect(some.price[own])
        np.testing.assert_allclose(effect.sum(), 0.0, atol=1e-9)
        assert np.abs(effect).max() > 0.0


def test_without_odds_at_decision_time_there_is_no_blend_with_moves() -> None:
    assert seen().kinds == KINDS
    assert moving_blend(seen()) is None
    assert "moving" not in learn(seen(), seen()).to_json()
    assert "moves" not in learn(seen(), seen()).to_json()["benter"]


def test_the_market_of_the_decision_is_used_where_most_predicted_races_have_one_else_nothing_changes() -> None:
    """Four of five races from the first predicted day: the fifth is left out there, and an earlier one trains with SP."""
    _, races = a_world()
    sp = 1.0 / races.pi
    taken = 1.1 * sp
    since = races.days[RACES // 2]
    late = np.flatnonzero(races.days >= since)
    missing = [0, int(late[0])]
    for race in missing:
        taken[races.starts[race]] = np.nan
    shown = Prices(taken, sp, np.full((taken.size, len(COLUMNS)), np.nan), taken)
    decided, price, used = at_decision(races, shown, sp, since, 5.0)
    assert (used.blend, used.races, used.covered) == (AT_DECISION, late.size, late.size - 1)
    assert "5 minutes before the off" in used.words
    first, second = (slice(races.starts[race], races.starts[race] + RUNNERS) for race in missing)
    np.testing.assert_array_equal(decided.pi[first], races.pi[first])
    assert np.isnan(decided.pi[second]).all()
    np.testing.assert_array_equal(price[first], sp[first])
    np.testing.assert_array_equal(price[RUNNERS : 2 * RUNNERS], taken[RUNNERS : 2 * RUNNERS])
    assert decided.closing is not None
    np.testing.assert_allclose(decided.closing, races.pi)
    taken[races.starts[late[: late.size // 4]]] = np.nan
    same, price, used = at_decision(races, shown, sp, since, 5.0)
    assert same is races
    assert price is sp
    assert used.blend == AT_SP
    assert "SP, which is not known before the off" in used.words


def test_the_blend_that_gained_most_surely_is_chosen() -> None:
    """A little in every race is surer than as much by a few; of equals the plainest is taken."""
    rng = np.random.default_rng(5)
    steady, wild = rng.normal(0.010, 0.05, 2000), rng.normal(0.0, 1.0, 2000)
    wild += 0.012 - wild.mean()
    assert wild.mean() > steady.mean()
    assert surest({BENTER: np.zeros(2000), RESIDUAL: wild, MEAN: steady}) == MEAN
    assert surest({BENTER: np.zeros(2000), RESIDUAL: wild - 0.02, MEAN: steady - 0.02}) == BENTER
    assert surest({BENTER: steady, RESIDUAL: steady, MEAN: steady}) == BENTER


def test_both_blends_stand_half_way_between_the_two() -> None:
    """By their utilities, race by race: the log of the odds of two runners is the mean of what each blend says."""
    some = seen()
    benter = fit_blend(some.f, some.pi, some.starts, some.share)
    found = [np.log(chances(kind, some, benter)) for kind in KINDS]
    item, other, both = (each[1::8] - each[::8] for each in found)
    np.testing.assert_allclose(both, (item + other) / 2.0, atol=1e-12)
    np.testing.assert_allclose(total(np.exp(found[2]), some.starts), 1.0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_blends_a_race_as_the_backtest_did(kind: str) -> None:
    """One race at a time and from odds, as it is served: the chances that the formulas over many races give.

    With the runners in another order they are the same to the bit.
    """
    matrix, races = a_world()
    given = Runners(matrix, races.starts, FEATURES)
    model = TreesAndLogit(SMALL, Rounds(20, 20)).fit(given, races)
    on_market = fit_on_market(TreesAndLogit(SMALL, Rounds(20, 20)), given, races)
    assert on_market is not None
    offset = market_offset(races.pi, on_market.beta, races.starts)
    f = model.probabilities(given, races.starts)
    residual = softmax(on_market.model.utilities(given) + offset, races.starts)
    odds = 0.85 / races.pi
    some = OutOfFoldPredictions(races.starts, f, races.pi, residual, races.share, odds)
    blending = learn(some, some, kind)
    expected = blending.curves[kind].probabilities(chances(kind, some, blending.benter), odds, races.starts)
    bundle = Bundle("v", FEATURES, {}, {}, Model(model, blending, (on_market.beta, on_market.model)))
    for at in races.starts[:40]:
        own = slice(at, at + RUNNERS)
        served = bundle.blend(bundle.probabilities(matrix[own]), odds[own], matrix[own])
        assert served is not None
        np.testing.assert_allclose(served, expected[own], rtol=1e-9)
        turned = matrix[own][::-1]
        again = bundle.blend(bundle.probabilities(turned), odds[own][::-1], turned)
        assert again is not None
        np.testing.assert_array_equal(again[::-1], served)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blending_is_the_same_after_json(kind: str) -> None:
    learned = learn(seen(), seen(), kind, {BENTER: 1.9, RESIDUAL: 1.8, MEAN: 1.8}, 10)
    assert set(learned.curves) == {BENTER, kind}
    kept = Blending.from_json(json.loads(json.dumps(learned.to_json())))
    assert kept == learned
    with pytest.raises(UserError, match="this version reads"):
        Blending.from_json(learned.to_json() | {"format": 99})


@pytest.mark.parametrize(
    ("feature", "points"),
    [
        ("jockey_velocity__sr_90d", 1),
        ("horse_form__prb_ewma_rank", -1),
        ("horse_form__prb_ewma_z", 1),
        ("horse_form__lengths_last", -1),
        ("horse_form__market_last", 1),
        ("weight_lbs", 0),
        ("horse_form__starts", 0),
    ],
)
def test_the_domain_is_sure_of_a_few_directions_and_a_rank_points_the_other_way(feature: str, points: int) -> None:
    assert direction(feature) == points


def test_bound_trees_never_speak_against_a_better_record() -> None:
    matrix, races = a_world()
    at = FEATURES.index("jockey_velocity__sr_90d")
    rising = np.repeat(matrix[:1], 50, axis=0)
    rising[:, at] = np.linspace(-3.0, 3.0, 50)
    options = ModelOptions(rounds=30, leaves=6, learning_rate=0.1, threads=1, monotone=True, feature_fraction=1.0)
    matrix[:, at] = np.sin(3.0 * matrix[:, 0])
    model = TreesAndLogit(options, Rounds(30, 0)).fit(Runners(matrix, races.starts, FEATURES), races)
    scores = model.tree_scores(Runners(rising, np.zeros(1, dtype=np.intp), FEATURES))
    assert np.all(np.diff(scores) >= 0.0)
