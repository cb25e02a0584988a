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
    """A grown model: LightGBM's text up to its best round, and the validation loss there."""

    text: str
    rounds: int
    validation_log_loss: float
    options: Options

    def probabilities(self, matrix: Floats, races: Races) -> Floats:
        """Probabilities of the starters of some races; `matrix` has their rows."""
        booster = lightgbm.Booster(model_str=self.text)
        scores = booster.predict(matrix, raw_score=True, num_threads=self.options.threads)
        return softmax(np.asarray(scores, dtype=np.float64), races.starts)

    def settings(self) -> dict[str, Any]:
        """How it was grown, for the record."""
        return asdict(self.options) | {"best_round": self.rounds}


def fit(
    train: tuple[Floats, Races],
    validation: tuple[Floats, Races],
    features: tuple[str, ...],
    options: Options,
    progress: Callable[[int, int], None] = lambda done, rounds: None,
) -> Fitted:
    """Grow trees on the training races until the winner log loss of the validation races stops falling.

    Each matrix has the rows of its races, in their order, with the columns `features`.
    """
    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    watched = lightgbm.Dataset(validation[0], validation[1].share, reference=learned)
    races = {id(learned): train[1], id(watched): validation[1]}
    evaluated: dict[str, dict[str, list[float]]] = {}

    def objective(scores: Floats, data: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, races[id(data)])

    def loss(scores: Floats, data: lightgbm.Dataset) -> tuple[str, float, bool]:
        of = races[id(data)]
        return "winner_log_loss", float(winner_log_loss(softmax(scores, of.starts), of).mean()), False

    def tell(environment: Any) -> None:
        progress(environment.iteration + 1, options.rounds)

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
            tell,
        ],
    )
    best = booster.best_iteration or booster.current_iteration()
    losses = evaluated["validation"]["winner_log_loss"]
    return Fitted(booster.model_to_string(num_iteration=best), best, losses[best - 1], options)


def gradients(scores: Floats, races: Races) -> tuple[Floats, Floats]:
    """First and (diagonal) second derivative of the winner log loss of every race with respect to the scores."""
    chance = softmax(scores, races.starts)
    return chance - races.share, chance * (1.0 - chance)
