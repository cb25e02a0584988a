"""The baseline: a conditional logit at its optimum, in text; and the placebos that must come out null."""

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from velo.errors import UserError
from velo.training.dataset.by_race import softmax, total
from velo.training.evaluation.metrics import auc, winner_loss
from velo.training.gate.controls import planted_leak, shuffled_winners
from velo.training.gate.criteria import ALARMS
from velo.training.market.market import fit_market_exponent, market_offset
from velo.training.model import ensemble
from velo.training.model.ensemble import Logit, fit_logit

Floats = NDArray[np.float64]


def races(
    count: int, seed: int, weights: tuple[float, ...] = (0.8, -0.5, 0.0)
) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Features, where races start, and winners drawn from the logit of the weights."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 12, count)
    starts = np.cumsum(np.r_[0, sizes[:-1]]).astype(np.intp)
    matrix = rng.normal(size=(int(sizes.sum()), len(weights)))
    chance = softmax(matrix @ np.array(weights), starts)
    share = np.concatenate([rng.multinomial(1, p / p.sum()) for p in np.split(chance, starts[1:])]).astype(float)
    return matrix, starts, share


NAMES = ("a", "b", "c")


def test_the_weights_that_made_the_winners_are_found() -> None:
    matrix, starts, share = races(3000, 1)
    logit = fit_logit(matrix * 7 + 3, starts, share, NAMES, l2=0.0)
    assert [w / s * 7 for w, s in zip(logit.weights, logit.scales, strict=True)] == pytest.approx(
        [0.8, -0.5, 0], abs=0.08
    )
    chances = logit.probabilities(matrix * 7 + 3, starts)
    assert total(chances, starts) == pytest.approx(np.ones(3000), abs=1e-12)
    assert logit.log_loss == pytest.approx(winner_loss(chances, share, starts).mean(), abs=1e-9)


def test_it_stops_where_the_penalised_loss_is_least() -> None:
    """No weight moved either way is better; a dead heat among the races."""
    matrix, starts, share = races(200, 2)
    share[: starts[1]] = 0.0
    share[:2] = 0.5
    logit = fit_logit(matrix, starts, share, NAMES, l2=10.0)
    columns = (matrix - logit.means) / np.array(logit.scales)

    def loss(weights: Floats) -> float:
        chances = softmax(columns @ weights, starts)
        return float(-(share * np.log(chances)).sum() + 5.0 * weights @ weights)

    best = np.array(logit.weights)
    for at in range(3):
        for step in (0.01, -0.01):
            assert loss(best + step * (np.arange(3) == at)) > loss(best)


