"""Races with their starters, results and market, and folds of them in order of time; a race day is never split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices
from velo.training.dataset.entity_rows import Prices
from velo.training.dataset.training_set import TrainingSet
from velo.training.market.market import LEAST_RACES as LEAST_PRICED
from velo.training.market.market import fit_market_exponent, move_inputs, proportional

Wanted = NDArray[np.bool_]
Dates = NDArray[np.datetime64]

EMBARGO_DAYS: Final = 7
LEAST_TRAIN_DAYS: Final = 30
"""The fewest race days that a model is fitted on."""
VALIDATION_SHARE: Final = 0.3
TEST_SHARE: Final = 0.1
LEAST_RACES: Final = 20


@dataclass(frozen=True, slots=True)
class Races:
    """The starters of some races, the rows of a race together, the races in order of time.

    `rows` are rows of the training set, (starters,), and `starts` has the first position of each race, (races,). `share` is each
    runner's share of the win, `pi` the market's probability (NaN if the race has no market), (starters,); `days` is the local
    date of each race, (races,). `place` is each runner's finishing position, (starters,): NaN if unknown, None if no runner has one.
    Where `pi` is of the odds at decision time, `closing` is the π of the closing prices and `moves` are the inputs of a blend with
    the moves of the odds (`move_inputs`), (starters, inputs); else both are None.
    """

    rows: Indices
    starts: Indices
    share: Floats
    pi: Floats
    days: NDArray[np.datetime64]
    place: Floats | None = None
    closing: Floats | None = None
    moves: Floats | None = None

    @property
    def count(self) -> int:
        """The number of races."""
        return self.starts.size

    @property
    def sizes(self) -> Indices:
        """The number of starters of each race, (races,)."""
        return np.asarray(np.diff(np.r_[self.starts, self.rows.size]), dtype=np.intp)

    def total(self, values: Floats) -> Floats:
        """The sum of a value over the runners of each race, (races,)."""
        return np.asarray(np.add.reduceat(values, self.starts), dtype=np.float64)

    def target(self, market_share: float) -> Floats:
        """The training target of each runner, (starters,): the win, mixed with π^β by `market_share` if the race has a market.

        A race has one winner but a market price for every runner: the mix has nearly the same mean and much less noise. β is
        fitted on these races, because π itself is too low for favourites; with too few priced races the target is the win. π is of
        the closing prices if they are known.
        """
        pi = self.pi if self.closing is None else self.closing
        priced = ~np.isnan(self.total(pi))
        if market_share == 0.0 or int(priced.sum()) < LEAST_PRICED:
            return self.share
        market = fit_market_exponent(pi, self.starts, self.share).probabilities(None, pi, self.starts)
        sharpened = np.where(np.isnan(market), self.share, market)
        return np.asarray((1.0 - market_share) * self.share + market_share * sharpened, dtype=np.float64)

    def between(self, since: date, until: date) -> "Races":
        """The races between two local dates, both included."""
        return self.only((self.days >= np.datetime64(since)) & (self.days <= np.datetime64(until)))

    def only(self, wanted: NDArray[np.bool_]) -> "Races":
        """The races marked in `wanted`, (races,)."""
        kept = np.repeat(wanted, self.sizes)
        sizes = self.sizes[wanted]
        starts = np.cumsum(np.r_[0, sizes[:-1]]) if sizes.size else np.empty(0, dtype=np.intp)
        place, closing, moves = (
            None if values is None else values[kept] for values in (self.place, self.closing, self.moves)
        )
        own = self.rows[kept], starts.astype(np.intp), self.share[kept], self.pi[kept], self.days[wanted]
        return Races(*own, place, closing, moves)


@dataclass(frozen=True, slots=True)
class Split:
    """Races in order of time, no day in two parts: `train` to fit, `validation` to choose, `test` to measure."""

    train: Races
    validation: Races
    test: Races


def races_of(rows: TrainingSet) -> Races:
    """The races of a training set with at least two starters, among them a declared winner.

    Declared runners that did not start are left out, and so is a race whose winner was not declared at decision time
    (a late reserve).
    """
    started = np.flatnonzero(rows.started())
    codes = rows.races[started]
    starts = np.flatnonzero(np.r_[True, np.diff(codes) != 0]) if started.size else np.empty(0, dtype=np.intp)
    whole = Races(
        started,
        starts,
        rows.label("win_share")[started],
        rows.label("market_pi")[started],
        rows.days()[started][starts],
        rows.label("position")[started],
    )
    if whole.count == 0:
        return whole
    return whole.only((whole.sizes > 1) & (np.abs(whole.total(whole.share) - 1.0) < 1e-9))


AT_DECISION: Final = "decision time"
AT_SP: Final = "SP"
MOSTLY: Final = 0.8
"""The share of the predicted races with a market that need odds at decision time for every starter, for the blend to be of them."""


@dataclass(frozen=True, slots=True)
class PriceUsed:
    """The price that the blend is of: `AT_DECISION` or `AT_SP`. `covered` of the `races` with a market have odds at decision time."""

    blend: str
    races: int
    covered: int
    lead_minutes: float

    @property
    def words(self) -> str:
        """Which price was used for what, in plain words."""
        known = f"{self.covered:,} of {self.races:,} predicted races have odds for every starter {self.lead_minutes:g} minutes before the off"
        if self.blend == AT_DECISION:
            return (
                f"The blend, and the market it is compared with, are of the last odds known {self.lead_minutes:g} minutes before the off "
                f"({known}; the others are left out). Bets are decided at these odds and paid at SP."
            )
        return (
            f"The blend, and the market it is compared with, are of SP, which is not known before the off ({known}). "
            "Bets are decided at the last odds known then, where there are any, else at SP, and paid at SP."
        )


def at_decision(
    races: Races, shown: Prices, sp: Floats, since: np.datetime64, lead_minutes: float
) -> tuple[Races, Floats, PriceUsed]:
    """The races with the market of the decision time, the price of each row of the training set, and which price was used.

    That is done where at least `MOSTLY` of the races from `since`, the first predicted day, have odds for every starter then; a
    later race without is left without a market, while an earlier one trains with SP. Otherwise nothing changes: the market is SP.
    """
    taken = shown.taken[races.rows]
    pi = proportional(taken, races.starts)
    covered, predicted = ~np.isnan(races.total(pi)), races.days >= since
    priced = predicted & (covered | ~np.isnan(races.total(races.pi)))
    counts = int(priced.sum()), int((priced & covered).sum())
    if not counts[0] or counts[1] < MOSTLY * counts[0]:
        return races, sp, PriceUsed(AT_SP, *counts, lead_minutes)
    known, later = np.repeat(covered, races.sizes), np.repeat(predicted, races.sizes)
    unknown = np.where(later, np.nan, races.pi)
    price = sp.copy()
    price[races.rows] = np.where(known, taken, np.where(later, np.nan, sp[races.rows]))
    closing = proportional(shown.closing[races.rows], races.starts)
    moves = move_inputs(shown.moves[races.rows], races.starts)
    decided = replace(races, pi=np.where(known, pi, unknown), closing=closing, moves=moves)
    return decided, price, PriceUsed(AT_DECISION, *counts, lead_minutes)


def split(races: Races, validate_from: date | None = None, test_from: date | None = None) -> Split:
    """Split by race date: at the days passed, else the last tenth is the test part and the three tenths before it validation.

    Raises `UserError` if a part would have fewer than `LEAST_RACES` races.
    """
    days = np.unique(races.days)
    if days.size < 3:
        raise UserError(f"{days.size} race days are too few to train on: load more results and run `velo build`")
    test_at = _day(test_from) if test_from else days[-max(1, round(days.size * TEST_SHARE))]
    before = days[days < test_at]
    share = max(1, round(days.size * VALIDATION_SHARE))
    validate_at = _day(validate_from) if validate_from else before[-min(share, before.size)] if before.size else test_at
    parts = Split(
        races.only(races.days < validate_at),
        races.only((races.days >= validate_at) & (races.days < test_at)),
        races.only(races.days >= test_at),
    )
    for name, part in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        if part.count < LEAST_RACES:
            raise UserError(
                f"the {name} part has {part.count} races, at least {LEAST_RACES} are needed: load more results, or "
                "choose other days for validation and test"
            )
    return parts


def _day(day: date) -> np.datetime64:
    return np.datetime64(day, "D")


@dataclass(frozen=True)
class Fold:
    """The races of training and of prediction, (races,) each; every training day is before every predicted day."""

    name: str
    train: Wanted
    test: Wanted


def forward_folds(
    race_dates: Dates, folds: int = 5, embargo_days: int = EMBARGO_DAYS, first_share: float = 0.5
) -> tuple[Fold, ...]:
    """Cut `folds` folds of about the same number of races, each trained on all days before it and its embargo.

    `race_dates` are local, one per race, in any order. The first `first_share` of the race days is for training only. Raises
    `UserError` for too few days.
    """
    if folds < 1 or not 0.0 < first_share < 1.0:
        raise UserError(f"{folds} folds after the first {first_share:g} of days cannot be cut: give ≥ 1, and 0 to 1")
    days, counts = np.unique(race_dates, return_counts=True)
    begin = round(days.size * first_share)
    if days.size - begin < folds or begin < 1:
        raise UserError(
            f"{days.size} race days are too few for {folds} folds: load more results, or ask for fewer folds"
        )
    # cut between days so that the parts have about the same number of races, and each at least one day
    so_far = np.cumsum(counts[begin:]) / counts[begin:].sum()
    cuts = [begin]
    for number in range(1, folds):
        nearest = begin + int(np.argmin(np.abs(so_far - number / folds))) + 1
        cuts.append(min(max(nearest, cuts[-1] + 1), days.size - (folds - number)))
    ends = [*cuts[1:], days.size]
    return tuple(
        _fold(f"fold {number}", race_dates, days[first], days[last - 1], embargo_days)
        for number, (first, last) in enumerate(zip(cuts, ends, strict=True), start=1)
    )


def refits_between(race_dates: Dates, edges: Sequence[np.datetime64], embargo_days: int = 0) -> tuple[Fold, ...]:
    """A fold from each edge to the day before the next, trained on all days before it; a fold without a race is left out."""
    folds = []
    for first, after in pairwise(edges):
        last = after - np.timedelta64(1, "D")
        if np.any((race_dates >= first) & (race_dates <= last)):
            folds.append(_fold(f"{first} to {last}", race_dates, first, last, embargo_days))
    return tuple(folds)


def _fold(
    name: str,
    race_dates: Dates,
    first: np.datetime64,
    last: np.datetime64,
    embargo_days: int,
) -> Fold:
    if embargo_days < 0:
        raise UserError(f"the embargo must be 0 days or more, got {embargo_days}")
    train = race_dates < first - np.timedelta64(embargo_days, "D")
    days = np.unique(race_dates[train]).size
    if days < LEAST_TRAIN_DAYS:
        raise UserError(
            f"{name} has {days} race days to train on, at least {LEAST_TRAIN_DAYS} are needed: load more results, "
            "or begin to predict later"
        )
    return Fold(name, np.asarray(train, dtype=np.bool_), (race_dates >= first) & (race_dates <= last))
