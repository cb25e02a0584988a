"""Trees and a conditional logit as one model: the weighted mean of their utilities, so what drives it still adds up.

Made of text alone (LightGBM's own, and numbers): what a bundle keeps, and all that serving needs of a model.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from velo.feature_repo.catalogue.within_race import centred
from velo.training.by_race import Floats, Indices, sizes_of, softmax
from velo.training.logit import Logit

if TYPE_CHECKING:
    import lightgbm


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads, a row a runner: features as the catalogue has them (trees), and against their race (the logit)."""

    raw: Floats
    centred: Floats

    def rows(self, wanted: Indices) -> "Inputs":
        """Some rows."""
        return Inputs(self.raw[wanted], self.centred[wanted])


def inputs(matrix: Floats, starts: Indices) -> Inputs:
    """The inputs of whole races, whose runners lie together; each race for itself, in whatever order its runners are."""
    return Inputs(matrix, centred(matrix, np.repeat(np.arange(starts.size), sizes_of(starts, matrix.shape[0]))))


_FIRST_LINE: Final = "tree\n"


@lru_cache(maxsize=8)
def boosters_of(text: str) -> "tuple[lightgbm.Booster, ...]":
    """Parse a text that holds one or more LightGBM models, one after another; raises ValueError if it holds none."""
    import lightgbm

    before, *bodies = f"\n{text}".split(f"\n{_FIRST_LINE}")
    if before or not bodies:
        raise ValueError(f"the text of a LightGBM model must begin with {_FIRST_LINE.strip()!r}, got {text[:40]!r}")
    return tuple(lightgbm.Booster(model_str=_FIRST_LINE + body) for body in bodies)


def mean_prediction(text: str, matrix: Floats, threads: int, **options: Any) -> Floats:
    """The mean of the predictions of a text's models; `options` are those of LightGBM's `predict`.

    Models grown from different seeds differ by as much as a good feature is worth; their mean varies less.
    """
    boosters = boosters_of(text)
    total: Any = 0.0
    for booster in boosters:
        total = total + booster.predict(matrix, num_threads=threads, **options)
    return np.asarray(total / len(boosters), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A fitted model: `trees` is LightGBM's text, of several models one after another. One grown on top of the market has not the market in its scores."""

    trees: str
    logit: Logit
    logit_share: float
    threads: int = 1

    def scores(self, given: Inputs) -> Floats:
        """The utility of each runner."""
        own = (1.0 - self.logit_share) * self.tree_scores(given)
        return np.asarray(own + self.logit_share * self.logit.scores(given.centred), dtype=np.float64)

    def tree_scores(self, given: Inputs) -> Floats:
        """The utility of each runner by the trees alone."""
        return mean_prediction(self.trees, given.raw, self.threads, raw_score=True)

    def probabilities(self, given: Inputs, starts: Indices) -> Floats:
        """Probabilities of each race, summing to 1."""
        return softmax(self.scores(given), starts)

    def contributions(self, given: Inputs) -> Floats:
        """What each feature adds to each runner's utility, (runners, features), but for a constant of all runners.

        Shapley values of the trees and the terms of the logit, weighted as they are in the utility.
        """
        shap = mean_prediction(self.trees, given.raw, self.threads, pred_contrib=True)
        own = (1.0 - self.logit_share) * shap[:, :-1]
        return np.asarray(own + self.logit_share * self.logit.contributions(given.centred), dtype=np.float64)
