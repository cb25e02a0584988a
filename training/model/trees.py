"""LightGBM with a softmax within the race: its score is the utility of a conditional logit with one winner per race."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.columns import CALENDAR, COLUMNS
from velo.training.dataset.by_race import Floats, softmax
from velo.training.dataset.races import Races
from velo.training.market.market import SMALLEST
from velo.training.model.ensemble import mean_prediction
from velo.training.model.threads import Fit, fitted_together, fitting_threads

DART: Final = "dart"
RATED: Final = ("official_rating", "horse_form__last_rating", "since_last_run__rating_change")
MAY_FADE: Final = frozenset(f"{name}{suffix}" for name in RATED for suffix in ("", "_rank", "_z"))
"""Columns that some sources give for most races of some years and for few of the next: a model that relied on them would lose them."""
FADED: Final = 0.7
"""A column of `MAY_FADE` is left out if its share of known values in the last training year is below this part of the best year's."""
FEATURES: Final = tuple(name for name in COLUMNS if name not in CALENDAR)
ROWS_A_LEAF_SHARE: Final = 400
"""A leaf holds at least one training row in this many, up to `ModelOptions.min_rows_a_leaf`: a small set gets small leaves."""


RISING: Final = frozenset(
    {"sr", "place_rate", "prb", "ae", "prb_last", "prb_ewma", "prb_best", "market_last", "market_ewma"}
)
"""Measures that never lower a runner's utility as they grow, all else equal: its own, its jockey's or its trainer's record."""
FALLING: Final = frozenset({"lengths_last", "lengths_ewma", "position_last"})
LATER_PLACES: Final = {2: (0.8, 0.5), 3: (0.65, 0.35)}
"""The exponent and the weight in the loss of each place after the first: chances are more equal there, and count less."""
LOWEST: Final = -1e6
"""The score of a runner that has taken an earlier place: its chance is 0."""
_WINDOW: Final = re.compile(r"_\d+d$")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options of VÉLØ's own model: the trees, the conditional logit, and the target of both.

    `patience` is the number of rounds without a better validation loss after which growing ends; `boosting` is LightGBM's `gbdt`
    or `dart` (which never ends early); `seeds` is the number of models grown from successive seeds and averaged; `monotone`
    constrains the trees by `RISING` and `FALLING`. `soft_target` is the share of π in the target of the fundamental model, and
    the win is the rest: π of a training race is not a feature, and prediction needs none. `logit_share` is the logit's weight in the
    utility, `logit_l2` its penalty. `places` is the number of first finishers that the trees learn from (`gradients`). The `residual_` options are those of the model on top of the market, whose target is the win
    alone. `threads` is 0 for as many as the machine has free.
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
    residual_places: int = 3
    places: int = 1
    threads: int = 0
    seeds: int = 3

    def of_residual(self) -> "ModelOptions":
        """The options of the model on top of the market."""
        return replace(
            self,
            leaves=min(self.leaves, self.residual_leaves),
            learning_rate=min(self.learning_rate, self.residual_learning_rate),
            monotone=False,
            soft_target=0.0,
            logit_l2=self.residual_logit_l2,
            logit_share=self.residual_logit_share,
            places=self.residual_places,
        )

    def parameters(self, rows: int, features: Sequence[str] = ()) -> dict[str, Any]:
        """LightGBM's parameters for a number of training rows. The same options and data give the same trees."""
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
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            "metric": "none",
        }


def direction(feature: str) -> int:
    """The sign of a monotone constraint: 1 if a higher value never lowers the utility, −1 if it never raises it, else 0.

    A rank counts from the highest value, so its sign is the opposite one.
    """
    name = feature.rpartition("__")[2]
    ranked = name.endswith("_rank")
    name = _WINDOW.sub("", name.removesuffix("_rank").removesuffix("_z"))
    sure = 1 if name in RISING else -1 if name in FALLING else 0
    return -sure if ranked else sure


@dataclass(frozen=True, slots=True)
class Fitted:
    """Grown trees: LightGBM's text up to the best round, and the validation loss of the target there (None without validation)."""

    text: str
    rounds: int
    validation_log_loss: float | None
    options: ModelOptions

    def scores(self, matrix: Floats) -> Floats:
        """The score of each row, (rows,); it does not include an offset that the trees were grown on."""
        return mean_prediction(self.text, matrix, self.options.threads or fitting_threads(), raw_score=True)

    def probabilities(self, matrix: Floats, races: Races) -> Floats:
        """Probabilities of the starters of some races, (rows,); `matrix` has their rows."""
        return softmax(self.scores(matrix), races.starts)


