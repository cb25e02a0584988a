"""Measure a period of bets: A/E by three expectations, ROI before and after commission, drawdown, price buckets, calibration.

Every figure has an interval over race days and its n. Rows are starters of whole races in order of time. A bet without a
price counts as unsettled and enters no figure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from velo.racing.staking import DEFAULT as STAKING
from velo.racing.staking import Staking
from velo.resampling import Days, Figure
from velo.training.dataset.by_race import Floats, Indices, sizes_of, total
from velo.training.evaluation.betting import (
    BUCKETS,
    COMMISSIONS,
    STRATEGIES,
    Bank,
    StakedBets,
    Strategy,
    Wanted,
    after_commission,
    bucket_of,
    chosen,
    compounded,
    drawdown,
    kelly_stakes,
    unit_profits,
)
from velo.training.evaluation.reliability import equal_width
from velo.training.market.market import SMALLEST, inverses


@dataclass(frozen=True)
class BacktestPeriod:
    """Starters of a period: model p, market π (NaN where a race has none), decimal prices, share of the win, races, days.

    `decided_at` are the prices when bets are chosen and staked, `settled_at` those they are paid at; NaN where missing.
    `clv` is each runner's closing-line value (`velo.training.dataset.entity_rows`), NaN or None without a price before the off;
    `fair_clv` is the same without the margins of both markets, NaN unless every starter of the race has both prices.
    """

    p: Floats
    pi: Floats
    decided_at: Floats
    settled_at: Floats
    share: Floats
    starts: Indices
    days: Days
    clv: Floats | None = None
    fair_clv: Floats | None = None

    def __post_init__(self) -> None:
        if np.any(np.diff(self.days.of) < 0):
            raise ValueError("races are not in order of their days: sort them first")

    @property
    def race(self) -> Indices:
        """The race of each row, from 0."""
        return np.repeat(np.arange(self.starts.size), sizes_of(self.starts, self.p.size))

    def only(self, races: NDArray[np.bool_]) -> "BacktestPeriod":
        """The period with only some of its races, resampling only their days."""
        sizes = sizes_of(self.starts, self.p.size)
        rows = np.repeat(races, sizes)
        starts = np.asarray(np.cumsum(np.r_[0, sizes[races]])[:-1], dtype=np.intp)
        days = Days.of_dates(self.days.of[rows], self.days.seed, self.days.resamples)
        prices = self.decided_at[rows], self.settled_at[rows]
        clv, fair_clv = (None if values is None else values[rows] for values in (self.clv, self.fair_clv))
        return BacktestPeriod(self.p[rows], self.pi[rows], *prices, self.share[rows], starts, days, clv, fair_clv)


@dataclass(frozen=True, slots=True)
class Bets:
    """The outcome of a strategy: `n` settled bets, `roi` by commission rate, `kelly` compounded from a bank of 1.

    A/E is Σ won ÷ Σ expected, where the expectation is the model's p, the market's π or 1/SP (the settled price).
    `drawdown` is at level stakes, in units. `clv` is the mean closing-line value of the bets with a price before the off;
    `beat_close` is the share of them at a longer price than the last. Both are None without such bets. `fair_clv` is the mean
    closing-line value without the margins of both markets.
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
    fair_clv: Figure
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
    """One of ten bands of p, for the runners with p above π (`above`) or not above it."""

    above: bool
    low: float
    high: float
    said: Figure
    won: Figure
    market: Figure


def bets(season: BacktestPeriod, of: Strategy, staking: Staking = STAKING) -> Bets:
    """The bets of a strategy over the period."""
    return placed(season, of.name, chosen(of, season.p, season.decided_at), staking)


def all_strategies(season: BacktestPeriod, staking: Staking = STAKING) -> tuple[Bets, ...]:
    """The bets of every strategy of contract 9, on the same resamples."""
    return tuple(bets(season, of, staking) for of in STRATEGIES)


def placed(season: BacktestPeriod, name: str, wanted: Wanted, staking: Staking = STAKING) -> Bets:
    """The outcome of bets on the wanted runners, at one unit each and by Kelly over the wanted runners of each race."""
    profits = unit_profits(season.settled_at, season.share, np.ones(season.p.size, dtype=np.bool_))
    settled = wanted & ~np.isnan(profits)
    of = season.days.where(settled)
    profit, race = profits[settled], season.race[settled]
    share = season.share[settled]
    stakes = kelly_stakes(season.p[settled], season.decided_at[settled], race, staking)
    book = total(np.nan_to_num(inverses(season.settled_at)), season.starts)
    payout = np.divide(1.0, book, out=np.ones(book.size), where=book > 0.0)[race]
    staked = StakedBets(stakes, season.settled_at[settled], share, payout, race, of.of)
    bucket = bucket_of(season.settled_at)
    clv, beat_close = _closing_line(season, season.clv, wanted)
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
        kelly=compounded(staked, of.count, staking),
        roi_kelly=of.ratio(stakes * profit, stakes, int((stakes > 0).sum())),
        clv=clv,
        beat_close=beat_close,
        fair_clv=_closing_line(season, season.fair_clv, wanted)[0],
        buckets={named: _bucket(season, settled & (bucket == at), profits) for at, named in enumerate(BUCKETS)},
    )


