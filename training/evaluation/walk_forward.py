"""Walk-forward refits: models trained on earlier days predict later days, in the tested period and the years before it.

The years before the period are predicted in the same way, so that a blend and a calibration can be fitted on out-of-fold
predictions of the past alone. No model is trained on the days it predicts, or on later ones.
"""

from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices, softmax
from velo.training.dataset.races import LEAST_TRAIN_DAYS, Fold, Races, refits_between
from velo.training.market.market import residual_probabilities
from velo.training.model.fitting import fit_baseline, fit_on_market, has_market, part
from velo.training.race_model import ChoosesOnce, FittedModel, HasImportance, HasParts, HasSettings, RaceModel, Runners

Progress = Callable[[str, int, int], None]

MONTHS: Final = (12, 6, 3, 1)
"""Candidate months between refits; the first that leaves enough history is used."""
PAST: Final = (6, 5, 4, 3, 2)
"""Candidate numbers of refits before the period, on which the blend and the calibration are fitted.

The first that leaves half of the history to train on is used, else the last. More is better: over two years only, the
calibration fits the noise of single price buckets.
"""


@dataclass(frozen=True, slots=True)
class WalkForwardPlan:
    """The tested local race dates (`since` and `until` included), the months between refits and the refits before `since`.

    None takes the first of `MONTHS` and of `PAST` for which the results reach back far enough; the longest interval wins
    over the most refits.
    """

    since: date
    until: date
    refit_months: int | None = None
    past: int | None = None
    embargo_days: int = 0


@dataclass(frozen=True, slots=True)
class Refit:
    """One refit: its days, its training data, and the market exponent β of its residual model."""

    name: str
    tested: bool
    train_first_day: str
    train_last_day: str
    records: int
    races: int
    beta: float


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of races by models trained on earlier days.

    `fold` has a number per race; the first `past` folds lie before the tested period. `fundamental`, the baseline `logit`,
    `residual` and each of `parts` have a probability per starter; `residual` is NaN where the race has no market, or the
    model cannot learn on top of one. `model` is the model as refitted, its settings chosen; `importance` and `drift` belong
    to the last refit.
    """

    races: Races
    fold: Indices
    past: int
    months: int
    fundamental: Floats
    logit: Floats
    parts: Mapping[str, Floats]
    residual: Floats
    refits: tuple[Refit, ...]
    model: RaceModel
    importance: dict[str, float]
    drift: dict[str, float]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the model as JSON; empty if it has none."""
        return self.model.settings() if isinstance(self.model, HasSettings) else {}


