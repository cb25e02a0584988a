"""Monte Carlo estimates of how often the gate passes by luck.

Each simulated season draws the winner of every race from assumed true probabilities; bets, prices and the model's p stay
fixed. Under "no edge" the truth is the market's π, so no model can beat it. With the model's p as the truth, the same
simulation gives the power of the gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.training.dataset.by_race import Floats, Indices, sizes_of, total
from velo.training.evaluation.betting import Wanted
from velo.training.evaluation.metrics import BacktestPeriod
from velo.training.evaluation.reliability import equal_mass
from velo.training.gate.criteria import CRITERIA, Criterion
from velo.training.market.market import inverses

SIMULATIONS: Final = 2000
NORMAL_95: Final = 1.959963984540054
_AT_ONCE: Final = 2_000_000
"""Simulated winners held in memory at a time."""
_EDGE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class PassChance:
    """Shares of simulated seasons that pass the gate, from 0 to 1.

    `by_interval` judges 95 % intervals, as the gate does; `by_value` judges the values alone. `each` is the share that
    passes each criterion by its interval. `races` counts the races with a market, which take part.
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
    """P(a gain this large | no edge) of each set of bets at level stakes; None for bets without a gain.

    Winners are drawn from the market's π, in the races that have one; bets and prices stay fixed. The actual season
    counts as one of the seasons, so the share is never 0.
    """
    known = ~np.isnan(total(season.pi, season.starts))
    rows = np.repeat(known, sizes_of(season.starts, season.p.size)) & np.isfinite(season.settled_at)
    # payout of each runner, should it win, for each set of bets
    paid = [np.where(bet & rows, season.settled_at, 0.0) for bet in wanted]
    actual = [float((pays * season.share).sum()) for pays in paid]
    as_large = np.zeros(len(paid), dtype=np.int64)
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(int(known.sum()), 1))
    for begin in range(0, seasons, at_once):
        won = winners(season.pi, season.starts, known, rng, min(at_once, seasons - begin))
        as_large += [
            np.count_nonzero(pays[won].sum(axis=1) >= gain - _EDGE) for pays, gain in zip(paid, actual, strict=True)
        ]
    return [
        float((count + 1) / (seasons + 1)) if gain > np.count_nonzero(pays) else None
        for count, gain, pays in zip(as_large.tolist(), actual, paid, strict=True)
    ]


def pass_chance(
    season: BacktestPeriod,
    wanted: Wanted,
    market: Floats,
    truth: Floats,
    seed: int,
    seasons: int = SIMULATIONS,
    criteria: Sequence[Criterion] = CRITERIA,
    closing: float = 0.0,
) -> PassChance:
    """P(pass) of one window if `truth` holds: π for no edge, p for a correct model. `wanted` marks the runners bet on.

    `market` is the benchmark of the margin (π^β). Races that lack `truth` or `market` are left out. Criteria without
    sampling error (`counted`) count as passed. Intervals are linearised over race days: as wide as the gate's own, but
    symmetric. The interval of the calibration error is its spread over the seasons. The closing line does not depend on
    winners: its mean is drawn around `closing`, with the standard error of its race days.
    """
    known = ~np.isnan(total(truth + market, season.starts))
    if not known.any():
        return PassChance(float("nan"), float("nan"), {}, seasons, 0)
    draws = _draw(season, wanted, market, truth, known, seed, seasons)
    draws["clv"] = _closing_line(season, wanted, closing, seed, seasons)
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
    """Draw the row of each known race's winner from `truth`: (seasons, known races)."""
    sizes = sizes_of(starts, truth.size)
    race = np.repeat(np.arange(starts.size), sizes)
    within = np.where(np.repeat(known, sizes), truth, 1.0)
    running = np.cumsum(within)
    before = running[starts] - within[starts]
    # race k occupies the interval [k, k + 1) of cumulated probability, so that one search finds all winners
    line = race + np.minimum((running - before[race]) / total(within, starts)[race], 1.0)
    line[np.r_[starts[1:], truth.size] - 1] = np.arange(starts.size) + 1.0
    numbers = np.flatnonzero(known)
    drawn = numbers + rng.random((seasons, numbers.size))
    rows = np.searchsorted(line, drawn, side="right")
    return np.asarray(np.minimum(rows, (starts + sizes - 1)[numbers]), dtype=np.intp)


def _closing_line(season: BacktestPeriod, wanted: Wanted, closing: float, seed: int, seasons: int) -> Drawn:
    """The mean closing-line value of the bets in every simulated season, NaN without any."""
    clv = np.full(season.p.size, np.nan) if season.fair_clv is None else season.fair_clv
    known = wanted & ~np.isnan(clv)
    if not known.any():
        missing = np.full(seasons, np.nan)
        return Drawn(missing, missing)
    _, day = np.unique(season.days.of[known], return_inverse=True)
    sums, counts = np.bincount(day, clv[known]), np.bincount(day)
    mean = sums.sum() / counts.sum()
    error = float(np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum())
    drawn = closing + error * np.random.default_rng([seed, 7]).standard_normal(seasons)
    return Drawn(drawn, np.full(seasons, NORMAL_95 * error))


