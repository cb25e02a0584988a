"""Rolling-origin refits: models of earlier days predict later ones, over the period tested and the years before it.

What lies before the period is predicted the same way, so that whatever is fitted on predictions (a blend, a calibration) has
out-of-fold ones of the past alone to learn from. Nothing that follows a fold can reach it.
"""

from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from training.by_race import Floats, Indices, softmax
from training.ensemble import Inputs, inputs
from training.fitting import Rounds, choose_rounds, fit_fundamental, fit_on_market, has_market, part
from training.folds import LEAST_TRAIN_DAYS, Fold, refits_between
from training.market import residual_probabilities
from training.model import FEATURES, Fitted, ModelOptions
from training.races import Races
from velo.errors import UserError

Progress = Callable[[str, int, int], None]

MONTHS: Final = (12, 6, 3, 1)
"""Months between refits, the first that leaves enough of the past."""
PAST: Final = (6, 5, 4, 3, 2)
"""Refits before the period, predicted for the blend and the calibration to learn from: the first that leaves half of the
past to train on, or the last.

On two years, what one bucket of prices did by chance is taken for a rule.
"""


@dataclass(frozen=True, slots=True)
class WalkForwardPlan:
    """What is tested, local race dates, both included; how often models are refitted, and how many times before it.

    `refit_months` None takes the first of `MONTHS` for which the results reach back far enough, `past` None the first of
    `PAST`: the months are kept as long as the fewest refits allow.
    """

    since: date
    until: date
    refit_months: int | None = None
    past: int | None = None
    embargo_days: int = 0


@dataclass(frozen=True, slots=True)
class Refit:
    """One refit: its days, what it was trained on, and the β of the market under its residual model."""

    name: str
    tested: bool
    train_first_day: str
    train_last_day: str
    records: int
    races: int
    beta: float


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of races by models of earlier days. `fold` is of each race, the first `past` folds lie before the period.

    `fundamental`, its parts `trees` and `logit`, and `residual` are of each starter; `residual` is NaN where the race has
    no market. `rounds` and `residual_rounds` are how many were grown; `importance` and `drift` are of the last refit.
    """

    races: Races
    fold: Indices
    past: int
    months: int
    fundamental: Floats
    trees: Floats
    logit: Floats
    residual: Floats
    refits: tuple[Refit, ...]
    rounds: int
    residual_rounds: int
    importance: dict[str, float]
    drift: dict[str, float]


def cut(races: Races, plan: WalkForwardPlan) -> tuple[tuple[Fold, ...], int, int]:
    """The folds of a plan, how many lie before the period, and the months between refits.

    Raises `UserError` for a period without races, and for too short a past.
    """
    since, until = np.datetime64(plan.since, "D"), np.datetime64(plan.until, "D")
    if not np.any((races.days >= since) & (races.days <= until)):
        told = (
            f"the results reach from {races.days.min()} to {races.days.max()}" if races.count else "there is no result"
        )
        raise UserError(f"no race from {plan.since} to {plan.until}: {told}; choose other days")
    if (plan.past is not None and plan.past < 1) or (plan.refit_months is not None and plan.refit_months < 1):
        raise UserError(
            f"{plan.past} refits before the period, every {plan.refit_months} months: give 1 or more of each"
        )
    for months in MONTHS if plan.refit_months is None else (plan.refit_months,):
        for before_it in PAST if plan.past is None else (plan.past,):
            first = np.datetime64(shifted(plan.since, -months * before_it), "D")
            trained = races.days[races.days < first - np.timedelta64(plan.embargo_days, "D")]
            least = LEAST_TRAIN_DAYS
            if plan.past is None and before_it != PAST[-1]:
                least = max(least, np.unique(races.days[races.days < since]).size // 2)
            if np.unique(trained).size < least:
                continue
            edges = _edges(plan, months, before_it)
            before = [edge for edge in edges if edge <= since]
            past = refits_between(races.days, before, plan.embargo_days)
            if past:
                tested = refits_between(races.days, [edge for edge in edges if edge >= since], plan.embargo_days)
                return (*past, *tested), len(past), months
    raise UserError(
        f"too few race days before {plan.since}: at least {LEAST_TRAIN_DAYS} are needed before {plan.past or PAST[-1]} "
        "refits; load older results, test a later period, or refit more often (--refit-months)"
    )


def shifted(day: date, months: int) -> date:
    """The same day so many months later, or the last of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def predict(
    matrix: Floats, races: Races, plan: WalkForwardPlan, options: ModelOptions, progress: Progress
) -> OutOfFold:
    """Refit and predict, fold by fold; `matrix` has a row of `FEATURES` for each starter of `races`, in their order.

    How many rounds to grow is chosen once, on the last of the first fold's training days: before all that is predicted.
    """
    folds, past, months = cut(races, plan)
    first = races.only(folds[0].train)
    if not has_market(first).any():
        raise UserError(
            f"no race from {first.days.min()} to {first.days.max()} has a starting price for every starter: a backtest "
            "needs a market to beat; load results with prices"
        )
    return forward(inputs(matrix, races.starts), races, folds, past, months, options, progress)