def cut(races: Races, plan: WalkForwardPlan) -> tuple[tuple[Fold, ...], int, int]:
    """Cut races into the folds of a plan; returns them, the number before the period, and the months between refits.

    Raises `UserError` if the period has no races or the history is too short.
    """
    since, until = np.datetime64(plan.since, "D"), np.datetime64(plan.until, "D")
    if not np.any((races.days >= since) & (races.days <= until)):
        extent = (
            f"the results reach from {races.days.min()} to {races.days.max()}" if races.count else "there is no result"
        )
        raise UserError(f"no race from {plan.since} to {plan.until}: {extent}; choose other days")
    if (plan.past is not None and plan.past < 1) or (plan.refit_months is not None and plan.refit_months < 1):
        raise UserError(f"--past is {plan.past} and --refit-months is {plan.refit_months}: each must be at least 1")
    for months in MONTHS if plan.refit_months is None else (plan.refit_months,):
        for refits_before in PAST if plan.past is None else (plan.past,):
            first = np.datetime64(shifted(plan.since, -months * refits_before), "D")
            trained = races.days[races.days < first - np.timedelta64(plan.embargo_days, "D")]
            least = LEAST_TRAIN_DAYS
            if plan.past is None and refits_before != PAST[-1]:
                least = max(least, np.unique(races.days[races.days < since]).size // 2)
            if np.unique(trained).size < least:
                continue
            edges = _edges(plan, months, refits_before)
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
    """The same day of the month `months` later, or the last day of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def predict(runners: Runners, races: Races, plan: WalkForwardPlan, model: RaceModel, progress: Progress) -> OutOfFold:
    """Refit and predict fold by fold; `runners` has a row per starter of `races`, in their order.

    A model that chooses its settings does so once, on the training days of the first fold, before any predicted day. Raises
    `UserError` if the plan cannot be cut or the first training days have no market.
    """
    folds, past, months = cut(races, plan)
    first = races.only(folds[0].train)
    if not has_market(first).any():
        raise UserError(
            f"no race from {first.days.min()} to {first.days.max()} has a starting price for every starter: a backtest "
            "needs a market to beat; load results with prices"
        )
    return forward(runners, races, folds, past, months, model, progress)


def forward(
    runners: Runners,
    races: Races,
    folds: Sequence[Fold],
    past: int,
    months: int,
    model: RaceModel,
    progress: Progress,
    further: int = 0,
) -> OutOfFold:
    """Predict the test races of each fold by models of its training races; the first `past` folds lie before the period.

    `progress` counts `further` steps that the caller takes afterwards. `residual` is NaN if fewer than `LEAST_RACES` training
    races have a market.
    """
    report = _Steps(progress, 1 + 3 * len(folds) + further)
    report("choose settings")
    first = part(races, folds[0].train)
    chosen = model.chosen(runners.of(first), first) if isinstance(model, ChoosesOnce) else model
    filled: dict[str, Floats] = {}
    refits: list[Refit] = []
    importance: dict[str, float] = {}
    fold_of = np.zeros(races.count, dtype=np.intp)
    for number, fold in enumerate(folds):
        train, test = part(races, fold.train), part(races, fold.test)
        fitted, beta = _refit(runners, train, test, chosen, filled, partial(report, of=fold.name))
        days = str(train.days.min()), str(train.days.max())
        refits.append(Refit(fold.name, number >= past, *days, train.rows.size, test.count, beta))
        importance = fitted.importance() if isinstance(fitted, HasImportance) else {}
        fold_of[fold.test] = number
    learned, final = (part(races, of).rows for of in (folds[-1].train, folds[-1].test))
    predicted = np.any([fold.test for fold in folds], axis=0)
    inside = np.repeat(predicted, races.sizes)
    return OutOfFold(
        races=races.only(predicted),
        fold=fold_of[predicted],
        past=past,
        months=months,
        fundamental=filled[_FUNDAMENTAL][inside],
        logit=filled[_LOGIT][inside],
        parts={name: p[inside] for name, p in filled.items() if name not in (_FUNDAMENTAL, _LOGIT, _RESIDUAL)},
        residual=filled[_RESIDUAL][inside],
        refits=tuple(refits),
        model=chosen,
        importance=importance,
        drift=drifted(runners.matrix[learned], runners.matrix[final], runners.features),
    )


_FUNDAMENTAL: Final = "fundamental"
_LOGIT: Final = "logit"
_RESIDUAL: Final = "residual"


def _refit(
    runners: Runners,
    train: Races,
    test: Races,
    model: RaceModel,
    filled: dict[str, Floats],
    report: Callable[[str], None],
) -> tuple[FittedModel, float]:
    """Fit on a fold's training races and fill in `filled`, probabilities by name, (starters of all races,), for its test races.

    Returns the fitted model and the β of the residual model, 1 without one.
    """
    train_runners, test_runners = runners.of(train), runners.of(test)

    def fill(name: str, probabilities: Floats) -> None:
        filled.setdefault(name, np.full(runners.count, np.nan))[test.rows] = probabilities

    report("fit the model")
    fitted = model.fit(train_runners, train)
    fill(_FUNDAMENTAL, softmax(fitted.utilities(test_runners), test.starts))
    parts = dict(fitted.parts(test_runners)) if isinstance(fitted, HasParts) else {}
    report("fit the baseline")
    if _LOGIT not in parts:
        parts[_LOGIT] = fit_baseline(train_runners, train).scores(test_runners.centred)
    for name, utilities in parts.items():
        fill(name, softmax(utilities, test.starts))
    report("fit on the market")
    on_market = fit_on_market(model, train_runners, train)
    if on_market is None:
        fill(_RESIDUAL, np.full(test.rows.size, np.nan))
        return fitted, 1.0
    fill(
        _RESIDUAL,
        residual_probabilities(on_market.model.utilities(test_runners), test.pi, on_market.beta, test.starts),
    )
    return fitted, on_market.beta


@dataclass(slots=True)
class _Steps:
    """Reports the progress of successive steps."""

    progress: Progress
    steps: int
    done: int = 0

    def __call__(self, what: str, of: str = "") -> None:
        self.progress(f"{what} for {of}" if of else what, self.done, self.steps)
        self.done += 1


def drifted(before: Floats, after: Floats, features: Sequence[str], bins: int = 10) -> dict[str, float]:
    """Population stability index of each feature, greatest first: Σ (a − b)·ln(a/b) over deciles of `before` and a NaN bin.

    Values above 0.25 are commonly called a shift. Half a runner is added to every bin to keep the logarithm finite.
    """
    index = {}
    for column, name in enumerate(features):
        known = before[:, column][~np.isnan(before[:, column])]
        cuts = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if known.size else np.empty(0)
        shares = [_shares(values[:, column], cuts) for values in (before, after)]
        index[name] = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    return dict(sorted(index.items(), key=lambda item: -item[1]))


def _shares(values: Floats, cuts: Floats) -> Floats:
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(cuts, known), minlength=cuts.size + 1)
    runners = np.r_[counts, values.size - known.size] + 0.5
    return np.asarray(runners / runners.sum(), dtype=np.float64)


def _edges(plan: WalkForwardPlan, months: int, past: int) -> list[np.datetime64]:
    """The first day of each fold, then the day after the last fold."""
    end = plan.until + timedelta(days=1)
    edges = [shifted(plan.since, months * number) for number in range(-past, 1)]
    number = 1
    while (edge := shifted(plan.since, months * number)) < end:
        edges.append(edge)
        number += 1
    return [np.datetime64(edge, "D") for edge in (*edges, end)]
