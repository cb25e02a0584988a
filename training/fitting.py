"""Fitting the parts of a model together: the fundamental one, and the one that is grown on top of the market."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from velo.training.by_race import Floats
from velo.training.ensemble import Ensemble, Inputs
from velo.training.logit import fit_logit
from velo.training.market import LEAST_RACES, fit_market_exponent, market_offset
from velo.training.model import FEATURES, Fitted, ModelOptions, faded, fit, grow
from velo.training.races import Races

Tell = Callable[[str], None]
"""Told the part that begins."""

PATIENCE: Final = 40
"""Rounds without a better loss that end the search for how many to grow."""
WATCHED_SHARE: Final = 0.1
"""The last share of the training days, on which the number of rounds is chosen."""


@dataclass(frozen=True, slots=True)
class OnMarket:
    """A model grown on top of β·log π, and the β."""

    model: Ensemble
    beta: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds to grow, without and with the market beneath (0 where too few races have one)."""

    plain: int
    on_market: int


def fit_fundamental(
    given: Inputs, races: Races, options: ModelOptions, rounds: int, tell: Tell = lambda part: None
) -> tuple[Ensemble, Fitted]:
    """The model that knows no market of the race it predicts, and its trees; `given` has the rows of the races."""
    return _fit(given, races, options, rounds, None, tell)


def fit_on_market(
    given: Inputs, races: Races, options: ModelOptions, rounds: int, tell: Tell = lambda part: None
) -> OnMarket | None:
    """The model on top of the market; of the races, whose rows `given` has, those with one. None where they are too few."""
    where = has_market(races)
    priced = races.only(where)
    if priced.count < LEAST_RACES or rounds == 0:
        return None
    beta = fit_market_exponent(priced.pi, priced.starts, priced.share).beta
    offset = market_offset(priced.pi, beta, priced.starts)
    own = given.rows(np.flatnonzero(np.repeat(where, races.sizes)))

    def on_market(part: str) -> None:
        tell(f"{part} on the market")

    return OnMarket(_fit(own, priced, options.of_residual(), rounds, offset, on_market)[0], beta)


def _fit(
    given: Inputs, races: Races, options: ModelOptions, rounds: int, offset: Floats | None, tell: Tell
) -> tuple[Ensemble, Fitted]:
    tell("grow trees")
    trees = grow((given.raw, races), FEATURES, options, rounds, offset=offset)
    tell("fit the logit")
    target = races.target(options.soft_target)
    without = faded(given.raw, races, FEATURES)
    logit = fit_logit(given.centred, races.starts, target, FEATURES, options.logit_l2, offset, without)
    return Ensemble(trees.text, logit, options.logit_share, options.threads), trees


def choose_rounds(given: Inputs, races: Races, options: ModelOptions) -> Rounds:
    """How many rounds do best on the last of the races' days, grown on those before; `given` has the rows of the races."""
    days = np.unique(races.days)
    late = races.days >= days[-max(1, round(days.size * WATCHED_SHARE))]
    chosen = replace(options, patience=min(options.patience, PATIENCE))
    learned, watched = part(races, ~late), part(races, late)
    plain = fit((given.raw[learned.rows], learned), (given.raw[watched.rows], watched), FEATURES, chosen)
    learned, watched = (one.only(has_market(one)) for one in (learned, watched))
    if learned.count < LEAST_RACES or watched.count == 0:
        return Rounds(plain.rounds, 0)
    beta = fit_market_exponent(learned.pi, learned.starts, learned.share).beta
    on_market = fit(
        (given.raw[learned.rows], learned),
        (given.raw[watched.rows], watched),
        FEATURES,
        chosen.of_residual(),
        offsets=(market_offset(learned.pi, beta, learned.starts), market_offset(watched.pi, beta, watched.starts)),
    )
    return Rounds(plain.rounds, on_market.rounds)


def part(races: Races, wanted: NDArray[np.bool_]) -> Races:
    """Some races, their rows those of a matrix of all the starters of `races`."""
    return replace(races, rows=np.arange(races.share.size, dtype=np.intp)).only(wanted)


def has_market(races: Races) -> NDArray[np.bool_]:
    """Of each race, whether every starter has a price."""
    return np.asarray(~np.isnan(races.total(races.pi)), dtype=np.bool_)