def forward(
    given: Inputs,
    races: Races,
    folds: Sequence[Fold],
    past: int,
    months: int,
    options: ModelOptions,
    progress: Progress,
    further: int = 0,
) -> OutOfFold:
    """Predict the test races of each fold by models of its training races; the first `past` folds lie before the period.

    `given` has a row of `FEATURES` for each starter of `races`, in their order.

    `progress` is told of `further` steps that the caller has to take afterwards. Where fewer than `LEAST_RACES` training
    races have a market, nothing is grown on it and `residual` is NaN.
    """
    tell = _Steps(progress, 1 + 4 * len(folds) + further)
    tell("choose how many rounds")
    first = part(races, folds[0].train)
    rounds = choose_rounds(given.rows(first.rows), first, options)
    said = _Predictions(*(np.full(races.share.size, np.nan) for _ in _Predictions._fields))
    refits: list[Refit] = []
    grown: Fitted | None = None
    fold_of = np.zeros(races.count, dtype=np.intp)
    for number, fold in enumerate(folds):
        train, test = part(races, fold.train), part(races, fold.test)
        grown, beta = _refit(given, train, test, options, rounds, said, partial(tell, of=fold.name))
        days = str(train.days.min()), str(train.days.max())
        refits.append(Refit(fold.name, number >= past, *days, train.rows.size, test.count, beta))
        fold_of[fold.test] = number
    assert grown is not None
    learned, final = (part(races, of).rows for of in (folds[-1].train, folds[-1].test))
    predicted = np.any([fold.test for fold in folds], axis=0)
    inside = np.repeat(predicted, races.sizes)
    return OutOfFold(
        races=races.only(predicted),
        fold=fold_of[predicted],
        past=past,
        months=months,
        fundamental=said.fundamental[inside],
        trees=said.trees[inside],
        logit=said.logit[inside],
        residual=said.residual[inside],
        refits=tuple(refits),
        rounds=rounds.plain,
        residual_rounds=rounds.on_market,
        importance=grown.importance(),
        drift=drifted(given.raw[learned], given.raw[final]),
    )


class _Predictions(NamedTuple):
    """What the models say of each starter of all races; NaN until they do."""

    fundamental: Floats
    trees: Floats
    logit: Floats
    residual: Floats


def _refit(
    given: Inputs,
    train: Races,
    test: Races,
    options: ModelOptions,
    rounds: Rounds,
    said: _Predictions,
    tell: Callable[[str], None],
) -> tuple[Fitted, float]:
    """Fit on the races of a fold and say of those it tests; returns the trees and the β of the market under the residual."""
    own, told_of = given.rows(train.rows), given.rows(test.rows)
    model, grown = fit_fundamental(own, train, options, rounds.plain, tell)
    said.fundamental[test.rows] = model.probabilities(told_of, test.starts)
    said.trees[test.rows] = softmax(model.tree_scores(told_of), test.starts)
    said.logit[test.rows] = model.logit.probabilities(told_of.centred, test.starts)
    on_market = fit_on_market(own, train, options, rounds.on_market, tell)
    if on_market is None:
        return grown, 1.0
    scores = on_market.model.scores(told_of)
    said.residual[test.rows] = residual_probabilities(scores, test.pi, on_market.beta, test.starts)
    return grown, on_market.beta


@dataclass(slots=True)
class _Steps:
    """Tells the progress of one step after another."""

    progress: Progress
    steps: int
    done: int = 0

    def __call__(self, what: str, of: str = "") -> None:
        self.progress(f"{what} for {of}" if of else what, self.done, self.steps)
        self.done += 1


def drifted(before: Floats, after: Floats, bins: int = 10) -> dict[str, float]:
    """Population stability index of each feature, greatest first: Σ (a − b)·ln(a/b) over deciles of `before` and a bin of NaN.

    Above 0.25 is commonly called a shift. Half a runner is added to every bin, so that an empty one is no infinity.
    """
    told = {}
    for place, name in enumerate(FEATURES):
        known = before[:, place][~np.isnan(before[:, place])]
        cuts = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if known.size else np.empty(0)
        shares = [_shares(values[:, place], cuts) for values in (before, after)]
        told[name] = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    return dict(sorted(told.items(), key=lambda one: -one[1]))


def _shares(values: Floats, cuts: Floats) -> Floats:
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(cuts, known), minlength=cuts.size + 1)
    whole = np.r_[counts, values.size - known.size] + 0.5
    return np.asarray(whole / whole.sum(), dtype=np.float64)


def _edges(plan: WalkForwardPlan, months: int, past: int) -> list[np.datetime64]:
    """The first day of each fold, and the day after the last."""
    end = plan.until + timedelta(days=1)
    edges = [shifted(plan.since, months * number) for number in range(-past, 1)]
    number = 1
    while (edge := shifted(plan.since, months * number)) < end:
        edges.append(edge)
        number += 1
    return [np.datetime64(edge, "D") for edge in (*edges, end)]
