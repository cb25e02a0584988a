"""How often a gate is passed by luck: the season's winners drawn again and again from what is assumed true.

Under "no edge" the winner of each race is drawn from the market's own π: bets, prices and the model's p stay what they
were, and no model can be better than the truth. Drawn from p instead, the same simulation tells the gate's power.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.backtest_metrics import BacktestPeriod
from training.betting import Wanted
from training.by_race import Floats, Indices, sizes_of, total
from training.devig import inverses
from training.gate import CRITERIA, Criterion
from training.reliability import equal_mass

SIMULATIONS: Final = 2000
NORMAL_95: Final = 1.959963984540054
_AT_ONCE: Final = 2_000_000
"""Drawn winners held in memory together."""
_EDGE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class PassChance:
    """Shares of simulated seasons that pass: `by_interval` as the gate judges, `by_value` were the value alone judged.

    `each` is the share that passes each criterion by its interval. `races` had a market and took part.
    """

    by_interval: float
    by_value: float
    each: dict[str, float]
    seasons: int
    races: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A criterion's value and the half-width of its 95 % interval, in each simulated season."""

    value: Floats
    half: Floats


def luck(season: BacktestPeriod, wanted: Sequence[Wanted], seed: int, seasons: int = SIMULATIONS) -> list[float | None]:
    """P(a gain this large | no edge) of each set of bets at level stakes: None for bets that gained nothing.

    Winners are drawn anew from the market's own π, over the races that have one; bets and prices stay what they were. The
    share is of the seasons drawn and the one that was, so it is never 0.
    """
    known = ~np.isnan(total(season.pi, season.starts))
    rows = np.repeat(known, sizes_of(season.starts, season.p.size)) & np.isfinite(season.settled_at)
    # what each runner's win pays on each set of bets
    paid = [np.where(one & rows, season.settled_at, 0.0) for one in wanted]
    was = [float((pays * season.share).sum()) for pays in paid]
    as_large = np.zeros(len(paid), dtype=np.int64)
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(int(known.sum()), 1))
    for begin in range(0, seasons, at_once):
        won = winners(season.pi, season.starts, known, rng, min(at_once, seasons - begin))
        as_large += [
            np.count_nonzero(pays[won].sum(axis=1) >= gain - _EDGE) for pays, gain in zip(paid, was, strict=True)
        ]
    return [
        float((count + 1) / (seasons + 1)) if gain > np.count_nonzero(pays) else None
        for count, gain, pays in zip(as_large.tolist(), was, paid, strict=True)
    ]


def pass_chance(
    season: BacktestPeriod,
    wanted: Wanted,
    market: Floats,
    truth: Floats,
    seed: int,
    seasons: int = SIMULATIONS,
    criteria: Sequence[Criterion] = CRITERIA,
) -> PassChance:
    """P(pass) of one window were `truth` true: π for no edge, p for a true model. `wanted` are the runners bet on.

    `market` is what the margin is measured against (π^β). Races where `truth` or `market` is missing take no part.
    Criteria that are no matter of chance (`counted`) are taken as passed. Intervals are linearised over race days, as wide
    as the gate's own but for their skew; that of the calibration error is its spread over the seasons.
    """
    known = ~np.isnan(total(truth + market, season.starts))
    if not known.any():
        return PassChance(float("nan"), float("nan"), {}, seasons, 0)
    draws = _draw(season, wanted, market, truth, known, seed, seasons)
    passed_interval, passed_value = np.ones(seasons, dtype=np.bool_), np.ones(seasons, dtype=np.bool_)
    each = {}
    for criterion in criteria:
        if criterion.counted:
            continue
        drawn = draws[criterion.name]
        inside = _good(criterion, drawn.value - drawn.half, drawn.value + drawn.half)
        each[criterion.name] = float(inside.mean())
        passed_interval &= inside
        passed_value &= _good(criterion, drawn.value, drawn.value)
    return PassChance(float(passed_interval.mean()), float(passed_value.mean()), each, seasons, int(known.sum()))


def _good(criterion: Criterion, low: Floats, high: Floats) -> NDArray[np.bool_]:
    good = np.isfinite(low) & np.isfinite(high)
    if criterion.low is not None:
        good &= low > criterion.low if criterion.strictly else low >= criterion.low
    if criterion.high is not None:
        good &= high < criterion.high if criterion.strictly else high <= criterion.high
    return good


def winners(
    truth: Floats, starts: Indices, known: NDArray[np.bool_], rng: np.random.Generator, seasons: int
) -> Indices:
    """The row of each known race's winner in each simulated season, (seasons, races), drawn by `truth`."""
    sizes = sizes_of(starts, truth.size)
    race = np.repeat(np.arange(starts.size), sizes)
    within = np.where(np.repeat(known, sizes), truth, 1.0)
    running = np.cumsum(within)
    before = running[starts] - within[starts]
    # Each race lies on a line of its own, from its number to the next: one search finds all winners.
    line = race + np.minimum((running - before[race]) / total(within, starts)[race], 1.0)
    line[np.r_[starts[1:], truth.size] - 1] = np.arange(starts.size) + 1.0
    numbers = np.flatnonzero(known)
    drawn = numbers + rng.random((seasons, numbers.size))
    found = np.searchsorted(line, drawn, side="right")
    return np.asarray(np.minimum(found, (starts + sizes - 1)[numbers]), dtype=np.intp)


