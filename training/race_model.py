"""The model protocol: two methods that a model needs to be backtested, judged by the gate, stored, served and bet on paper.

`fit` learns from races whose result is known and returns a fitted model; `utilities` gives a number per runner of races to
predict. The softmax of a race's utilities are its winning probabilities. Everything else is the pipeline's: refits, embargo,
blend with the market, calibration, gate, bundle. VÉLØ's own model (`velo.training.model.fitting.TreesAndLogit`) is one
implementation; `velo.training.model.own_models` adapts scikit-learn classifiers, XGBoost, CatBoost and plain functions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from velo.feature_repo.catalogue.within_race import centred
from velo.training.dataset.by_race import Floats, Indices, sizes_of

if TYPE_CHECKING:
    from velo.training.dataset.races import Races

VELO: Final = "velo"
"""The kind of VÉLØ's own model; the others are the user's."""
CLASSIFIER: Final = "classifier"
FUNCTION: Final = "function"
PROTOCOL: Final = "protocol"


@dataclass(frozen=True)
class Runners:
    """The starters of some races: the runners of a race lie together, the races in order of time.

    `matrix` is float64, (runners, features), NaN where a value is unknown; its columns are `features`, in the units of the
    catalogue, as known at each race's decision time. `starts` is (races,): the row at which each race begins. It holds no
    result and no price.
    """

    matrix: Floats
    starts: Indices
    features: tuple[str, ...]
    _centred: list[Floats] = field(default_factory=list, repr=False, compare=False)
    _whole: "tuple[Runners, Indices] | None" = field(default=None, repr=False, compare=False)

    @property
    def count(self) -> int:
        """The number of runners, the rows of `matrix`."""
        return int(self.matrix.shape[0])

    @property
    def sizes(self) -> Indices:
        """The number of runners of each race, (races,)."""
        return sizes_of(self.starts, self.count)

    @property
    def centred(self) -> Floats:
        """`matrix` less the mean of the known values of each race, (runners, features); computed once for all copies."""
        if not self._centred and self._whole is not None:
            whole, rows = self._whole
            self._centred.append(whole.centred[rows])
        elif not self._centred:
            self._centred.append(centred(self.matrix, np.repeat(np.arange(self.starts.size), self.sizes)))
        return self._centred[0]

    def of(self, races: "Races") -> "Runners":
        """A copy with the runners of some races; `races.rows` are rows of this matrix."""
        return Runners(self.matrix[races.rows], races.starts, self.features, _whole=(self, races.rows))

    def select(self, features: tuple[str, ...]) -> "Runners":
        """The same runners with some of the columns, in the order asked for."""
        if features == self.features:
            return self
        places = [self.features.index(name) for name in features]
        return Runners(self.matrix[:, places], self.starts, features)

    def race(self, number: int) -> "Runners":
        """One race, by its position in `starts`."""
        begin = int(self.starts[number])
        return Runners(self.matrix[begin : begin + int(self.sizes[number])], np.zeros(1, dtype=np.intp), self.features)


class FittedModel(Protocol):
    """A fitted model. It may instead have `probabilities`, with the same shape: winning probabilities, normalised by race."""

    def utilities(self, runners: Runners) -> Floats:
        """One finite number per runner, (runners,), float64, in nats; only differences within a race matter.

        A race's utilities depend on that race alone: a race is scored by itself when it is served.
        """
        ...


class RaceModel(Protocol):
    """A model that is not fitted yet. Every refit calls `fit` on earlier days only; no call may change a later one."""

    def fit(self, runners: Runners, races: "Races") -> FittedModel:
        """Learn from races whose result is known.

        `races.share` is each runner's share of the win, (runners,), which sums to 1 in each race; `races.pi` the market's
        probability at the starting price, (runners,), NaN for a race in which any runner has no price; `races.days` the
        local date of each race, (races,). Rows are in the order of `runners`.
        """
        ...


# What a model may have in addition. Each one is used where it is present.


@runtime_checkable
class ChoosesOnce(Protocol):
    """A model that chooses its settings once, on the training days of the first refit."""

    def chosen(self, runners: Runners, races: "Races") -> RaceModel:
        """The model with its settings chosen; no race of these is predicted afterwards."""
        ...


@runtime_checkable
class LearnsOnMarket(Protocol):
    """A model that can learn what the market leaves out: the residual blend of the contract, section 9."""

    def fit_on_market(self, runners: Runners, races: "Races", offset: Floats) -> FittedModel | None:
        """A model whose utilities are added to `offset`, β·log π of each runner, (runners,); None if it cannot learn one."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A fitted model made of parts that are measured by themselves."""

    def parts(self, runners: Runners) -> Mapping[str, Floats]:
        """Utilities by name of the part, (runners,) each; `logit` names a plain conditional logit, the baseline."""
        ...


@runtime_checkable
class HasImportance(Protocol):
    """A fitted model that states how much each feature matters to it."""

    def importance(self) -> dict[str, float]:
        """Shares by feature, which sum to 1, greatest first."""
        ...


@runtime_checkable
class HasContributions(Protocol):
    """A fitted model that can explain its utilities feature by feature."""

    def contributions(self, runners: Runners) -> Floats:
        """The contribution of each feature to each runner's utility, (runners, features), up to a constant of all runners."""
        ...


@runtime_checkable
class HasSettings(Protocol):
    """A model that states how it is made."""

    def settings(self) -> dict[str, Any]:
        """Names and values that JSON supports; equal settings make equal models of equal data."""
        ...
