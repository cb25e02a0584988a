"""Which runners to bet on, how much, and what it pays: strategies by percentile, Kelly stakes, settlement (contract 9).

A strategy's percentiles are of the whole period it is tested on: no outcome is looked at, but the cut is one that only the end
of the period knows. Stakes are decided at the price known at decision time, SP where there is none. Bets are settled at SP on the
weighed-in result, so that no withdrawal reduces them; `velo.racing.settlement` settles one bet by the same rules.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.racing.settlement import KELLY_CAP, KELLY_FRACTION
from velo.training.dataset.by_race import Floats, Indices

Wanted = NDArray[np.bool_]

MOST_AT_RISK: Final = 1.0
"""The largest share of the bank on all bets of one race day, which are staked before their results."""
PRICE_EDGES: Final = (5.0, 8.0, 15.0, 21.0)
"""Upper ends of the price buckets of contract 9, each included in its bucket; one more bucket is above the last."""
BUCKETS: Final = ("1–5", "5–8", "8–15", "15–21", "> 21")
"""The names of the price buckets."""


class By(Enum):
    """The value that a strategy ranks runners by."""

    P = "p"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Strategy:
    """Bet on the best share of the period's runners by p or by edge; `share` 1 is all of them."""

    name: str
    by: By
    share: float


STRATEGIES: Final = tuple(
    Strategy(f"{name} by {by.value}", by, share)
    for by in By
    for name, share in (("TOP10", 0.1), ("TOP20", 0.2), ("TOP30", 0.3), ("ALL", 1.0))
)
DEFAULT: Final = "TOP20 by edge"


def strategy(name: str) -> Strategy:
    """The strategy of a name; raises `UserError` for an unknown one."""
    for known in STRATEGIES:
        if known.name == name:
            return known
    raise UserError(f"{name!r} is not a strategy: choose one of {', '.join(known.name for known in STRATEGIES)}")


def edges(p: Floats, price: Floats) -> Floats:
    """p · price − 1, the expected profit of one unit if p is true; NaN without a price."""
    known = np.isfinite(price) & (price > 1.0)
    return np.where(known, p * np.where(known, price, 1.0) - 1.0, np.nan)


def cut_of(of: Strategy, p: Floats, price: Floats) -> float | None:
    """The lowest p or edge that a strategy bets on; None if it bets on no runner."""
    score = p if of.by is By.P else edges(p, price)
    rankable = np.flatnonzero(~np.isnan(score))
    count = round(of.share * rankable.size)
    return float(np.partition(score[rankable], rankable.size - count)[rankable.size - count]) if count else None


def chosen(of: Strategy, p: Floats, price: Floats) -> Wanted:
    """The runners a strategy bets on, (runners,): the best share of those that can be ranked, with all ties at the cut."""
    cut = cut_of(of, p, price)
    if cut is None:
        return np.zeros(p.size, dtype=np.bool_)
    # a comparison with NaN is false, so a runner that cannot be ranked is not bet on
    return np.asarray((p if of.by is By.P else edges(p, price)) >= cut, dtype=np.bool_)


def bucket_of(price: Floats) -> Indices:
    """The price bucket of each runner, an index of `BUCKETS`; −1 for a price that is missing or ≤ 1."""
    band = np.searchsorted(np.asarray(PRICE_EDGES), price, side="left")
    return np.where(np.isfinite(price) & (price > 1.0), band, -1).astype(np.intp)


def kelly_stakes(p: Floats, price: Floats, fraction: float = KELLY_FRACTION, cap: float = KELLY_CAP) -> Floats:
    """Shares of the bank by fractional Kelly, fraction · (p · price − 1) ÷ (price − 1), at most `cap`; 0 without an edge.

    Each runner is staked as if it were the only bet; the cap alone limits the rivals of one race.
    """
    for name, value in (("fraction", fraction), ("cap", cap)):
        if not 0.0 < value <= 1.0:
            raise UserError(f"the Kelly {name} must be above 0 and at most 1, got {value!r}")
    edge = edges(p, price)
    wanted = edge > 0.0
    stakes = np.zeros(p.size)
    stakes[wanted] = np.minimum(fraction * edge[wanted] / (price[wanted] - 1.0), cap)
    return stakes


@dataclass(frozen=True, slots=True)
class Bank:
    """The bank over the period, 1 at its start: its value after each race day, and its largest drawdown as a share."""

    after_day: Floats
    final: float
    drawdown: float


def compounded(stakes: Floats, unit_profit: Floats, day: Indices, days: int) -> Bank:
    """A bank that stakes shares of what it held in the morning, race day by race day; unsettled bets (NaN) are not made.

    Stakes of a day above `MOST_AT_RISK` together are cut in proportion. `day` is each bet's, from 0 in order of time.
    """
    settled = ~np.isnan(unit_profit)
    at_risk = np.bincount(day[settled], stakes[settled], minlength=days)
    won = np.bincount(day[settled], (stakes * unit_profit)[settled], minlength=days)
    scale = np.divide(MOST_AT_RISK, at_risk, out=np.ones(days), where=at_risk > MOST_AT_RISK)
    # losing every stake leaves exactly 0: rounding must not leave a debt
    path = np.cumprod(np.maximum(1.0 + won * scale, 0.0))
    peaks = np.maximum.accumulate(np.r_[1.0, path])[1:]
    falls = np.divide(peaks - path, peaks)
    return Bank(path, float(path[-1]) if days else 1.0, float(falls.max(initial=0.0)))


def drawdown(profits: Floats) -> float:
    """The largest fall of the running total from its peak, in units staked; profits are in order of time."""
    path = np.cumsum(profits)
    return float((np.maximum.accumulate(np.r_[0.0, path])[1:] - path).max(initial=0.0))


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
        raise UserError(
            f"a commission of {rate!r} must be a share of winnings: give one from 0 to below 1, such as 0.02"
        )
    net = np.maximum(np.bincount(market, profits), 0.0)
    gross = np.bincount(market, np.maximum(profits, 0.0))
    charged = np.divide(rate * net, gross, out=np.zeros_like(net), where=gross > 0)
    return np.asarray(profits - np.maximum(profits, 0.0) * charged[market], dtype=np.float64)
