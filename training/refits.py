"""Rolling-origin refits: models of earlier days predict later ones, over the period tested and the years before it.

What lies before the period is predicted the same way, so that whatever is fitted on predictions (a blend, a calibration) has
out-of-fold ones of the past alone to learn from. Nothing that follows a fold can reach it.
"""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import numpy as np

from training.blocks import Floats, Indices
from training.folds import LEAST_TRAIN_DAYS, Fold, refits_between
from training.logit import fit_logit
from training.market import fit_market_exponent, market_offset, residual_probabilities
from training.model import FEATURES, Fitted, Options, fit, grow
from training.races import Races
from velo.errors import UserError

Progress = Callable[[str, int, int], None]

MONTHS: Final = (12, 6, 3, 1)
"""Months between refits, the first that leaves enough of the past."""
PAST: Final = 2
"""Refits before the period, predicted for the blend and the calibration to learn from."""
PATIENCE: Final = 40
"""Rounds without a better loss that end the search for how many to grow."""
WATCHED_SHARE: Final = 0.1
"""The last share of the first fold's training days, on which the number of rounds is chosen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tested, local race dates, both included; how often models are refitted, and how many times before it.

    `refit_months` None takes the first of `MONTHS` for which the results reach back far enough.
    """

    since: date
    until: date
    refit_months: int | None = None
    past: int = PAST
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

    `fundamental`, `logit` and `residual` are of each starter; `residual` is NaN where the race has no market. `rounds` and
    `residual_rounds` are how many were grown; `importance` and `drift` are of the last refit.
    """

    races: Races
    fold: Indices
    past: int
    months: int
    fundamental: Floats
    logit: Floats
    residual: Floats
    refits: tuple[Refit, ...]
    rounds: int
    residual_rounds: int
    importance: dict[str, float]
    drift: dict[str, float]


def cut(races: Races, plan: Plan) -> tuple[tuple[Fold, ...], int, int]:
    """The folds of a plan, how many lie before the period, and the months between refits.

    Raises `UserError` for a period without races, and for too short a past.
    """
    since, until = np.datetime64(plan.since, "D"), np.datetime64(plan.until, "D")
    if not np.any((races.days >= since) & (races.days <= until)):
        told = (
            f"the results reach from {races.days.min()} to {races.days.max()}" if races.count else "there is no result"
        )
        raise UserError(f"no race from {plan.since} to {plan.until}: {told}; choose other days")
    if plan.past < 1 or (plan.refit_months is not None and plan.refit_months < 1):
        raise UserError(
            f"{plan.past} refits before the period, every {plan.refit_months} months: give 1 or more of each"
        )
    for months in MONTHS if plan.refit_months is None else (plan.refit_months,):
        first = np.datetime64(shifted(plan.since, -months * plan.past), "D") - np.timedelta64(plan.embargo_days, "D")
        if np.unique(races.days[races.days < first]).size >= LEAST_TRAIN_DAYS:
            edges = _edges(plan, months)
            before = [edge for edge in edges if edge <= since]
            past = refits_between(races.days, before, plan.embargo_days)
            if past:
                tested = refits_between(races.days, [edge for edge in edges if edge >= since], plan.embargo_days)
                return (*past, *tested), len(past), months
    raise UserError(
        f"too few race days before {plan.since}: at least {LEAST_TRAIN_DAYS} are needed before {plan.past} refits; load "
        "older results, test a later period, or refit more often (--refit-months)"
    )


def shifted(day: date, months: int) -> date:
    """The same day so many months later, or the last of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def predict(matrix: Floats, races: Races, plan: Plan, options: Options, progress: Progress) -> OutOfFold:
    """Refit and predict, fold by fold; `matrix` has a row of `FEATURES` for each starter of `races`, in their order.

    How many rounds to grow is chosen once, on the last of the first fold's training days: before all that is predicted.
    """
    folds, past, months = cut(races, plan)
    steps = 1 + 3 * len(folds)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        progress(name, done, steps)
        done += 1

    step("choose how many rounds")
    rounds, residual_rounds = _rounds(matrix, _part(races, folds[0].train), options)
    shape = races.share.size
    fundamental, logit, residual = (np.full(shape, np.nan) for _ in range(3))
    told: list[Refit] = []
    last: Fitted | None = None
    for number, fold in enumerate(folds):
        train, test = _part(races, fold.train), _part(races, fold.test)
        step(f"grow trees for {fold.name}")
        last = grow((matrix[train.rows], train), FEATURES, options, rounds)
        fundamental[test.rows] = last.probabilities(matrix[test.rows], test)
        step(f"fit the logit for {fold.name}")
        plain = fit_logit(matrix[train.rows], train.starts, train.share, FEATURES)
        logit[test.rows] = plain.probabilities(matrix[test.rows], test.starts)
        step(f"grow on the market for {fold.name}")
        on_market, beta = _residual(matrix, train, options, residual_rounds)
        residual[test.rows] = residual_probabilities(on_market.scores(matrix[test.rows]), test.pi, beta, test.starts)
        days = train.days
        told.append(
            Refit(fold.name, number >= past, str(days.min()), str(days.max()), train.rows.size, test.count, beta)
        )
    assert last is not None
    predicted = np.any([fold.test for fold in folds], axis=0)
    fold_of = np.zeros(races.count, dtype=np.intp)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    kept = races.only(predicted)
    inside = np.repeat(predicted, races.sizes)
    final = folds[-1]
    drift = drifted(matrix[_part(races, final.train).rows], matrix[_part(races, final.test).rows])
    return OutOfFold(
        races=kept,
        fold=fold_of[predicted],
        past=past,
        months=months,
        fundamental=fundamental[inside],
        logit=logit[inside],
        residual=residual[inside],
        refits=tuple(told),
        rounds=rounds,
        residual_rounds=residual_rounds,
        importance=last.importance(),
        drift=drift,
    )


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


