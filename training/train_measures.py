"""The quality of each part of a model and of the market over the test days, one row per set of probabilities."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from velo.errors import UserError
from velo.resampling import Days, Figure
from velo.training.backtest_metrics import BacktestPeriod, delta_r2, r2
from velo.training.blend_calibrate import combine
from velo.training.bundle import BLEND, OWN
from velo.training.by_race import Floats
from velo.training.calibration_intervals import CalibrationInterval, fit_interval
from velo.training.fitting import has_market
from velo.training.reliability import mean_gap, slope
from velo.training.walk_forward import OutOfFold

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


def bands_of(predicted: OutOfFold, sp_decimal: Floats, seed: int) -> dict[str, CalibrationInterval]:
    """The calibration intervals of the fundamental probabilities and of the blend; one with too few predicted races is left out."""
    dates = np.repeat(predicted.races.days, predicted.races.sizes)
    found = {OWN: fit_interval(predicted.fundamental, predicted.races.share, dates, seed)}
    try:
        combined = combine(predicted, sp_decimal)
    except UserError:
        pass
    else:
        blend = np.full(dates.size, np.nan)
        blend[combined.rows] = combined.blend
        known = np.isfinite(blend)
        found[BLEND] = fit_interval(blend[known], predicted.races.share[known], dates[known], seed)
    return {name: interval for name, interval in found.items() if interval is not None}


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
