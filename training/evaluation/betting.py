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
from velo.racing.staking import DEFAULT as STAKING
from velo.racing.staking import Staking, race_stakes
from velo.training.dataset.by_race import Floats, Indices

Wanted = NDArray[np.bool_]

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


def kelly_stakes(p: Floats, price: Floats, race: Indices, staking: Staking = STAKING) -> Floats:
    """Shares of the bank for bets on some runners, those of a race together; 0 where the race's other bets leave no gain.

    `race` is the race of each bet, in ascending order. `velo.racing.staking` says how.
    """
    stakes = np.zeros(p.size)
    wanted = edges(p, price) > 0.0
    for rows in np.split(np.arange(p.size), np.flatnonzero(np.diff(race)) + 1):
        if wanted[rows].any():
            stakes[rows] = race_stakes(p[rows].tolist(), price[rows].tolist(), staking)
    return stakes


@dataclass(frozen=True, slots=True)
class Bank:
    """The bank over the period, 1 at its start: its value after each race day, and its largest drawdown as a share."""

    after_day: Floats
    final: float
    drawdown: float


@dataclass(frozen=True, slots=True)
class StakedBets:
    """Bets in order of time: shares of the bank, decimal prices, shares of the win, the share of a pool paid out, race and race day from 0."""

    stakes: Floats
    price: Floats
    share: Floats
    payout: Floats
    race: Indices
    day: Indices


def compounded(bets: StakedBets, days: int, staking: Staking = STAKING) -> Bank:
    """A bank that stakes shares of what it held in the morning, race day by race day; a bet without a price is not made.

    Stakes of a day above the share that `staking` puts at risk are cut in proportion; then those below its minimum are not placed.
    """
    bank, path = 1.0, np.ones(days)
    ends = np.searchsorted(bets.day, np.arange(days), side="right")
    for at, (begin, end) in enumerate(zip(np.r_[0, ends[:-1]], ends, strict=True)) if days else ():
        rows = np.arange(begin, end)[~np.isnan(bets.price[begin:end])]
        shares = bets.stakes[rows]
        placed = shares * bank * min(1.0, staking.at_risk / max(float(shares.sum()), staking.at_risk))
        placed = np.where(placed >= staking.minimum, placed, 0.0)
        race = bets.race[rows] - bets.race[begin : begin + 1]
        price = bets.price[rows]
        if staking.pool is not None:
            price = moved(
                price, placed, np.bincount(race, placed)[race], bets.payout[rows] * staking.pool, staking.pool
            )
        profits = placed * (bets.share[rows] * price - 1.0)
        # losing every stake leaves exactly 0: rounding must not leave a debt
        bank = max(bank + float(after_commission(profits, race, staking.commission).sum()), 0.0)
        path[at] = bank
    peaks = np.maximum.accumulate(np.r_[1.0, path])[1:]
    falls = np.divide(peaks - path, peaks)
    return Bank(path, float(path[-1]) if days else 1.0, float(falls.max(initial=0.0)))


def moved(price: Floats, stake: Floats, of_race: Floats, paid_out: Floats, pool: float) -> Floats:
    """Decimal prices of a pari-mutuel pool once the own stakes have joined it.

    Before them the pool holds `pool` and pays `paid_out` of it, so at a price o the runner's backers hold paid_out ÷ o. `of_race` are
    all own stakes in the pool.
    """
    return np.asarray(price * (1.0 + of_race / pool) / (1.0 + stake * price / paid_out), dtype=np.float64)


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
