"""VÉLØ's own model, unfitted: trees and a conditional logit, with and without the market; and the search of its options.

`velo train --search` compares a declared grid by forward cross-validation over race days. Every candidate differs from the base
options in one thing, so the table shows what each is worth. The days on which the model is measured afterwards take no part.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.training.dataset.by_race import Floats, softmax
from velo.training.dataset.races import EMBARGO_DAYS, Fold, Races, forward_folds
from velo.training.evaluation.metrics import winner_loss
from velo.training.market.market import LEAST_RACES, fit_market_exponent, market_offset
from velo.training.model.ensemble import Ensemble, Logit, fit_logit
from velo.training.model.threads import fitted_together, fitting_threads, numeric_threads
from velo.training.model.trees import DART, FEATURES, ModelOptions, faded, fit, grow, growing
from velo.training.race_model import FittedModel, LearnsOnMarket, RaceModel, Runners

PATIENCE: Final = 40
"""Rounds without a better loss after which the search for the number of rounds ends."""
WATCHED_SHARE: Final = 0.1
"""The last share of the training days, on which the number of rounds is chosen."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """Boosting rounds, without and with the market underneath (0 where too few races have a market)."""

    plain: int
    on_market: int


@dataclass(frozen=True, slots=True)
class TreesAndLogit:
    """VÉLØ's own model. `rounds` are chosen on the training days of the first refit and kept for the later ones."""

    options: ModelOptions = field(default_factory=ModelOptions)
    rounds: Rounds | None = None

    def chosen(self, runners: Runners, races: Races) -> "TreesAndLogit":
        """The model with the number of boosting rounds chosen on the last of these days."""
        return replace(self, rounds=choose_rounds(runners, races, self.options))

    def fit(self, runners: Runners, races: Races) -> Ensemble:
        """The model that has no market of the race it predicts."""
        rounds = self.rounds or choose_rounds(runners, races, self.options)
        return _fit(runners, races, self.options, rounds.plain, None)

    def fit_on_market(self, runners: Runners, races: Races, offset: Floats) -> Ensemble | None:
        """The model on top of the market; None where too few races had one to choose the rounds."""
        rounds = self.rounds or choose_rounds(runners, races, self.options)
        if rounds.on_market == 0:
            return None
        return _fit(runners, races, self.options.of_residual(), rounds.on_market, offset)

    def settings(self) -> dict[str, Any]:
        """The options, and the chosen rounds as `best_round` and `residual_rounds`."""
        if self.rounds is None:
            return asdict(self.options)
        return asdict(self.options) | {"best_round": self.rounds.plain, "residual_rounds": self.rounds.on_market}


def _fit(runners: Runners, races: Races, options: ModelOptions, rounds: int, offset: Floats | None) -> Ensemble:
    seeds = growing((runners.matrix, races), runners.features, options, rounds, offset)
    threads = options.threads or fitting_threads()
    logit, *texts = fitted_together([lambda _: _logit(runners, races, options, offset), *seeds], threads)
    return Ensemble("".join(texts), logit, options.logit_share, threads)


def _logit(runners: Runners, races: Races, options: ModelOptions, offset: Floats | None = None) -> Logit:
    target = races.target(options.soft_target)
    without = faded(runners.matrix, races, runners.features)
    with numeric_threads():
        return fit_logit(runners.centred, races.starts, target, runners.features, options.logit_l2, offset, without)


def fit_baseline(runners: Runners, races: Races) -> Logit:
    """The baseline that every model must beat: the plain conditional logit of our default options."""
    return _logit(runners, races, ModelOptions())


@dataclass(frozen=True, slots=True)
class OnMarket:
    """A model fitted on top of β·log π, and the β."""

    model: FittedModel
    beta: float


def fit_on_market(model: RaceModel, runners: Runners, races: Races) -> OnMarket | None:
    """Fit a model on top of the market, on the races that have one.

    None where they are too few, or where the model cannot learn on an offset.
    """
    where = has_market(races)
    priced = part(races, where)
    if not isinstance(model, LearnsOnMarket) or priced.count < LEAST_RACES:
        return None
    beta = fit_market_exponent(priced.pi, priced.starts, priced.share).beta
    fitted = model.fit_on_market(runners.of(priced), priced, market_offset(priced.pi, beta, priced.starts))
    return None if fitted is None else OnMarket(fitted, beta)


def choose_rounds(runners: Runners, races: Races, options: ModelOptions) -> Rounds:
    """The number of rounds that does best on the last days of some races, grown on the days before them."""
    days = np.unique(races.days)
    late = races.days >= days[-max(1, round(days.size * WATCHED_SHARE))]
    chosen = replace(options, patience=min(options.patience, PATIENCE))
    learned, watched = part(races, ~late), part(races, late)
    matrix, features = runners.matrix, runners.features
    priced, priced_watched = (half.only(has_market(half)) for half in (learned, watched))
    beside_market = priced.count >= LEAST_RACES and priced_watched.count > 0

    def plain(stopped: Event) -> int:
        pair = (matrix[learned.rows], learned), (matrix[watched.rows], watched)
        return fit(*pair, features, chosen, stopped=stopped).rounds

    def on_market(stopped: Event) -> int:
        beta = fit_market_exponent(priced.pi, priced.starts, priced.share).beta
        offsets = (
            market_offset(priced.pi, beta, priced.starts),
            market_offset(priced_watched.pi, beta, priced_watched.starts),
        )
        pair = (matrix[priced.rows], priced), (matrix[priced_watched.rows], priced_watched)
        return fit(*pair, features, chosen.of_residual(), offsets, stopped).rounds

    fits = [plain, on_market] if beside_market else [plain]
    rounds = fitted_together(fits, options.threads or fitting_threads())
    return Rounds(rounds[0], rounds[1] if beside_market else 0)


def part(races: Races, wanted: NDArray[np.bool_]) -> Races:
    """Some races, whose `rows` are those of a matrix of all starters of `races`."""
    return replace(races, rows=np.arange(races.share.size, dtype=np.intp)).only(wanted)


def has_market(races: Races) -> NDArray[np.bool_]:
    """Whether every starter of a race has a price, (races,)."""
    return np.asarray(~np.isnan(races.total(races.pi)), dtype=np.bool_)


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
