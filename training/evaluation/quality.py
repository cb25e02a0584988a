"""The quality of a model beside the market: winner log loss, R² against 1/N, top-1, and each part of the model (contract 9).

Intervals are 95 %, from a bootstrap of whole race days: races of a day share their going, their draw and their luck.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from velo.errors import UserError
from velo.resampling import Days, Figure
from velo.training.bundle import BLEND, OWN
from velo.training.dataset.by_race import Floats, total
from velo.training.dataset.races import Races
from velo.training.evaluation.blend_calibrate import combine
from velo.training.evaluation.metrics import BacktestPeriod, delta_r2, first_choice_won, r2, winner_loss
from velo.training.evaluation.reliability import mean_gap, slope
from velo.training.evaluation.walk_forward import OutOfFold
from velo.training.market.calibration import CalibrationInterval, fit_interval
from velo.training.market.places import LEAST_RACES, FinishOrder, fit_finish_order
from velo.training.model.fitting import has_market


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of probabilities over some races: log losses in nats per race, `top1` the share of races that the first choice won."""

    log_loss: float
    log_loss_uniform: float
    r2: Figure
    top1: Figure


@dataclass(frozen=True, slots=True)
class ModelQuality:
    """A model on some races. `model` covers all of them; the rest cover the `priced_races`, where each starter has a price.

    `margin` is the market's log loss less the model's, in nats per race: above 0 the model is better.
    """

    races: int
    runners: int
    race_days: int
    first_day: str
    last_day: str
    model: Quality
    priced_races: int
    model_where_priced: Quality | None
    market: Quality | None
    margin: Figure | None


def measure(chances: Floats, races: Races, seed: int) -> ModelQuality:
    """The quality of a model's probabilities over the starters of some races."""
    wanted = has_market(races)
    priced, where = races.only(wanted), np.repeat(wanted, races.sizes)
    own, market, margin = None, None, None
    if priced.count:
        own, market = _quality(chances[where], priced, seed), _quality(priced.pi, priced, seed)
        gained = _loss(priced.pi, priced) - _loss(chances[where], priced)
        margin = Days.of_dates(priced.days, seed).mean(gained)
    return ModelQuality(
        races=races.count,
        runners=races.rows.size,
        race_days=int(np.unique(races.days).size),
        first_day=str(races.days.min()),
        last_day=str(races.days.max()),
        model=_quality(chances, races, seed),
        priced_races=priced.count,
        model_where_priced=own,
        market=market,
        margin=margin,
    )


def _quality(chances: Floats, races: Races, seed: int) -> Quality:
    loss, uniform = _loss(chances, races), np.log(races.sizes.astype(np.float64))
    days = Days.of_dates(races.days, seed)
    return Quality(
        log_loss=float(loss.mean()),
        log_loss_uniform=float(uniform.mean()),
        r2=days.ratio(uniform - loss, uniform),
        top1=days.mean(first_choice_won(chances, races.share, races.starts)),
    )


def _loss(chances: Floats, races: Races) -> Floats:
    return winner_loss(chances, races.share, races.starts)


BASELINE: Final = "logit"
"""The plain conditional logit, which every model must beat."""


@dataclass(frozen=True, slots=True)
class PartMeasured:
    """One set of probabilities over the tested races with a market; `calibration_error` is debiased.

    `delta_r2` is against π^β, the market sharpened out of fold, or against π if too few earlier races could fit a β.
    """

    name: str
    races: int
    r2: Figure
    delta_r2: Figure
    calibration_error: Figure
    slope: Figure


def _blend(predicted: OutOfFold, sp_decimal: Floats) -> Floats | None:
    """The blend of each predicted starter, NaN without a market; None if too few races could fit one."""
    try:
        combined = combine(predicted, sp_decimal)
    except UserError:
        return None
    blend = np.full(sp_decimal.size, np.nan)
    blend[combined.rows] = combined.blend
    return blend


def bands_of(predicted: OutOfFold, sp_decimal: Floats, seed: int) -> dict[str, CalibrationInterval]:
    """The calibration intervals of the fundamental probabilities and of the blend; one with too few predicted races is left out."""
    dates = np.repeat(predicted.races.days, predicted.races.sizes)
    found = {OWN: fit_interval(predicted.fundamental, predicted.races.share, dates, seed)}
    blend = _blend(predicted, sp_decimal)
    if blend is not None:
        known = np.isfinite(blend)
        found[BLEND] = fit_interval(blend[known], predicted.races.share[known], dates[known], seed)
    return {name: interval for name, interval in found.items() if interval is not None}


def orders_of(predicted: OutOfFold, sp_decimal: Floats, position: Floats) -> dict[str, FinishOrder]:
    """The orders of finish of the fundamental probabilities and of the blend, fitted on out-of-fold predictions.

    `position` has the place of every predicted starter, NaN without one. A blend of too few races is left out: it takes the order
    of the fundamental probabilities.
    """
    found = {OWN: fit_finish_order(predicted.fundamental, predicted.races.starts, position)}
    blend = _blend(predicted, sp_decimal)
    if blend is None:
        return found
    priced = np.isfinite(total(blend, predicted.races.starts))
    rows = np.repeat(priced, predicted.races.sizes)
    if priced.sum() >= LEAST_RACES:
        found[BLEND] = fit_finish_order(blend[rows], predicted.races.only(priced).starts, position[rows])
    return found


def measured_parts(predicted: OutOfFold, sp_decimal: Floats, seed: int) -> tuple[PartMeasured, ...]:
    """The market, the plain logit, the parts of the model, the model, its calibration and the blend; empty without a market."""
    tested = (predicted.fold >= predicted.past) & has_market(predicted.races)
    if not tested.any():
        return ()
    races = predicted.races.only(tested)
    rows = np.repeat(tested, predicted.races.sizes)
    chances = {
        "market π": races.pi,
        BASELINE: predicted.logit[rows],
        **{name: probabilities[rows] for name, probabilities in predicted.parts.items()},
        "fundamental": predicted.fundamental[rows],
    }
    market = races.pi
    try:
        combined = combine(predicted, sp_decimal)
    except UserError:
        # too few races before the test days to fit a blend: the parts are measured without one
        pass
    else:
        inside = rows[combined.rows]
        market = combined.market[inside]
        chances |= {
            "market π^β": market,
            "calibrated": combined.calibrated[inside],
            "blend": combined.blend[inside],
        }
    days = Days.of_dates(np.repeat(races.days, races.sizes), seed)
    prices = sp_decimal[rows]
    season = BacktestPeriod(chances["fundamental"], races.pi, prices, prices, races.share, races.starts, days)
    return tuple(
        PartMeasured(
            name,
            races.count,
            r2(p, season),
            delta_r2(p, market, season),
            mean_gap(p, races.share, days),
            slope(p, races.share, days),
        )
        for name, p in chances.items()
    )
