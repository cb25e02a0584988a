"""VÉLØ's own fitted model: boosted trees and a conditional logit, averaged by weight in their utilities.

The conditional logit is also the baseline that a model must beat. A runner's score is linear in its standardised features; the
softmax of a race's scores are its probabilities. A missing value takes the training mean (0 once standardised). The stored form
is text: LightGBM's own, and numbers as JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices, softmax, spread, total
from velo.training.model.tree_shap import NotTabulated, ShapTables
from velo.training.race_model import Runners

if TYPE_CHECKING:
    import lightgbm


FORMAT: Final = 1
L2: Final = 30.0
"""Penalty ½·L2·|w|² on the summed loss of standardised features: a normal prior of each weight with deviation 1/√L2."""
LEAST_RACES: Final = 20
CLIP_SD: Final = 6.0
"""Standardised values are clipped at this many standard deviations, so that one absurd value cannot decide a race."""
RACES_A_BLOCK: Final = 256
COLUMNS_A_BLOCK: Final = 16
"""Races and columns that are summed at a time: the temporary copies of a few MB stay in the cache."""


@dataclass(frozen=True, slots=True)
class Logit:
    """A fitted conditional logit. `weights` are of standardised features; `log_loss` is the mean of the training races, in nats."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    l2: float
    races: int
    log_loss: float

    def scores(self, matrix: Floats) -> Floats:
        """The score of each runner, (runners,); `matrix` is (runners, features)."""
        # Each row is summed by itself and in memory order. A matrix product treats its last rows differently, and a
        # column-major matrix is added in another order: the last bit would differ.
        return np.asarray(np.ascontiguousarray(self.contributions(matrix)).sum(axis=1), dtype=np.float64)

    def contributions(self, matrix: Floats) -> Floats:
        """The contribution of each feature to each row's score, (rows, features)."""
        columns = _standardised(matrix, np.array(self.means), np.array(self.scales))
        columns *= np.array(self.weights)
        return columns

    def probabilities(self, matrix: Floats, starts: Indices, offset: Floats | None = None) -> Floats:
        """Probabilities, which sum to 1 in each race; `offset` is that of its training (`velo.training.market.market`)."""
        scores = self.scores(matrix)
        return softmax(scores if offset is None else scores + offset, starts)

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Logit":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(
                f"logit format is {kept.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        means, scales, weights = (tuple(kept[name]) for name in ("means", "scales", "weights"))
        return Logit(tuple(kept["features"]), means, scales, weights, kept["l2"], kept["races"], kept["log_loss"])


def fit_logit(
    matrix: Floats,
    starts: Indices,
    share: Floats,
    features: Sequence[str],
    l2: float = L2,
    offset: Floats | None = None,
    without: NDArray[np.bool_] | None = None,
) -> Logit:
    """Fit the weights of least winner log loss plus ½·l2·|w|² by Newton steps in a trust region; the loss is convex.

    `share` is each runner's share of the win, which sums to 1 in each race; `offset` is added to the scores and not fitted;
    features marked in `without` get weight 0.
    Raises `UserError` for fewer than `LEAST_RACES` races.
    """
    from scipy.optimize import minimize

    if starts.size < LEAST_RACES:
        raise UserError(f"{starts.size} races are too few to fit a logit: at least {LEAST_RACES} are needed")
    means, scales = _spans(matrix)
    columns = _standardised(matrix, means, scales)
    if without is not None:
        columns[:, without] = 0.0
    fixed = np.zeros(share.size) if offset is None else offset
    won = share @ columns
    won_fixed = float(share @ fixed)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = columns @ weights + fixed
        top = np.maximum.reduceat(scores, starts)
        value = (top + np.log(total(np.exp(scores - spread(top, starts, scores.size)), starts))).sum()
        value += l2 * (weights @ weights) / 2.0 - won @ weights - won_fixed
        return float(value), np.asarray(softmax(scores, starts) @ columns - won + l2 * weights, dtype=np.float64)

    def curvature(weights: Floats) -> Floats:
        # the covariance of the columns within each race, weighted by the probabilities; a block of races fits the cache
        chances = softmax(columns @ weights + fixed, starts)
        found = l2 * np.eye(columns.shape[1])
        for first in range(0, starts.size, RACES_A_BLOCK):
            begins = starts[first : first + RACES_A_BLOCK]
            after = starts[first + RACES_A_BLOCK] if first + RACES_A_BLOCK < starts.size else share.size
            block = columns[begins[0] : after]
            weighted = block * chances[begins[0] : after, np.newaxis]
            means_of = np.add.reduceat(weighted, begins - begins[0], axis=0)
            found += block.T @ weighted - means_of.T @ means_of
        return found

    found = minimize(
        loss, np.zeros(columns.shape[1]), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-5}
    )
    weights = np.asarray(found.x, dtype=np.float64)
    value = (float(found.fun) - l2 * float(weights @ weights) / 2.0) / starts.size
    return Logit(
        tuple(features), tuple(means.tolist()), tuple(scales.tolist()), tuple(weights.tolist()), l2, starts.size, value
    )