def _edges(plan: Plan, months: int) -> list[np.datetime64]:
    """The first day of each fold, and the day after the last."""
    end = plan.until + timedelta(days=1)
    edges = [shifted(plan.since, months * number) for number in range(-plan.past, 1)]
    number = 1
    while (edge := shifted(plan.since, months * number)) < end:
        edges.append(edge)
        number += 1
    return [np.datetime64(edge, "D") for edge in (*edges, end)]


def _part(races: Races, wanted: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Races:
    """Some races, their rows those of the matrix."""
    own = replace(races, rows=np.arange(races.share.size, dtype=np.intp))
    return own.only(wanted)


def _rounds(matrix: Floats, train: Races, options: Options) -> tuple[int, int]:
    """How many rounds, without and with the market beneath, do best on the last of the training days."""
    days = np.unique(train.days)
    edge = days[-max(1, round(days.size * WATCHED_SHARE))]
    chosen = replace(options, patience=min(options.patience, PATIENCE))
    learned, watched = train.only(train.days < edge), train.only(train.days >= edge)
    plain = fit((matrix[learned.rows], learned), (matrix[watched.rows], watched), FEATURES, chosen)
    learned, watched = _priced(learned), _priced(watched)
    beta = fit_market_exponent(learned.pi, learned.starts, learned.share).beta
    offsets = tuple(market_offset(part.pi, beta, part.starts) for part in (learned, watched))
    on_market = fit(
        (matrix[learned.rows], learned),
        (matrix[watched.rows], watched),
        FEATURES,
        chosen,
        offsets=(offsets[0], offsets[1]),
    )
    return plain.rounds, on_market.rounds


def _residual(matrix: Floats, train: Races, options: Options, rounds: int) -> tuple[Fitted, float]:
    """Trees grown on top of β·log π, and the β."""
    priced = _priced(train)
    beta = fit_market_exponent(priced.pi, priced.starts, priced.share).beta
    offset = market_offset(priced.pi, beta, priced.starts)
    return grow((matrix[priced.rows], priced), FEATURES, options, rounds, offset=offset), beta


def _priced(races: Races) -> Races:
    """The races with a market; raises `UserError` where there is none."""
    priced = races.only(~np.isnan(races.total(races.pi)))
    if priced.count == 0:
        raise UserError(
            f"no race from {races.days.min()} to {races.days.max()} has a starting price for every starter: a backtest "
            "needs a market to beat; load results with prices"
        )
    return priced
