"""`velo train --search`: a small declared grid of options, compared by forward cross-validation over race days.

Every candidate differs from the base options in one thing, so the table shows what each is worth. No race day is split between
folds, an embargo precedes each fold, and the days on which the model is measured afterwards take no part.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.training.backtest_metrics import winner_loss
from velo.training.by_race import Floats, softmax
from velo.training.fitting import PATIENCE, WATCHED_SHARE, part
from velo.training.folds import EMBARGO_DAYS, Fold, forward_folds
from velo.training.logit import fit_logit
from velo.training.model import DART, FEATURES, ModelOptions, faded, fit, grow
from velo.training.race_model import Runners
from velo.training.races import Races
from velo.training.threads import numeric_threads

Progress = Callable[[str, int, int], None]

FOLDS: Final = 2
FIRST_SHARE: Final = 0.7
GRID: Final[Mapping[str, Mapping[str, Any]]] = {
    "as chosen": {},
    "taught by wins alone": {"soft_target": 0.0},
    "taught half by π": {"soft_target": 0.5},
    "trees alone": {"logit_share": 0.0},
    "logit alone": {"logit_share": 1.0},
    "logit L2 3,000": {"logit_l2": 3000.0},
    "monotone": {"monotone": True},
    "trees L2 5": {"l2": 5.0},
    "trees L2 100": {"l2": 100.0},
    "48 leaves": {"leaves": 48},
    "DART": {"boosting": DART, "rounds": 400},
}


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate: `r2` over the races of all folds, `gain` its R² less that of the base options, and `gain_se` its standard error.

    `rounds` is the number of boosting rounds. `taken` marks the candidate with the least winner log loss.
    """

    name: str
    rounds: int
    r2: float
    gain: float
    gain_se: float
    races: int
    taken: bool


def search(
    given: Runners,
    races: Races,
    wanted: NDArray[np.bool_],
    base: ModelOptions,
    progress: Progress,
    grid: Mapping[str, Mapping[str, Any]] = GRID,
) -> tuple[ModelOptions, tuple[Tried, ...]]:
    """The best options of the grid over the wanted races, and the table; `given` has a row per starter of `races`.

    Rounds are chosen for each candidate on the last days of the first fold's training races. Raises `UserError` for too few
    race days.
    """
    own = part(races, wanted)
    folds = forward_folds(own.days, FOLDS, EMBARGO_DAYS, FIRST_SHARE)
    logits: dict[tuple[float, float], list[Floats]] = {}
    losses: dict[str, Floats] = {}
    rounds: dict[str, int] = {}
    for number, (name, changed) in enumerate(grid.items()):
        progress(f"try {name}", number, len(grid))
        # one seed each: more would change all candidates alike
        options = replace(base, seeds=1, **changed)
        key = (options.soft_target, options.logit_l2)
        if options.logit_share > 0.0 and key not in logits:
            logits[key] = [_logit_scores(given, own, fold, options) for fold in folds]
        linear = logits.get(key)
        rounds[name] = 0 if options.logit_share == 1.0 else _rounds(given, own.only(folds[0].train), options)
        fold_losses = []
        for at, fold in enumerate(folds):
            test = own.only(fold.test)
            scores = np.zeros(test.rows.size)
            if linear is not None:
                scores += options.logit_share * linear[at]
            if options.logit_share < 1.0:
                train = own.only(fold.train)
                trees = grow((given.matrix[train.rows], train), FEATURES, options, rounds[name])
                scores += (1.0 - options.logit_share) * trees.scores(given.matrix[test.rows])
            fold_losses.append(winner_loss(softmax(scores, test.starts), test.share, test.starts))
        losses[name] = np.concatenate(fold_losses)
    progress("try", len(grid), len(grid))
    best = min(losses, key=lambda name: float(losses[name].mean()))
    sizes = np.concatenate([own.only(fold.test).sizes for fold in folds])
    days = np.concatenate([own.only(fold.test).days for fold in folds])
    table = _table(losses, rounds, sizes, days, best)
    return replace(base, **grid[best]), table


def _table(
    losses: Mapping[str, Floats],
    rounds: Mapping[str, int],
    sizes: NDArray[np.intp],
    days: NDArray[np.datetime64],
    best: str,
) -> tuple[Tried, ...]:
    uniform = float(np.log(sizes.astype(np.float64)).sum())
    chosen = next(iter(losses.values()))
    day = np.unique(days, return_inverse=True)[1]
    table = []
    for name, loss in losses.items():
        # races of one day are correlated: the standard error is over days
        by_day = np.bincount(day, chosen - loss)
        error = float(np.sqrt(((by_day - by_day.mean()) ** 2).sum())) / uniform
        r2, gain = 1.0 - float(loss.sum()) / uniform, float(by_day.sum()) / uniform
        table.append(Tried(name, rounds[name], r2, gain, error, loss.size, name == best))
    return tuple(table)


def _logit_scores(given: Runners, races: Races, fold: Fold, options: ModelOptions) -> Floats:
    train, test = races.only(fold.train), races.only(fold.test)
    target = train.target(options.soft_target)
    without = faded(given.matrix[train.rows], train, FEATURES)
    with numeric_threads():
        fitted = fit_logit(given.centred[train.rows], train.starts, target, FEATURES, options.logit_l2, without=without)
    return fitted.scores(given.centred[test.rows])


def _rounds(given: Runners, train: Races, options: ModelOptions) -> int:
    days = np.unique(train.days)
    late = train.days >= days[-max(1, round(days.size * WATCHED_SHARE))]
    learned, watched = train.only(~late), train.only(late)
    chosen = replace(options, patience=min(options.patience, PATIENCE))
    if options.boosting == DART:
        return options.rounds
    return fit((given.matrix[learned.rows], learned), (given.matrix[watched.rows], watched), FEATURES, chosen).rounds
