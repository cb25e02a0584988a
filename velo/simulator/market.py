"""Make starting prices from part of the true strengths and noise, with a margin, rounded to the ladder of real fractions."""

from dataclasses import dataclass

import numpy as np

from velo.simulator.race_day import Strengths
from velo.simulator.segments import Bools, Floats, Segments

# The fractional prices in use in Britain.
_FRACTIONS = """
    1/33 1/25 1/20 1/16 1/14 1/12 1/11 1/10 1/9 1/8 2/15 1/7 2/13 1/6 2/11 1/5 2/9 1/4 2/7 3/10 1/3 4/11 2/5 4/9
    1/2 8/15 4/7 8/13 4/6 8/11 4/5 5/6 10/11 1/1 11/10 6/5 5/4 11/8 6/4 13/8 7/4 15/8 2/1 85/40 9/4 95/40 5/2 11/4
    3/1 100/30 7/2 4/1 9/2 5/1 11/2 6/1 13/2 7/1 15/2 8/1 17/2 9/1 10/1 11/1 12/1 14/1 16/1 18/1 20/1 22/1 25/1
    28/1 33/1 40/1 50/1 66/1 80/1 100/1 125/1 150/1 200/1 250/1 300/1 400/1 500/1
"""
LADDER = np.array([1.0 + int(price.split("/")[0]) / int(price.split("/")[1]) for price in _FRACTIONS.split()])
"""Decimal odds of the ladder, ascending."""
_BETWEEN = np.sqrt(LADDER[1:] * LADDER[:-1])
_SHORTEST = 1.0 / LADDER[0]
_NOISE = 1.1


@dataclass(frozen=True)
class MarketCalibration:
    """The market's knowledge of its signal: sums over runners, within races, of truth × signal and of signal²."""

    truth_signal: float
    signal_squared: float

    @property
    def shrinkage(self) -> float:
        """The true strength per unit of signal; exactly 1 for a market with full knowledge."""
        return self.truth_signal / self.signal_squared


def first_calibration(knowledge: float) -> MarketCalibration:
    """The calibration on the first day: as after two hundred runners of typical races."""
    shared = 0.5 + 0.5 * knowledge
    return MarketCalibration(200.0 * shared, 200.0 * (0.5 + 0.5 * knowledge**2 + ((1 - knowledge) * _NOISE) ** 2))


def prices(
    rng: np.random.Generator, starters: Segments, strength: Strengths, knowledge: float, taught: MarketCalibration
) -> tuple[Floats, MarketCalibration]:
    """Starting prices (decimal) of the starters, and the calibration after this day.

    The signal is lasting ability, plus `knowledge` times the hidden part, plus (1 − `knowledge`) times noise, shrunk so that
    its odds are fair on average. The overround is 12 to 25 %, proportional, before rounding to the ladder.
    """
    truth = strength.total
    noise = rng.normal(0.0, _NOISE, len(truth))
    # At full knowledge the signal must equal the truth bit for bit; the general sum would round.
    signal = truth if knowledge == 1.0 else strength.ability + knowledge * strength.hidden + (1 - knowledge) * noise
    chance = starters.softmax(taught.shrinkage * signal)
    size = starters.sizes
    margin = 1.135 + 0.09 * np.clip((size - 4) / 14.0, 0.0, 1.0) + rng.uniform(-0.012, 0.012, len(size))
    backed = np.minimum(chance * margin[starters.race], _SHORTEST)
    # The margin that a near-certain winner cannot carry goes to its rivals.
    rest = backed < _SHORTEST
    others = starters.sums(np.where(rest, backed, 0.0))
    wanted = margin[starters.race] - starters.sums(np.where(rest, 0.0, backed))
    backed = np.where(rest, backed * wanted / np.where(others > 0.0, others, 1.0), backed)
    odds = LADDER[np.searchsorted(_BETWEEN, 1.0 / backed)]
    centred, centred_truth = signal - starters.means(signal), truth - starters.means(truth)
    return np.round(odds, 4), MarketCalibration(
        taught.truth_signal + float(centred_truth @ centred), taught.signal_squared + float(centred @ centred)
    )


def last_shows(rng: np.random.Generator, withdrawn: Bools) -> Floats:
    """The last odds of runners withdrawn after betting began; NaN for the others (most are withdrawn before)."""
    shown = rng.random(len(withdrawn)) < 0.25
    price = LADDER[np.searchsorted(_BETWEEN, np.exp(rng.normal(2.4, 0.8, len(withdrawn))) + 1.0)]
    return np.where(withdrawn & shown, np.round(price, 4), np.nan)
