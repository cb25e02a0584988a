"""VÉLØ's own fitted model: boosted trees and a conditional logit, averaged by weight in their utilities.

Its stored form is text: LightGBM's own, and numbers as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from velo.training.by_race import Floats, Indices, softmax
from velo.training.logit import Logit
from velo.training.race_model import Runners

if TYPE_CHECKING:
    import lightgbm


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
    """A fitted model: `trees` is LightGBM's text, one model per seed, one after another.

    The utilities of a model fitted on top of the market do not include the market.
    """

    trees: str
    logit: Logit
    logit_share: float
    threads: int = 1

    def utilities(self, runners: Runners) -> Floats:
        """The utility of each runner, (runners,)."""
        own = (1.0 - self.logit_share) * self.tree_scores(runners)
        return np.asarray(own + self.logit_share * self.logit.scores(runners.centred), dtype=np.float64)

    def tree_scores(self, runners: Runners) -> Floats:
        """The utility of each runner by the trees alone, (runners,)."""
        return mean_prediction(self.trees, runners.matrix, self.threads, raw_score=True)

    def parts(self, runners: Runners) -> Mapping[str, Floats]:
        """The utilities of the trees and of the logit, each by itself."""
        return {"trees": self.tree_scores(runners), "logit": self.logit.scores(runners.centred)}

    def probabilities(self, runners: Runners, starts: Indices) -> Floats:
        """Winning probabilities, which sum to 1 in each race."""
        return softmax(self.utilities(runners), starts)

    def contributions(self, runners: Runners) -> Floats:
        """What each feature adds to each runner's utility, (runners, features), up to a constant of all runners.

        Shapley values of the trees and the terms of the logit, weighted as in the utility.
        """
        shap = mean_prediction(self.trees, runners.matrix, self.threads, pred_contrib=True)
        own = (1.0 - self.logit_share) * shap[:, :-1]
        return np.asarray(own + self.logit_share * self.logit.contributions(runners.centred), dtype=np.float64)

    def importance(self) -> dict[str, float]:
        """Each feature's share of the total gain of the trees, greatest first; unused features are left out."""
        return importance_of(self.trees)

    def linear(self) -> dict[str, Any]:
        """The logit and its weight, as JSON."""
        return {"logit_share": self.logit_share, "logit": self.logit.to_json()}

    def files(self) -> dict[str, bytes]:
        """The files of its stored form by name; `of_files` is the inverse."""
        text = json.dumps(self.linear(), indent=1, ensure_ascii=False) + "\n"
        return {"model.txt": self.trees.encode(), "logit.json": text.encode()}

    @staticmethod
    def of_files(files: Mapping[str, bytes]) -> "Ensemble":
        """The model of its stored files; raises `UserError` for a logit of another format."""
        return Ensemble.of_parts(files["model.txt"].decode(), json.loads(files["logit.json"]))

    @staticmethod
    def of_parts(trees: str, linear: Mapping[str, Any]) -> "Ensemble":
        """The model of LightGBM's text and what `linear` returned."""
        return Ensemble(trees, Logit.from_json(linear["logit"]), linear["logit_share"])


def importance_of(trees: str) -> dict[str, float]:
    """Each feature's share of the total gain of a LightGBM text, greatest first; unused features are left out."""
    boosters = boosters_of(trees)
    gain_sums = sum(booster.feature_importance("gain") for booster in boosters)
    gains = dict(zip(boosters[0].feature_name(), np.asarray(gain_sums).tolist(), strict=True))
    whole = sum(gains.values()) or 1.0
    return {name: gain / whole for name, gain in sorted(gains.items(), key=lambda item: -item[1]) if gain > 0.0}
