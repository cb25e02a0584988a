"""LightGBM with a softmax within the race: its score is the utility of a conditional logit, one winner a race."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.columns import COLUMNS
from velo.training.by_race import softmax
from velo.training.ensemble import mean_prediction
from velo.training.metrics import SMALLEST
from velo.training.races import Races
from velo.training.threads import fitting_threads

Floats = NDArray[np.float64]

DART: Final = "dart"
TELLS_TIME_ONLY: Final = frozenset({"horse_form__last_race_day", "horse_ability__day"})
"""Grow with the calendar: no later day lies in the range a tree was fitted on. The days since are features."""
RATED: Final = ("official_rating", "horse_form__last_rating", "since_last_run__rating_change")
MAY_FADE: Final = frozenset(f"{name}{suffix}" for name in RATED for suffix in ("", "_rank", "_z"))
"""What some sources tell of most races of some years and of few of the next: who leant on it would stand without."""
FADED: Final = 0.7
"""Not learned from: what is known of so many times fewer runners in the last year trained on as in the year that knew most."""
FEATURES: Final = tuple(name for name in COLUMNS if name not in TELLS_TIME_ONLY)
ROWS_A_LEAF_SHARE: Final = 400
"""A leaf holds at least one row in so many, up to `ModelOptions.min_rows_a_leaf`: a small set gets small leaves."""


RISING: Final = frozenset(
    {"sr", "place_rate", "prb", "ae", "prb_last", "prb_ewma", "prb_best", "market_last", "market_ewma"}
)
"""Measures that never speak against a runner as they grow, all else equal: its own, its rider's or its yard's record."""
FALLING: Final = frozenset({"lengths_last", "lengths_ewma", "position_last"})
_THREADS: Final = re.compile(r"^\[num_threads: \d+\]$", re.MULTILINE)
_WINDOW: Final = re.compile(r"_\d+d$")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is made: trees, a conditional logit beside them, and what both are taught.

    `patience` is how many rounds without a better validation loss end the growing; `boosting` is LightGBM's `gbdt` or
    `dart` (which never stops early); `seeds` is how many models are grown, each of its own seed, and averaged; `monotone` binds the trees by `RISING` and `FALLING`. `soft_target` is the share
    of π in what the fundamental model is taught, the rest is the win: π of a training race is no feature, and no race
    that is predicted needs one. `logit_share` is the logit's share of the average utility; `logit_l2` its penalty. The
    `residual_` ones are of the model grown on top of the market, taught by wins alone.
    """

    seed: int = 1
    rounds: int = 400
    patience: int = 40
    learning_rate: float = 0.1
    leaves: int = 24
    min_rows_a_leaf: int = 300
    feature_fraction: float = 0.2
    bagging_fraction: float = 0.7
    l2: float = 20.0
    bins: int = 63
    boosting: str = "gbdt"
    monotone: bool = False
    soft_target: float = 0.8
    logit_share: float = 0.2
    logit_l2: float = 300.0
    residual_leaves: int = 8
    residual_learning_rate: float = 0.05
    residual_logit_l2: float = 3000.0
    residual_logit_share: float = 0.5
    threads: int = 0
    seeds: int = 3

    def of_residual(self) -> "ModelOptions":
        """The same for the model that is grown on top of the market."""
        return replace(
            self,
            leaves=min(self.leaves, self.residual_leaves),
            learning_rate=min(self.learning_rate, self.residual_learning_rate),
            monotone=False,
            soft_target=0.0,
            logit_l2=self.residual_logit_l2,
            logit_share=self.residual_logit_share,
        )

    def parameters(self, rows: int, features: Sequence[str] = ()) -> dict[str, Any]:
        """LightGBM's parameters for so many training rows. The same options and data give the same trees."""
        bound = {"monotone_constraints": [direction(name) for name in features]} if self.monotone else {}
        return bound | {
            "boosting": self.boosting,
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": max(5, min(self.min_rows_a_leaf, rows // ROWS_A_LEAF_SHARE)),
            "min_sum_hessian_in_leaf": 1e-3,
            "feature_fraction": self.feature_fraction,
            "bagging_fraction": self.bagging_fraction,
            "bagging_freq": 1,
            "lambda_l2": self.l2,
            "max_bin": self.bins,
            "seed": self.seed,
            "num_threads": self.threads or fitting_threads(),
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            "metric": "none",
        }


def direction(feature: str) -> int:
    """1 where the domain is sure that more never speaks against a runner, −1 where less, 0 where it is not.

    A rank counts from the highest value, so it points the other way.
    """
    name = feature.rpartition("__")[2]
    ranked = name.endswith("_rank")
    name = _WINDOW.sub("", name.removesuffix("_rank").removesuffix("_z"))
    sure = 1 if name in RISING else -1 if name in FALLING else 0
    return -sure if ranked else sure


@dataclass(frozen=True, slots=True)
class Fitted:
    """A grown model: LightGBM's text up to its best round, and the validation loss there, of what is taught (None if none was watched)."""

    text: str
    rounds: int
    validation_log_loss: float | None
    options: ModelOptions

    def scores(self, matrix: Floats) -> Floats:
        """The score of each row; one trained on top of an offset has it not in its scores."""
        return mean_prediction(self.text, matrix, self.options.threads or fitting_threads(), raw_score=True)

    def probabilities(self, matrix: Floats, races: Races) -> Floats:
        """Probabilities of the starters of some races; `matrix` has their rows."""
        return softmax(self.scores(matrix), races.starts)


