"""Settling whole periods at once: the vectorised twin of `velo.racing.settlement`, which settles one bet in words.

Bets of a backtest are settled at SP on the weighed-in result, so that no withdrawal reduces them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.training.by_race import Floats

COMMISSIONS: Final = (0.0, 0.02, 0.05)


def unit_profits(price: Floats, win_share: Floats, started: NDArray[np.bool_]) -> Floats:
    """Profit of one unit on each runner at a settled price, all at once: `settle`'s twin for a whole period.

    `win_share` is 1/m for each of m that won, else 0. A runner that did not start gives 0, one without a price NaN.
    """
    known = np.isfinite(price) & (price > 1.0)
    paid = np.where(known, win_share * np.where(known, price, 1.0) - 1.0, np.nan)
    return np.where(started, paid, 0.0)


def after_commission(profits: Floats, market: NDArray[np.intp], rate: float) -> Floats:
    """Profits less an exchange's commission, which is taken of the net winnings on a market (a race), never of a loss.

    `market` is the race of each bet, from 0. A race's commission falls on its winning bets in proportion to what they won.
    """
    if not 0.0 <= rate < 1.0:
        raise UserError(f"a commission of {rate!r} is no share of winnings: give one from 0 to below 1, such as 0.02")
    net = np.maximum(np.bincount(market, profits), 0.0)
    gross = np.bincount(market, np.maximum(profits, 0.0))
    charged = np.divide(rate * net, gross, out=np.zeros_like(net), where=gross > 0)
    return np.asarray(profits - np.maximum(profits, 0.0) * charged[market], dtype=np.float64)
