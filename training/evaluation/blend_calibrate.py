"""Blend the model with the market and calibrate it, each tested fold on the out-of-fold predictions before it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from velo.training.dataset.by_race import Floats, Indices
from velo.training.evaluation.metrics import winner_loss
from velo.training.evaluation.walk_forward import OutOfFold
from velo.training.market.blending import (
    BENTER,
    MEAN,
    RESIDUAL,
    Blending,
    OutOfFoldPredictions,
    chances,
    learn,
    moving_blend,
)
from velo.training.market.market import LEAST_RACES, fit_blend, fit_market_exponent
from velo.training.model.fitting import has_market


@dataclass(frozen=True, slots=True)
class BlendChoice:
    """The blend chosen for a tested fold.

    `losses` is the mean winner log loss of each candidate in nats per race, over the past folds after the first and their
    `races`. It is None if there is only one past fold; the blend is then Benter's. `alpha` and `beta` are the exponents of
    Benter's blend, `market_beta` that of the market alone.
    """

    fold: str
    kind: str
    losses: dict[str, float] | None
    races: int
    alpha: float
    alpha_se: float | None
    beta: float
    market_beta: float


@dataclass(frozen=True)
class Combined:
    """Probabilities of every starter in the tested folds, NaN where a race has no market.

    `races` and `rows` mark the tested races and starters among the predictions; there is one of `fitted` and of `choices` per
    tested fold.
    """

    races: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    market: Floats
    calibrated: Floats
    blend_raw: Floats
    blend: Floats
    fitted: tuple[Blending, ...]
    choices: tuple[BlendChoice, ...]


@dataclass(frozen=True)
class PricedRaces:
    """Some predicted races with a market: their runners' chances of winning by `market` (π^β), `fundamental` and `blend`.

    `races` and `rows` mark them among the predictions, `starts` has the first of their runners, race by race.
    """

    races: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    starts: Indices
    win: Mapping[str, Floats]


def priced_before(
    out_of_fold: OutOfFold, sp_decimal: Floats, fitted: Blending, races: NDArray[np.bool_]
) -> PricedRaces:
    """The chances of those of `races` that have a market, blended and calibrated by `fitted`."""
    priced = races & has_market(out_of_fold.races)
    inside = _subset(out_of_fold, sp_decimal, priced)
    raw = chances(fitted.kind, inside, fitted.benter)
    win = {
        "market": fitted.market.probabilities(None, inside.pi, inside.starts),
        "fundamental": inside.f,
        "blend": fitted.curves[fitted.kind].probabilities(raw, inside.price, inside.starts),
    }
    return PricedRaces(priced, _rows(out_of_fold, priced), inside.starts, win)


def combine(out_of_fold: OutOfFold, sp_decimal: Floats) -> Combined:
    """Blend and calibrate every tested fold on the folds before it; `sp_decimal` has a price per predicted starter.

    Raises `UserError` if the past has too few races with a market.
    """
    market, calibrated, raw, blended = (np.full(out_of_fold.fundamental.size, np.nan) for _ in range(4))
    choices, blends = [], []
    for number in range(out_of_fold.past, len(out_of_fold.refits)):
        rows = _rows(out_of_fold, out_of_fold.fold == number)
        current = _subset(out_of_fold, sp_decimal, out_of_fold.fold == number)
        fitted = blending_of(out_of_fold, sp_decimal, number)
        blends.append(fitted)
        benter = fitted.benter
        blend_raw = chances(fitted.kind, current, benter, fitted.moving)
        market[rows] = fitted.market.probabilities(None, current.pi, current.starts)
        calibrated[rows] = fitted.own.probabilities(current.f, 1.0 / current.f, current.starts)
        raw[rows] = blend_raw
        blended[rows] = fitted.curves[fitted.kind].probabilities(blend_raw, current.price, current.starts)
        choices.append(
            BlendChoice(
                fold=out_of_fold.refits[number].name,
                kind=fitted.kind,
                losses=None if fitted.losses is None else dict(fitted.losses),
                races=fitted.compared,
                alpha=benter.alpha,
                alpha_se=benter.alpha_se,
                beta=benter.beta,
                market_beta=fitted.market.beta,
            )
        )
    races_tested = out_of_fold.fold >= out_of_fold.past
    rows = np.repeat(races_tested, out_of_fold.races.sizes)
    found = (market[rows], calibrated[rows], raw[rows], blended[rows])
    return Combined(races_tested, rows, *found, tuple(blends), tuple(choices))


def blending_of(out_of_fold: OutOfFold, sp_decimal: Floats, number: int | None = None) -> Blending:
    """Fit the blend on the folds before fold `number`; on all folds, as stored in a bundle, if it is None.

    Raises `UserError` if they have too few races with a market.
    """
    at = len(out_of_fold.refits) if number is None else number
    kind, losses, compared = _compared(out_of_fold, sp_decimal, at)
    earlier = out_of_fold.fold < at
    return learn(
        _subset(out_of_fold, sp_decimal, earlier),
        _subset(out_of_fold, sp_decimal, earlier & has_market(out_of_fold.races)),
        kind,
        losses,
        compared,
    )


def _compared(out_of_fold: OutOfFold, sp_decimal: Floats, number: int) -> tuple[str, dict[str, float] | None, int]:
    """Choose the blend over the folds before `number`, each predicted from the folds before it.

    Returns its kind, the mean loss of each kind, and the number of races compared.
    """
    earlier = _subset(out_of_fold, sp_decimal, out_of_fold.fold < number)
    # a model that cannot learn on the market has no residual in any fold
    on_market = not np.isnan(earlier.residual).all()
    kinds = [kind for kind in earlier.kinds if on_market or kind not in (RESIDUAL, MEAN)]
    losses: dict[str, list[Floats]] = {kind: [] for kind in kinds}
    gains: dict[str, list[Floats]] = {kind: [] for kind in kinds}
    has_price = has_market(out_of_fold.races)
    for at in range(1, number):
        past, tested = (
            _subset(out_of_fold, sp_decimal, races & has_price)
            for races in (out_of_fold.fold < at, out_of_fold.fold == at)
        )
        without = on_market and np.isnan(tested.residual).any()
        if tested.starts.size == 0 or past.starts.size < LEAST_RACES or without or len(kinds) == 1:
            continue
        market_only = fit_market_exponent(past.pi, past.starts, past.share)
        market = winner_loss(market_only.probabilities(None, tested.pi, tested.starts), tested.share, tested.starts)
        benter = fit_blend(past.f, past.pi, past.starts, past.share)
        moving = moving_blend(past)
        for kind in kinds:
            losses[kind].append(winner_loss(chances(kind, tested, benter, moving), tested.share, tested.starts))
            gains[kind].append(market - losses[kind][-1])
    if not losses[BENTER]:
        return BENTER, None, 0
    kind = surest({kind: np.concatenate(each) for kind, each in gains.items()})
    mean_losses = {kind: float(np.concatenate(each).mean()) for kind, each in losses.items()}
    return kind, mean_losses, sum(each.size for each in losses[BENTER])


def surest(gains: Mapping[str, Floats]) -> str:
    """The kind with the greatest mean gain per race minus its standard error; the first of equals.

    The standard error penalises a blend whose gain comes from a few races: the plain mean would choose at random between
    blends that differ by less than its error.
    """
    return max(gains, key=lambda kind: float(gains[kind].mean() - gains[kind].std() / np.sqrt(gains[kind].size)))


def _rows(out_of_fold: OutOfFold, races: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(np.repeat(races, out_of_fold.races.sizes), dtype=np.bool_)


def _subset(out_of_fold: OutOfFold, sp_decimal: Floats, races: NDArray[np.bool_]) -> OutOfFoldPredictions:
    rows = _rows(out_of_fold, races)
    chosen = out_of_fold.races.only(races)
    return OutOfFoldPredictions(
        starts=chosen.starts,
        f=out_of_fold.fundamental[rows],
        pi=chosen.pi,
        residual=out_of_fold.residual[rows],
        share=chosen.share,
        price=sp_decimal[rows],
        moves=chosen.moves,
        closing=chosen.closing,
    )