def _draw(
    season: BacktestPeriod,
    wanted: Wanted,
    market: Floats,
    truth: Floats,
    known: NDArray[np.bool_],
    seed: int,
    seasons: int,
) -> dict[str, Drawn]:
    """The chance criteria of contract 9 in every simulated season."""
    of = _Fixed(season, wanted, market, truth, known)
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Drawn]] = {}
    at_once = max(1, _AT_ONCE // int(known.sum()))
    for begin in range(0, seasons, at_once):
        won = winners(truth, season.starts, known, rng, min(at_once, seasons - begin))
        for name, drawn in of.criteria(won).items():
            parts.setdefault(name, []).append(drawn)
    joined = {
        name: Drawn(np.concatenate([part.value for part in some]), np.concatenate([part.half for part in some]))
        for name, some in parts.items()
    }
    error = joined["calibration_error"].value
    joined["calibration_error"] = Drawn(error, np.full(error.size, NORMAL_95 * float(error.std())))
    return joined


class _Fixed:
    """What of a season is the same whoever wins, laid out so that a simulated season is a few look-ups and sums."""

    def __init__(
        self, season: BacktestPeriod, wanted: Wanted, market: Floats, truth: Floats, known: NDArray[np.bool_]
    ) -> None:
        rows = np.repeat(known, sizes_of(season.starts, season.p.size))
        inverse = inverses(season.settled_at)
        self.rows = rows
        bet = wanted & rows & ~np.isnan(inverse)
        p = np.clip(season.p, _EDGE, 1.0 - _EDGE)
        self.day = season.days.of[season.starts[known]]
        # Races of a day lie together: the order of time is the order of the rows.
        self.day_starts = np.flatnonzero(np.r_[True, np.diff(self.day) != 0])
        self.bet = bet.astype(np.float64)
        self.paid = np.where(bet, season.settled_at, 0.0)
        self.expected = self._by_day(np.where(bet, inverse, 0.0), season, known)
        self.staked = self._by_day(self.bet, season, known)
        self.gained = np.log(p) - np.log(np.clip(market, _EDGE, 1.0))
        self.logit = np.log(p) - np.log1p(-p)
        self.slope, said, information = _expected_slope(self.logit[rows], truth[rows])
        expected = np.zeros(season.p.size)
        expected[rows] = said
        self.said = self._by_day(expected, season, known)
        self.said_logit = self._by_day(expected * np.where(rows, self.logit, 0.0), season, known)
        self.to_slope = np.linalg.pinv(information)[1]
        self.races = self._days(np.ones((1, self.day.size)))[0]
        bins = equal_mass(season.p[rows])
        self.bin = np.zeros(season.p.size, dtype=np.intp)
        self.bin[rows] = bins
        self.bins = int(bins.max()) + 1
        self.in_bin = np.bincount(bins, minlength=self.bins).astype(np.float64)
        self.said_bin = np.bincount(bins, season.p[rows], minlength=self.bins)

    def criteria(self, won: Indices) -> dict[str, Drawn]:
        """Values and half-widths from the winners' rows, (seasons, races)."""
        return {
            "ae_price": _ratio(self._days(self.bet[won]), self.expected),
            "roi": _ratio(self._days(self.paid[won]) - self.staked, self.staked),
            "margin": _ratio(self._days(self.gained[won]), self.races),
            "slope": self._slope(won),
            "calibration_error": Drawn(self._error(won), np.zeros(won.shape[0])),
        }

    def _slope(self, won: Indices) -> Drawn:
        """One Newton step from the slope that `truth` leads one to expect, and its spread over days."""
        scores = (self.races - self.said, self._days(self.logit[won]) - self.said_logit)
        influence = self.to_slope[0] * scores[0] + self.to_slope[1] * scores[1]
        moved = influence.sum(axis=1)
        spread = np.sqrt(((influence - moved[:, None] / influence.shape[1]) ** 2).sum(axis=1))
        return Drawn(self.slope + moved, NORMAL_95 * spread)

    def _error(self, won: Indices) -> Floats:
        seasons = won.shape[0]
        cell = self.bin[won] + self.bins * np.arange(seasons)[:, None]
        hits = np.bincount(cell.ravel(), minlength=seasons * self.bins).reshape(seasons, self.bins)
        rate = hits / self.in_bin
        squares = (rate - self.said_bin / self.in_bin) ** 2 - rate * (1.0 - rate) / np.maximum(self.in_bin - 1.0, 1.0)
        return np.asarray(np.sqrt(np.maximum((self.in_bin * squares).sum(axis=1) / self.in_bin.sum(), 0.0)))

    def _days(self, by_race: Floats) -> Floats:
        return np.asarray(np.add.reduceat(by_race, self.day_starts, axis=1), dtype=np.float64)

    def _by_day(self, values: Floats, season: BacktestPeriod, known: NDArray[np.bool_]) -> Floats:
        return np.asarray(np.add.reduceat(total(values, season.starts)[known], self.day_starts), dtype=np.float64)


def _ratio(over: Floats, under: Floats) -> Drawn:
    """Σ over ÷ Σ under by season, and the linearised half-width over days; NaN where Σ under is 0."""
    whole = under.sum()
    if whole == 0.0:
        none = np.full(over.shape[0], np.nan)
        return Drawn(none, none)
    value = over.sum(axis=1) / whole
    spread = np.sqrt(((over - value[:, None] * under) ** 2).sum(axis=1)) / whole
    return Drawn(value, NORMAL_95 * spread)


def _expected_slope(logit: Floats, truth: Floats) -> tuple[float, Floats, Floats]:
    """The logistic regression of `truth` on logit p: its slope, what it says of each row, and its information."""
    columns = np.stack([np.ones(logit.size), logit], axis=1)
    at = np.array([0.0, 1.0])
    said, information = truth, np.eye(2)
    for _ in range(30):
        said = 1.0 / (1.0 + np.exp(-(columns @ at)))
        information = columns.T @ (columns * (said * (1.0 - said))[:, None])
        step = np.linalg.pinv(information) @ (columns.T @ (truth - said))
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    return float(at[1]), said, information
