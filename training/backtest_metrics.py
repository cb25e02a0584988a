"""What a period of bets says: A/E three ways, ROI before and after commission, drawdown, buckets, and whether p was true.

Every figure has its race-day interval and n. Rows are starters of whole races in order of time; a bet without a price counts
as unsettled and is in no figure.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.betting import (
    BUCKETS,
    STRATEGIES,
    Bank,
    Strategy,
    Wanted,
    bucket_of,
    chosen,
    compounded,
    drawdown,
    kelly_stakes,
)
from training.by_race import Floats, Indices, sizes_of, total
from training.devig import inverses
from training.reliability import equal_width
from training.settlement import COMMISSIONS, after_commission, unit_profits
from velo.resampling import Days, Figure

SMALLEST: Final = 1e-15


@dataclass(frozen=True)
class BacktestPeriod:
    """Starters of a period: model p, market π (NaN where a race has none), decimal prices, share of the win, races, days.

    `decided_at` are the prices when bets are chosen and staked, `settled_at` those they are paid at; NaN where missing.
    `clv` is each runner's closing-line value (`training.prices`), NaN or None where no price was told before the off.
    """

    p: Floats
    pi: Floats
    decided_at: Floats
    settled_at: Floats
    share: Floats
    starts: Indices
    days: Days
    clv: Floats | None = None

    def __post_init__(self) -> None:
        if np.any(np.diff(self.days.of) < 0):
            raise ValueError("the races of a season are not in order of their days: sort them first")

    @property
    def race(self) -> Indices:
        """The race of each row, from 0."""
        return np.repeat(np.arange(self.starts.size), sizes_of(self.starts, self.p.size))

    def only(self, races: NDArray[np.bool_]) -> "BacktestPeriod":
        """Some of its races, with draws of their own days alone."""
        sizes = sizes_of(self.starts, self.p.size)
        rows = np.repeat(races, sizes)
        starts = np.asarray(np.cumsum(np.r_[0, sizes[races]])[:-1], dtype=np.intp)
        days = Days.of_dates(self.days.of[rows], self.days.seed, self.days.resamples)
        prices = self.decided_at[rows], self.settled_at[rows]
        clv = None if self.clv is None else self.clv[rows]
        return BacktestPeriod(self.p[rows], self.pi[rows], *prices, self.share[rows], starts, days, clv)


@dataclass(frozen=True, slots=True)
class Bets:
    """What a strategy did. `n` of bets settled; `roi` by commission rate; `kelly` compounds from a bank of 1.

    A/E is Σ won ÷ Σ expected, with the model's p, the market's π and 1/SP (the settled price) as what was expected.
    `drawdown` is at level stakes, in units. `clv` is the mean closing-line value of the bets whose price was told before the
    off, `beat_close` the share of them that took a longer price than the last; neither where there are none.
    """

    strategy: str
    n: int
    unsettled: int
    wins: float
    ae_model: Figure
    ae_market: Figure
    ae_price: Figure
    roi: dict[float, Figure]
    profit: float
    drawdown: float
    kelly: Bank
    roi_kelly: Figure
    clv: Figure
    beat_close: Figure
    buckets: dict[str, "Bucket"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Bets of one price bucket."""

    n: int
    ae_model: Figure
    ae_market: Figure
    ae_price: Figure
    roi: Figure


@dataclass(frozen=True, slots=True)
class ProbabilityBand:
    """One of ten bands of p, of runners the model likes more (`above`) or no more than the market does."""

    above: bool
    low: float
    high: float
    said: Figure
    won: Figure
    market: Figure


def bets(season: BacktestPeriod, of: Strategy) -> Bets:
    """What a strategy would have done over the season."""
    return placed(season, of.name, chosen(of, season.p, season.decided_at))


def all_strategies(season: BacktestPeriod) -> tuple[Bets, ...]:
    """Every strategy of contract 9 over the season, on the same resamples."""
    return tuple(bets(season, of) for of in STRATEGIES)


def placed(season: BacktestPeriod, name: str, wanted: Wanted) -> Bets:
    """What one unit, and what fractional Kelly, on each of the wanted runners would have done."""
    profits = unit_profits(season.settled_at, season.share, np.ones(season.p.size, dtype=np.bool_))
    settled = wanted & ~np.isnan(profits)
    of = season.days.where(settled)
    profit, race = profits[settled], season.race[settled]
    stakes = kelly_stakes(season.p[settled], season.decided_at[settled])
    share = season.share[settled]
    bucket = bucket_of(season.settled_at)
    clv, beat_close = _closing_line(season, wanted)
    return Bets(
        strategy=name,
        n=int(settled.sum()),
        unsettled=int((wanted & ~settled).sum()),
        wins=float(share.sum()),
        ae_model=of.ratio(share, season.p[settled]),
        ae_market=_ae_market(season, settled),
        ae_price=of.ratio(share, inverses(season.settled_at[settled])),
        roi={rate: of.mean(after_commission(profit, race, rate)) for rate in COMMISSIONS},
        profit=float(profit.sum()),
        drawdown=drawdown(_by_race(profit, race)),
        kelly=compounded(stakes, profit, of.of, of.count),
        roi_kelly=of.ratio(stakes * profit, stakes, int((stakes > 0).sum())),
        clv=clv,
        beat_close=beat_close,
        buckets={named: _bucket(season, settled & (bucket == at), profits) for at, named in enumerate(BUCKETS)},
    )