def above_and_below(season: BacktestPeriod, bands: int = 10) -> tuple[ProbabilityBand, ...]:
    """Reliability in ten equal-width bands of p, split by whether p is above π, since bets are made where it is."""
    priced = ~np.isnan(season.pi)
    band = equal_width(season.p, bands)
    reported = []
    for above in (True, False):
        side = priced & ((season.p > season.pi) == above)
        for at in range(bands):
            inside = side & (band == at)
            if inside.any():
                of = season.days.where(inside)
                p, won, market = (of.mean(values[inside]) for values in (season.p, season.share, season.pi))
                reported.append(ProbabilityBand(above, at / bands, (at + 1) / bands, p, won, market))
    return tuple(reported)


def delta_r2(model: Floats, market: Floats, season: BacktestPeriod) -> Figure:
    """R²(model) − R²(market) over the races that have both, on the same resamples; n counts races.

    Both are probabilities of the runners. For the ΔR² of contract 9 `market` is π^β with β fitted out of fold.
    """
    losses = [winner_loss(chances, season.share, season.starts) for chances in (model, market)]
    uniform = np.log(sizes_of(season.starts, model.size).astype(np.float64))
    kept = ~np.isnan(losses[0] + losses[1])
    return _by_race_days(season).where(kept).ratio((losses[1] - losses[0])[kept], uniform[kept])


def r2(chances: Floats, season: BacktestPeriod) -> Figure:
    """1 − winner log loss ÷ log loss of 1/N, over the races that have probabilities; n counts races."""
    loss = winner_loss(chances, season.share, season.starts)
    uniform = np.log(sizes_of(season.starts, chances.size).astype(np.float64))
    kept = ~np.isnan(loss)
    return _by_race_days(season).where(kept).ratio((uniform - loss)[kept], uniform[kept])


def margin(model: Floats, market: Floats, season: BacktestPeriod) -> Figure:
    """The market's winner log loss minus the model's, in nats per race; positive if the model is better; n counts races."""
    gained = winner_loss(market, season.share, season.starts) - winner_loss(model, season.share, season.starts)
    kept = ~np.isnan(gained)
    return _by_race_days(season).where(kept).mean(gained[kept])


def winner_loss(chances: Floats, share: Floats, starts: Indices) -> Floats:
    """−ln p(winner) of each race, 1/m each in an m-way dead heat; NaN if the race has no probabilities."""
    return -total(share * np.log(np.maximum(chances, SMALLEST)), starts)


def top1(season: BacktestPeriod) -> Figure:
    """The share of races won by the runner with the highest p; tied runners share equally; n counts races."""
    return _by_race_days(season).mean(first_choice_won(season.p, season.share, season.starts))


def first_choice_won(p: Floats, share: Floats, starts: Indices) -> Floats:
    """Whether the runner with the highest p won, by race; tied runners share equally."""
    best = np.repeat(np.maximum.reduceat(p, starts), sizes_of(starts, p.size))
    first = (p == best).astype(np.float64)
    return total(first * (share > 0), starts) / total(first, starts)


def auc(p: Floats, share: Floats) -> float | None:
    """The probability that a winner has a higher p than a loser, ties counted half; None without winners or losers."""
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


def _closing_line(season: BacktestPeriod, clv: Floats | None, wanted: Wanted) -> tuple[Figure, Figure]:
    """The mean closing-line value of the wanted runners, and the share of them above 0."""
    if clv is None:
        return Figure(None, None, None, 0), Figure(None, None, None, 0)
    known = wanted & ~np.isnan(clv)
    values = clv[known]
    days = season.days.where(known)
    return days.mean(values), days.mean((values > 0.0).astype(np.float64))


def _ae_market(season: BacktestPeriod, inside: NDArray[np.bool_]) -> Figure:
    known = inside & ~np.isnan(season.pi)
    return season.days.where(known).ratio(season.share[known], season.pi[known])


def _by_race(profit: Floats, race: Indices) -> Floats:
    # bets of one race settle together: no peak is between them
    return np.bincount(race, profit).astype(np.float64)


def _by_race_days(season: BacktestPeriod) -> Days:
    """The days of the races, under the draws of the runners' days."""
    first = np.zeros(season.p.size, dtype=np.bool_)
    first[season.starts] = True
    return season.days.where(first)