def fit(
    train: tuple[Floats, Races],
    validation: tuple[Floats, Races],
    features: tuple[str, ...],
    options: ModelOptions,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
    offsets: tuple[Floats, Floats] | None = None,
) -> Fitted:
    """Grow trees on the training races until the log loss of the validation races stops falling: of what they are taught.

    Each matrix has the rows of its races, in their order, with the columns `features`. `offsets`, of the rows of both, are
    what the trees are grown on top of (`velo.training.market.market_offset`).
    """
    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    watched = lightgbm.Dataset(validation[0], validation[1].share, reference=learned)
    if offsets is not None:
        learned.set_init_score(offsets[0])
        watched.set_init_score(offsets[1])
    races = {id(learned): train[1], id(watched): validation[1]}
    # Watched by what is taught: a winner a race tells far less surely when to stop.
    targets = {name: of.target(options.soft_target) for name, of in races.items()}
    evaluated: dict[str, dict[str, list[float]]] = {}

    def objective(scores: Floats, data: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, races[id(data)], targets[id(data)])

    def loss(scores: Floats, data: lightgbm.Dataset) -> tuple[str, float, bool]:
        of = races[id(data)]
        logs = np.log(np.maximum(softmax(scores, of.starts), SMALLEST))
        return "log_loss", -float(of.total(targets[id(data)] * logs).mean()), False

    callbacks = [lightgbm.record_evaluation(evaluated), _teller(progress, options.rounds)]
    if options.boosting != DART:
        callbacks.append(lightgbm.early_stopping(options.patience, verbose=False))
    own = options.parameters(train[1].rows.size, features) | _weighing(*train, features)
    booster = lightgbm.train(
        own | {"objective": objective},
        learned,
        num_boost_round=options.rounds,
        valid_sets=[watched],
        valid_names=["validation"],
        feval=loss,
        callbacks=callbacks,
    )
    best = booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()
    losses = evaluated["validation"]["log_loss"]
    return Fitted(_text(booster, best), best, losses[best - 1], options)


def grow(
    train: tuple[Floats, Races],
    features: tuple[str, ...],
    options: ModelOptions,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
    offset: Floats | None = None,
) -> Fitted:
    """Grow so many rounds on all of the training races, watching none, from each seed, and take the mean; as `fit` otherwise."""
    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    if offset is not None:
        learned.set_init_score(offset)

    target = train[1].target(options.soft_target)

    def objective(scores: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, train[1], target)

    weighing = _weighing(*train, features)
    texts = []
    for number in range(options.seeds):
        own = replace(options, seed=options.seed + number).parameters(train[1].rows.size, features) | weighing
        told = _teller(progress, rounds)
        booster = lightgbm.train(own | {"objective": objective}, learned, num_boost_round=rounds, callbacks=[told])
        texts.append(_text(booster))
    return Fitted("".join(texts), rounds, None, options)


def _text(booster: lightgbm.Booster, rounds: int | None = None) -> str:
    """LightGBM's text, in which the number of threads is always 1: models of one fit are the same to the bit."""
    return _THREADS.sub("[num_threads: 1]", booster.model_to_string(num_iteration=rounds))


def _teller(progress: Callable[[int, int], None], rounds: int) -> Callable[[Any], None]:
    def tell(environment: Any) -> None:
        progress(environment.iteration + 1, rounds)

    return tell


def faded(matrix: Floats, races: Races, features: Sequence[str]) -> NDArray[np.bool_]:
    """Of each feature, whether it is one of `MAY_FADE` and was known of far fewer runners in the last year of the races than in another.

    `matrix` has the rows of the races, in their order. Years are counted back from the last race day, so nothing later is asked.
    """
    days = np.repeat(races.days.astype("datetime64[D]"), races.sizes)
    year = (days.max() - days).astype(np.int64) // 365
    runners = np.maximum(np.bincount(year), 1)
    gone = np.zeros(len(features), dtype=np.bool_)
    for place, name in enumerate(features):
        if name in MAY_FADE:
            known = np.bincount(year, ~np.isnan(matrix[:, place])) / runners
            gone[place] = known[0] < FADED * known.max()
    return gone


def _weighing(matrix: Floats, races: Races, features: Sequence[str]) -> dict[str, Any]:
    """LightGBM's parameters that have no tree split on a feature that faded."""
    gone = faded(matrix, races, features)
    return {"feature_contri": (~gone).astype(np.float64).tolist()} if gone.any() else {}


def gradients(scores: Floats, races: Races, target: Floats | None = None) -> tuple[Floats, Floats]:
    """First and (diagonal) second derivative of the log loss of every race with respect to the scores.

    `target` is what is taught of each runner, summing to 1 in each race; without it, who won.
    """
    chance = softmax(scores, races.starts)
    return chance - (races.share if target is None else target), chance * (1.0 - chance)