def above_and_below(season: BacktestPeriod, bands: int = 10) -> tuple[ProbabilityBand, ...]:
    """Reliability in ten equal-width bands of p, parted by whether p is above π: where the bets are, is p true there?"""
    priced = ~np.isnan(season.pi)
    band = equal_width(season.p, bands)
    told = []
    for above in (True, False):
        side = priced & ((season.p > season.pi) == above)
        for at in range(bands):
            inside = side & (band == at)
            if inside.any():
                of = season.days.where(inside)
                said, won, market = (of.mean(values[inside]) for values in (season.p, season.share, season.pi))
                told.append(ProbabilityBand(above, at / bands, (at + 1) / bands, said, won, market))
    return tuple(told)


def delta_r2(model: Floats, market: Floats, season: BacktestPeriod) -> Figure:
    """R²(model) − R²(market) over the races where both are told, in the same resamples; n races.

    Both are probabilities of the runners. For the ΔR² of contract 9 `market` is π^β with β fitted out of fold.
    """
    losses = [winner_loss(chances, season.share, season.starts) for chances in (model, market)]
    uniform = np.log(sizes_of(season.starts, model.size).astype(np.float64))
    kept = ~np.isnan(losses[0] + losses[1])
    return _by_race_days(season).where(kept).ratio((losses[1] - losses[0])[kept], uniform[kept])


def r2(chances: Floats, season: BacktestPeriod) -> Figure:
    """1 − winner log loss ÷ log loss of 1/N, over the races where the chances are told; n races."""
    loss = winner_loss(chances, season.share, season.starts)
    uniform = np.log(sizes_of(season.starts, chances.size).astype(np.float64))
    kept = ~np.isnan(loss)
    return _by_race_days(season).where(kept).ratio((uniform - loss)[kept], uniform[kept])


def margin(model: Floats, market: Floats, season: BacktestPeriod) -> Figure:
    """The market's winner log loss less the model's, in nats a race: above 0 the model is better; n races."""
    gained = winner_loss(market, season.share, season.starts) - winner_loss(model, season.share, season.starts)
    kept = ~np.isnan(gained)
    return _by_race_days(season).where(kept).mean(gained[kept])


def winner_loss(chances: Floats, share: Floats, starts: Indices) -> Floats:
    """−ln p(winner) of each race, 1/m each in an m-way dead heat; NaN where the race has no chances."""
    return -total(share * np.log(np.maximum(chances, SMALLEST)), starts)


def top1(season: BacktestPeriod) -> Figure:
    """The share of races that their most likely runner won; ties count each of the tied equally; n races."""
    best = np.maximum.reduceat(season.p, season.starts)
    first = (season.p == best[season.race]).astype(np.float64)
    won = total(first * (season.share > 0), season.starts) / total(first, season.starts)
    return _by_race_days(season).mean(won)


def auc(p: Floats, share: Floats) -> float | None:
    """The chance that a winner was given more than a loser, over all runners, ties half; None without both kinds."""
    won = share > 0
    if won.all() or not won.any():
        return None
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    wins = int(won.sum())
    return float((ranks[won].sum() - wins * (wins + 1) / 2.0) / (wins * (p.size - wins)))


def _bucket(season: BacktestPeriod, inside: NDArray[np.bool_], profits: Floats) -> Bucket:
    of, share = season.days.where(inside), season.share[inside]
    return Bucket(
        n=int(inside.sum()),
        ae_model=of.ratio(share, season.p[inside]),
        ae_market=_ae_market(season, inside),
        ae_price=of.ratio(share, inverses(season.settled_at[inside])),
        roi=of.mean(profits[inside]),
    )


def _closing_line(season: BacktestPeriod, wanted: Wanted) -> tuple[Figure, Figure]:
    if season.clv is None:
        return Figure(None, None, None, 0), Figure(None, None, None, 0)
    told = wanted & ~np.isnan(season.clv)
    values = season.clv[told]
    days = season.days.where(told)
    return days.mean(values), days.mean((values > 0.0).astype(np.float64))


def _ae_market(season: BacktestPeriod, inside: NDArray[np.bool_]) -> Figure:
    told = inside & ~np.isnan(season.pi)
    return season.days.where(told).ratio(season.share[told], season.pi[told])


def _by_race(profit: Floats, race: Indices) -> Floats:
    # Bets of one race are settled together: no peak lies between them.
    return np.bincount(race, profit).astype(np.float64)


def _by_race_days(season: BacktestPeriod) -> Days:
    """The days of the races, under the draws of the runners' days."""
    first = np.zeros(season.p.size, dtype=np.bool_)
    first[season.starts] = True
    return season.days.where(first)