def _spans(matrix: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column's known values; 0 and 1 for an unknown column, deviation 1 for a constant."""
    width = matrix.shape[1]
    means, scales = np.zeros(width), np.ones(width)
    # a few columns at a time: a copy of the whole matrix costs more than the sums
    for columns in np.array_split(np.arange(width), max(1, -(-width // COLUMNS_A_BLOCK))):
        block = np.ascontiguousarray(matrix[:, columns])
        known = ~np.isnan(block)
        counts = np.maximum(known.sum(axis=0), 1)
        means[columns] = np.where(known, block, 0.0).sum(axis=0) / counts
        spreads = np.sqrt((np.where(known, block - means[columns], 0.0) ** 2).sum(axis=0) / counts)
        # a deviation that is rounding error alone would turn a constant into noise
        scales[columns] = np.where(spreads > 1e-12 * np.maximum(np.abs(means[columns]), 1.0), spreads, 1.0)
    return means, scales


def _standardised(matrix: Floats, means: Floats, scales: Floats) -> Floats:
    values = np.asarray(matrix - means, dtype=np.float64)
    values /= scales
    np.clip(values, -CLIP_SD, CLIP_SD, out=values)
    values[np.isnan(values)] = 0.0
    return values


_FIRST_LINE: Final = "tree\n"


@lru_cache(maxsize=8)
def boosters_of(text: str) -> "tuple[lightgbm.Booster, ...]":
    """Parse a text that holds one or more LightGBM models, one after another; raises ValueError if it holds none."""
    import lightgbm

    return tuple(lightgbm.Booster(model_str=model) for model in _models_of(text))


def _models_of(text: str) -> list[str]:
    before, *bodies = f"\n{text}".split(f"\n{_FIRST_LINE}")
    if before or not bodies:
        raise ValueError(f"the text of a LightGBM model must begin with {_FIRST_LINE.strip()!r}, got {text[:40]!r}")
    return [_FIRST_LINE + body for body in bodies]


@lru_cache(maxsize=4)
def shap_tables(text: str) -> ShapTables | None:
    """The tables that explain a text's models, made once (under a second); None where `ShapTables` cannot be made for them."""
    try:
        return ShapTables.of(_models_of(text))
    except NotTabulated:
        return None


def mean_contributions(text: str, matrix: Floats, threads: int) -> Floats:
    """The mean of the Shapley values of a text's models, (rows, features), up to rounding as LightGBM computes them."""
    tables = shap_tables(text)
    if tables is None:
        return np.asarray(mean_prediction(text, matrix, threads, pred_contrib=True)[:, :-1], dtype=np.float64)
    return tables.contributions(matrix)


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
        """The contribution of each feature to each runner's utility, (runners, features), up to a constant of all runners.

        Shapley values of the trees and the terms of the logit, weighted as in the utility.
        """
        own = (1.0 - self.logit_share) * mean_contributions(self.trees, runners.matrix, self.threads)
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