def test_a_stronger_penalty_says_less() -> None:
    matrix, starts, share = races(300, 3)
    sizes = [sum(w * w for w in fit_logit(matrix, starts, share, NAMES, l2).weights) for l2 in (0.0, 30.0, 3000.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_missing_values_constants_and_absurdities_do_no_harm() -> None:
    matrix, starts, share = races(400, 4)
    matrix[::5, 0] = np.nan
    matrix[:, 2] = 0.1
    with_none = np.c_[matrix, np.full(len(matrix), np.nan)]
    logit = fit_logit(with_none, starts, share, (*NAMES, "d"))
    assert logit.weights[2:] == pytest.approx((0.0, 0.0), abs=1e-20)
    with_none[3, 1] = -1e12
    chances = logit.probabilities(with_none, starts)
    assert np.isfinite(chances).all()
    assert chances[3] < 1.0


def test_on_top_of_the_market_only_what_the_market_misses_is_learned() -> None:
    matrix, starts, share = races(1500, 5)
    pi = softmax(matrix[:, 0] * 0.8, starts)
    beta = fit_market_exponent(pi, starts, share).beta
    logit = fit_logit(matrix, starts, share, NAMES, 1.0, market_offset(pi, beta, starts))
    assert abs(logit.weights[0]) < 0.12
    assert logit.weights[1] == pytest.approx(-0.5, abs=0.1)
    chances = logit.probabilities(matrix, starts, market_offset(pi, beta, starts))
    assert winner_loss(chances, share, starts).mean() < winner_loss(pi, share, starts).mean() - 0.03


def test_the_weights_do_not_depend_on_how_many_races_and_columns_are_summed_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix, starts, share = races(300, 8, (0.8, -0.5, 0.0, 0.3, -0.2))
    matrix[::3, 1] = np.nan
    matrix[:, 4] = 7.0
    names = (*NAMES, "d", "e")
    whole = fit_logit(matrix, starts, share, names)
    known = matrix[~np.isnan(matrix[:, 1]), 1]
    assert (whole.means[1], whole.scales[1]) == pytest.approx((known.mean(), known.std()), rel=1e-12)
    assert whole.scales[4] == 1.0
    for blocks in ((1, 2), (7, 3), (299, 5)):
        monkeypatch.setattr(ensemble, "RACES_A_BLOCK", blocks[0])
        monkeypatch.setattr(ensemble, "COLUMNS_A_BLOCK", blocks[1])
        assert fit_logit(matrix, starts, share, names).weights == pytest.approx(whole.weights, abs=1e-9)


def test_a_logit_survives_its_text_to_the_last_bit() -> None:
    matrix, starts, share = races(100, 6)
    logit = fit_logit(matrix, starts, share, NAMES)
    assert Logit.from_json(json.loads(json.dumps(logit.to_json()))) == logit
    assert fit_logit(matrix, starts, share, NAMES) == logit
    with pytest.raises(UserError, match="logit format is 7, but this version reads 1"):
        Logit.from_json(logit.to_json() | {"format": 7})
    with pytest.raises(UserError, match="5 races are too few to fit a logit"):
        fit_logit(matrix[: starts[5]], starts[:5], share[: starts[5]], NAMES)


# Placebos


def test_shuffled_winners_stay_in_their_race_and_teach_nothing() -> None:
    matrix, starts, share = races(1500, 7)
    shuffled = shuffled_winners(share, starts, 1)
    assert total(shuffled, starts).tolist() == total(share, starts).tolist()
    assert shuffled.tolist() == shuffled_winners(share, starts, 1).tolist()
    half = 750
    cut = starts[half]
    logit = fit_logit(matrix[:cut], starts[:half], shuffled[:cut], NAMES)
    loss = winner_loss(logit.probabilities(matrix[cut:], starts[half:] - cut), shuffled[cut:], starts[half:] - cut)
    uniform = np.log(np.diff(np.r_[starts[half:], share.size]))
    assert 1 - loss.sum() / uniform.sum() < 0.003
    places = np.flatnonzero(shuffled) - starts
    assert places.mean() == pytest.approx((np.diff(np.r_[starts, share.size]) / 2 - 0.5).mean(), abs=0.3)


def test_a_planted_leak_sets_off_the_alarm() -> None:
    matrix, starts, share = races(800, 8)
    leaked = np.c_[matrix, planted_leak(share, 2)]
    logit = fit_logit(leaked, starts, share, (*NAMES, "leak"), l2=1.0)
    seen = auc(logit.probabilities(leaked, starts), share)
    honest = auc(fit_logit(matrix, starts, share, NAMES).probabilities(matrix, starts), share)
    bound = next(alarm.above for alarm in ALARMS if alarm.name == "auc")
    assert seen is not None
    assert honest is not None
    assert honest < bound < seen
    assert math.isfinite(logit.log_loss)


def test_scores_are_the_same_to_the_bit_however_the_matrix_lies_in_memory_and_whoever_else_is_scored() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(90, 60))
    weights = tuple(rng.normal(size=60).tolist())
    names = tuple(f"f{n}" for n in range(60))
    logit = Logit(names, (0.0,) * 60, (1.0,) * 60, weights, 1.0, 1, 0.0)
    scores = logit.scores(matrix)
    np.testing.assert_array_equal(logit.scores(np.asfortranarray(matrix)), scores)
    np.testing.assert_array_equal(logit.scores(matrix[:, list(range(60))][7:20]), scores[7:20])
