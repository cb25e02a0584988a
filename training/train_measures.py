"""What each part of a model is worth over the test days, beside the market: one row a set of probabilities."""

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
"""The plain conditional logit: what the trees, and the average with them, must beat."""


@dataclass(frozen=True, slots=True)
class PartMeasured:
    """One set of probabilities over the tested races with a market: `calibration_error` has chance taken off.

    `delta_r2` is against π^β, the market sharpened out of fold, or π where too few races came before to fit a β.
    """

    name: str
    races: int
    r2: Figure
    delta_r2: Figure
    calibration_error: Figure
    slope: Figure


def bands_of(told: OutOfFold, sp_decimal: Floats, seed: int) -> dict[str, CalibrationInterval]:
    """How far the fundamental chances can be trusted, and those of the blend; without what too few races were predicted of."""
    dates = np.repeat(told.races.days, told.races.sizes)
    found = {OWN: fit_interval(told.fundamental, told.races.share, dates, seed)}
    try:
        combined = combine(told, sp_decimal)
    except UserError:
        pass
    else:
        blend = np.full(dates.size, np.nan)
        blend[combined.rows] = combined.blend
        known = np.isfinite(blend)
        found[BLEND] = fit_interval(blend[known], told.races.share[known], dates[known], seed)
    return {name: one for name, one in found.items() if one is not None}


def measured_parts(told: OutOfFold, sp_decimal: Floats, seed: int) -> tuple[PartMeasured, ...]:
    """The market, the plain logit, the trees, the fundamental model, its calibration and the blend; none without a market."""
    tested = (told.fold >= told.past) & has_market(told.races)
    if not tested.any():
        return ()
    races = told.races.only(tested)
    rows = np.repeat(tested, told.races.sizes)
    chances = {
        "market π": races.pi,
        BASELINE: told.logit[rows],
        **{name: probabilities[rows] for name, probabilities in told.parts.items()},
        "fundamental": told.fundamental[rows],
    }
    market = races.pi
    try:
        combined = combine(told, sp_decimal)
    except UserError:
        # Too few races before the test to learn a blend from: the parts are told without one.
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
            r2(said, season),
            delta_r2(said, market, season),
            mean_gap(said, races.share, days),
            slope(said, races.share, days),
        )
        for name, said in chances.items()
    )