def fit(
    train: tuple[Floats, Races],
    validation: tuple[Floats, Races],
    features: tuple[str, ...],
    options: ModelOptions,
    offsets: tuple[Floats, Floats] | None = None,
    stopped: Event | None = None,
) -> Fitted:
    """Grow trees on the training races until the log loss of the target on the validation races stops falling.

    Each matrix has the rows of its races, in their order, with the columns `features`. The trees are grown on top of
    `offsets`, one per row of both (`velo.training.market.market.market_offset`). Raises `CancelledError` after `stopped` is set.
    """
    import lightgbm

    learned = lightgbm.Dataset(train[0], train[1].share, feature_name=list(features), free_raw_data=True)
    watched = lightgbm.Dataset(validation[0], validation[1].share, reference=learned)
    if offsets is not None:
        learned.set_init_score(offsets[0])
        watched.set_init_score(offsets[1])
    races = {id(learned): train[1], id(watched): validation[1]}
    # The loss is of the target: one winner per race is a much noisier sign of when to stop.
    targets = {name: of.target(options.soft_target) for name, of in races.items()}
    evaluated: dict[str, dict[str, list[float]]] = {}

    def objective(scores: Floats, data: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, races[id(data)], targets[id(data)], options.places)

    def loss(scores: Floats, data: lightgbm.Dataset) -> tuple[str, float, bool]:
        of = races[id(data)]
        logs = np.log(np.maximum(softmax(scores, of.starts), SMALLEST))
        return "log_loss", -float(of.total(targets[id(data)] * logs).mean()), False

    callbacks = [lightgbm.record_evaluation(evaluated), _ends_at(stopped or Event())]
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
    return Fitted(booster.model_to_string(num_iteration=best), best, losses[best - 1], options)


def growing(
    train: tuple[Floats, Races],
    features: tuple[str, ...],
    options: ModelOptions,
    rounds: int,
    offset: Floats | None = None,
) -> list[Fit]:
    """One fit per seed: `rounds` rounds on all training races, without validation, to LightGBM's text. Otherwise as `fit`.

    The seeds share the binned matrix, which is made at once, and the target.
    """
    import lightgbm

    own = options.parameters(train[1].rows.size, features) | _weighing(*train, features)
    binning = own | {"num_threads": options.threads or fitting_threads()}
    learned = lightgbm.Dataset(
        train[0], train[1].share, feature_name=list(features), params=binning, free_raw_data=True
    )
    if offset is not None:
        learned.set_init_score(offset)
    learned.construct()
    target = train[1].target(options.soft_target)

    def objective(scores: Floats, _: lightgbm.Dataset) -> tuple[Floats, Floats]:
        return gradients(scores, train[1], target, options.places)

    def fit_seed(seed: int, stopped: Event) -> str:
        changed = {"seed": seed, "objective": objective}
        grown = lightgbm.train(own | changed, learned, num_boost_round=rounds, callbacks=[_ends_at(stopped)])
        return grown.model_to_string()

    return [partial(fit_seed, options.seed + number) for number in range(options.seeds)]


def grow(
    train: tuple[Floats, Races],
    features: tuple[str, ...],
    options: ModelOptions,
    rounds: int,
    offset: Floats | None = None,
) -> Fitted:
    """Grow `rounds` rounds on all training races, without validation, once per seed; the model is their mean. Otherwise as `fit`."""
    texts = fitted_together(growing(train, features, options, rounds, offset), options.threads or fitting_threads())
    return Fitted("".join(texts), rounds, None, options)


def _ends_at(stopped: Event) -> Callable[[Any], None]:
    """A callback of LightGBM that ends the fit in the round after the event is set."""

    def check(_: Any) -> None:
        if stopped.is_set():
            raise CancelledError

    return check


def faded(matrix: Floats, races: Races, features: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each feature is one of `MAY_FADE` and known for far fewer runners in the last year than in another, (features,).

    `matrix` has the rows of the races, in their order. Years count back from the last race day, so nothing later is used.
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
    """LightGBM's parameters that keep every tree from splitting on a faded feature."""
    gone = faded(matrix, races, features)
    return {"feature_contri": (~gone).astype(np.float64).tolist()} if gone.any() else {}


def gradients(scores: Floats, races: Races, target: Floats | None = None, places: int = 1) -> tuple[Floats, Floats]:
    """First and (diagonal) second derivative of the log loss of every race with respect to the scores.

    `target` is the training target of each runner, which sums to 1 in each race; the share of the win without it. With
    `places` above 1 the loss has a term for each later place as well (Plackett–Luce): who was second among those that did
    not win, and so on. A place that nobody or more than one runner has adds nothing.
    """
    chance = softmax(scores, races.starts)
    slope, curve = chance - (races.share if target is None else target), chance * (1.0 - chance)
    if races.place is None:
        return slope, curve
    for number in range(2, places + 1):
        exponent, weight = LATER_PLACES[number]
        left = ~(races.place < number)
        taken = (races.place == number).astype(np.float64)
        counts = np.repeat(races.total(taken) == 1.0, races.sizes)
        chance = np.where(left, softmax(np.where(left, exponent * scores, LOWEST), races.starts), 0.0)
        slope += np.where(counts, weight * exponent * (chance - taken), 0.0)
        curve += np.where(counts, weight * exponent**2 * chance * (1.0 - chance), 0.0)
    return slope, curve
