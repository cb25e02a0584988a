"""LightGBM with a softmax within the race: its score is the utility of a conditional logit, one winner a race."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_repo.catalogue.columns import COLUMNS
from training.blocks import softmax
from training.metrics import winner_log_loss
from training.races import Races

Floats = NDArray[np.float64]

TELLS_TIME_ONLY: Final = frozenset({"horse_form__last_race_day"})
"""Grows with the calendar: no later day lies in the range a tree was fitted on. The days since are a feature."""
FEATURES: Final = tuple(name for name in COLUMNS if name not in TELLS_TIME_ONLY)
ROWS_A_LEAF_SHARE: Final = 400
"""A leaf holds at least one row in so many, up to `Options.min_rows_a_leaf`: a small set gets small leaves."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is grown. `patience` is how many rounds without a better validation loss end it."""

    seed: int = 1
    rounds: int = 800
    patience: int = 80
    learning_rate: float = 0.05
    leaves: int = 24
    min_rows_a_leaf: int = 300
    feature_fraction: float = 0.2
    bagging_fraction: float = 0.7
    l2: float = 20.0
    bins: int = 63
    threads: int = 2

    def parameters(self, rows: int) -> dict[str, Any]:
        """LightGBM's parameters for so many training rows. The same options and data give the same trees."""
        return {
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
            "num_threads": self.threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            "metric": "none",
        }


@dataclass(frozen=True, slots=True)
class Fitted:
    """A grown model: LightGBM's text up to its best round, and the validation loss there (None if none was watched)."""

    text: str
    rounds: int
    validation_log_loss: float | None
    options: Options

    def scores(self, matrix: Floats) -> Floats:
        """The score of each row; one trained on top of an offset has it not in its scores."""
        booster = lightgbm.Booster(model_str=self.text)
        scores = booster.predict(matrix, raw_score=True, num_threads=self.options.threads)
        return np.asarray(scores, dtype=np.float64)

    def probabilities(self, matrix: Floats, races: Races) -> Floats:
        """Probabilities of the starters of some races; `matrix` has their rows."""
        return softmax(self.scores(matrix), races.starts)

    def importance(self) -> dict[str, float]:
        """The share of all gain that each feature brought, greatest first; features never used are left out."""
        booster = lightgbm.Booster(model_str=self.text)
        gains = dict(zip(booster.feature_name(), booster.feature_importance("gain").tolist(), strict=True))
        whole = sum(gains.values()) or 1.0
        return {name: gain / whole for name, gain in sorted(gains.items(), key=lambda one: -one[1]) if gain > 0.0}

    def settings(self) -> dict[str, Any]:
        """How it was grown, for the record."""
        return asdict(self.options) | {"best_round": self.rounds}


def fit(
    train: tuple[Floats, Races],
    validation: tuple[Floats, Races],
    features: tuple[str, ...],
    options: Options,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
    offsets: tuple[Floats, Floats] | None = None,
) -> Fitted:
    """Grow trees on the training races until the winner log loss of the validation races stops falling.

    Each matrix has the rows of its races, in their order, with the columns `features`. `offsets`, of the rows of both, are
    what the trees are grown on top of (`training.market.market_offset`).
    """
    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    watched = lightgbm.Dataset(validation[0], validation[1].share, reference=learned)
    if offsets is not None:
        learned.set_init_score(offsets[0])
        watched.set_init_score(offsets[1])
    races = {id(learned): train[1], id(watched): validation[1]}
    evaluated: dict[str, dict[str, list[float]]] = {}

    def objective(scores: Floats, data: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, races[id(data)])

    def loss(scores: Floats, data: lightgbm.Dataset) -> tuple[str, float, bool]:
        of = races[id(data)]
        return "winner_log_loss", float(winner_log_loss(softmax(scores, of.starts), of).mean()), False

    booster = lightgbm.train(
        options.parameters(train[1].rows.size) | {"objective": objective},
        learned,
        num_boost_round=options.rounds,
        valid_sets=[watched],
        valid_names=["validation"],
        feval=loss,
        callbacks=[
            lightgbm.early_stopping(options.patience, verbose=False),
            lightgbm.record_evaluation(evaluated),
            _teller(progress, options.rounds),
        ],
    )
    best = booster.best_iteration or booster.current_iteration()
    losses = evaluated["validation"]["winner_log_loss"]
    return Fitted(booster.model_to_string(num_iteration=best), best, losses[best - 1], options)


def grow(
    train: tuple[Floats, Races],
    features: tuple[str, ...],
    options: Options,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
    offset: Floats | None = None,
) -> Fitted:
    """Grow so many rounds on all of the training races, watching none; as `fit` otherwise."""
    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    if offset is not None:
        learned.set_init_score(offset)

    def objective(scores: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, train[1])

    parameters = options.parameters(train[1].rows.size) | {"objective": objective}
    booster = lightgbm.train(parameters, learned, num_boost_round=rounds, callbacks=[_teller(progress, rounds)])
    return Fitted(booster.model_to_string(), rounds, None, options)


def _teller(progress: Callable[[int, int], None], rounds: int) -> Callable[[Any], None]:
    def tell(environment: Any) -> None:
        progress(environment.iteration + 1, rounds)

    return tell


def gradients(scores: Floats, races: Races) -> tuple[Floats, Floats]:
    """First and (diagonal) second derivative of the winner log loss of every race with respect to the scores."""
    chance = softmax(scores, races.starts)
    return chance - races.share, chance * (1.0 - chance)
