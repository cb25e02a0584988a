"""VÉLØ's own model, unfitted: trees and a conditional logit, with and without the market underneath."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.training.by_race import Floats
from velo.training.ensemble import Ensemble
from velo.training.logit import Logit, fit_logit
from velo.training.market import LEAST_RACES, fit_market_exponent, market_offset
from velo.training.model import ModelOptions, faded, fit, grow
from velo.training.race_model import FittedModel, LearnsOnMarket, RaceModel, Runners
from velo.training.races import Races
from velo.training.threads import fitting_threads, numeric_threads

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
    trees = grow((runners.matrix, races), runners.features, options, rounds, offset=offset)
    return Ensemble(
        trees.text, _logit(runners, races, options, offset), options.logit_share, options.threads or fitting_threads()
    )


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
    plain = fit((matrix[learned.rows], learned), (matrix[watched.rows], watched), features, chosen)
    learned, watched = (half.only(has_market(half)) for half in (learned, watched))
    if learned.count < LEAST_RACES or watched.count == 0:
        return Rounds(plain.rounds, 0)
    beta = fit_market_exponent(learned.pi, learned.starts, learned.share).beta
    on_market = fit(
        (matrix[learned.rows], learned),
        (matrix[watched.rows], watched),
        features,
        chosen.of_residual(),
        offsets=(market_offset(learned.pi, beta, learned.starts), market_offset(watched.pi, beta, watched.starts)),
    )
    return Rounds(plain.rounds, on_market.rounds)


def part(races: Races, wanted: NDArray[np.bool_]) -> Races:
    """Some races, whose `rows` are those of a matrix of all starters of `races`."""
    return replace(races, rows=np.arange(races.share.size, dtype=np.intp)).only(wanted)


def has_market(races: Races) -> NDArray[np.bool_]:
    """Whether every starter of a race has a price, (races,)."""
    return np.asarray(~np.isnan(races.total(races.pi)), dtype=np.bool_)