def _draw(
    season: BacktestPeriod,
    wanted: Wanted,
    market: Floats,
    truth: Floats,
    known: NDArray[np.bool_],
    seed: int,
    seasons: int,
) -> dict[str, Drawn]:
    """The criteria of contract 9 that depend on the winners, in every simulated season."""
    fixed = _Fixed(season, wanted, market, truth, known)
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Drawn]] = {}
    at_once = max(1, _AT_ONCE // int(known.sum()))
    for begin in range(0, seasons, at_once):
        won = winners(truth, season.starts, known, rng, min(at_once, seasons - begin))
        for name, drawn in fixed.criteria(won).items():
            parts.setdefault(name, []).append(drawn)
    joined = {
        name: Drawn(np.concatenate([part.value for part in batch]), np.concatenate([part.half for part in batch]))
        for name, batch in parts.items()
    }
    error = joined["calibration_error"].value
    joined["calibration_error"] = Drawn(error, np.full(error.size, NORMAL_95 * float(error.std())))
    return joined


class _Fixed:
    """The parts of a season that do not depend on the winners; a simulated season is then a few look-ups and sums."""

    def __init__(
        self, season: BacktestPeriod, wanted: Wanted, market: Floats, truth: Floats, known: NDArray[np.bool_]
    ) -> None:
        rows = np.repeat(known, sizes_of(season.starts, season.p.size))
        inverse = inverses(season.settled_at)
        self.rows = rows
        bet = wanted & rows & ~np.isnan(inverse)
        p = np.clip(season.p, _EDGE, 1.0 - _EDGE)
        self.day = season.days.of[season.starts[known]]
        # rows are in order of time, so the races of a day are adjacent
        self.day_starts = np.flatnonzero(np.r_[True, np.diff(self.day) != 0])
        self.bet = bet.astype(np.float64)
        self.paid = np.where(bet, season.settled_at, 0.0)
        self.expected = self._by_day(np.where(bet, inverse, 0.0), season, known)
        self.staked = self._by_day(self.bet, season, known)
        self.gained = np.log(p) - np.log(np.clip(market, _EDGE, 1.0))
        self.logit = np.log(p) - np.log1p(-p)
        self.slope, fitted, information = _expected_slope(self.logit[rows], truth[rows])
        expected = np.zeros(season.p.size)
        expected[rows] = fitted
        self.expected_days = self._by_day(expected, season, known)
        self.expected_logit_days = self._by_day(expected * np.where(rows, self.logit, 0.0), season, known)
        self.to_slope = np.linalg.pinv(information)[1]
        self.races = self._days(np.ones((1, self.day.size)))[0]
        bins = equal_mass(season.p[rows])
        self.bin = np.zeros(season.p.size, dtype=np.intp)
        self.bin[rows] = bins
        self.bins = int(bins.max()) + 1
        self.in_bin = np.bincount(bins, minlength=self.bins).astype(np.float64)
        self.expected_in_bin = np.bincount(bins, season.p[rows], minlength=self.bins)

    def criteria(self, won: Indices) -> dict[str, Drawn]:
        """The criteria's values and half-widths, from the winners' rows (seasons, races)."""
        return {
            "ae_price": _ratio(self._days(self.bet[won]), self.expected),
            "roi": _ratio(self._days(self.paid[won]) - self.staked, self.staked),
            "margin": _ratio(self._days(self.gained[won]), self.races),
            "slope": self._slope(won),
            "calibration_error": Drawn(self._error(won), np.zeros(won.shape[0])),
        }

    def _slope(self, won: Indices) -> Drawn:
        """The slope after one Newton step from its expected value under `truth`, with its spread over days."""
        scores = (self.races - self.expected_days, self._days(self.logit[won]) - self.expected_logit_days)
        influence = self.to_slope[0] * scores[0] + self.to_slope[1] * scores[1]
        moved = influence.sum(axis=1)
        spread = np.sqrt(((influence - moved[:, None] / influence.shape[1]) ** 2).sum(axis=1))
        return Drawn(self.slope + moved, NORMAL_95 * spread)

    def _error(self, won: Indices) -> Floats:
        seasons = won.shape[0]
        cell = self.bin[won] + self.bins * np.arange(seasons)[:, None]
        hits = np.bincount(cell.ravel(), minlength=seasons * self.bins).reshape(seasons, self.bins)
        rate = hits / self.in_bin
        squares = (rate - self.expected_in_bin / self.in_bin) ** 2 - rate * (1.0 - rate) / np.maximum(
            self.in_bin - 1.0, 1.0
        )
        return np.asarray(np.sqrt(np.maximum((self.in_bin * squares).sum(axis=1) / self.in_bin.sum(), 0.0)))

    def _days(self, by_race: Floats) -> Floats:
        return np.asarray(np.add.reduceat(by_race, self.day_starts, axis=1), dtype=np.float64)

    def _by_day(self, values: Floats, season: BacktestPeriod, known: NDArray[np.bool_]) -> Floats:
        return np.asarray(np.add.reduceat(total(values, season.starts)[known], self.day_starts), dtype=np.float64)


def _ratio(over: Floats, under: Floats) -> Drawn:
    """Σ over ÷ Σ under in each season, with the half-width linearised over days; NaN if Σ under is 0."""
    denominator = under.sum()
    if denominator == 0.0:
        missing = np.full(over.shape[0], np.nan)
        return Drawn(missing, missing)
    value = over.sum(axis=1) / denominator
    spread = np.sqrt(((over - value[:, None] * under) ** 2).sum(axis=1)) / denominator
    return Drawn(value, NORMAL_95 * spread)


def _expected_slope(logit: Floats, truth: Floats) -> tuple[float, Floats, Floats]:
    """Logistic regression of `truth` on logit p; returns its slope, its fitted values and its information matrix."""
    columns = np.stack([np.ones(logit.size), logit], axis=1)
    at = np.array([0.0, 1.0])
    fitted, information = truth, np.eye(2)
    for _ in range(30):
        fitted = 1.0 / (1.0 + np.exp(-(columns @ at)))
        information = columns.T @ (columns * (fitted * (1.0 - fitted))[:, None])
        step = np.linalg.pinv(information) @ (columns.T @ (truth - fitted))
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    return float(at[1]), fitted, information
