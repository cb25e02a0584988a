"""Blends of a model with the market, and their calibrations. Stored as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices, normalised
from velo.training.market.calibration import LEAST_WINS, RegimeCalibration, fit_calibration
from velo.training.market.market import LEAST_RACES, Blend, fit_blend, fit_market_exponent, fit_moving_blend

FORMAT: Final = 2
BENTER: Final = "Benter"
RESIDUAL: Final = "residual"
MEAN: Final = "mean"
"""∝ √(Benter · residual): the mean of the other two in logs, because their errors differ."""
MOVES: Final = "moves"
"""Benter's, with the moves of the odds before the decision; only where the races have odds at decision time."""
KINDS: Final = (BENTER, RESIDUAL, MEAN)
CLOSING_SHARE: Final = 0.5
"""How much of the target of `MOVES` is the closing market: it rates every runner, while a race has one winner."""


@dataclass(frozen=True, slots=True)
class Blending:
    """A blend of a model with the market, fitted on out-of-fold predictions.

    `kind` is the blend with the most reliable gain (`velo.training.evaluation.blend_calibrate`) by `losses` (winner log loss of each, nats a race, over the
    folds after the first; None if there is only one fold: then Benter's). `own` calibrates the model without the market, `curves`
    the blend of that kind, and Benter's beside it. `market` is the market's own exponent, the yardstick. `moving` is the blend
    with the moves of the odds, None unless `kind` is `MOVES`.
    """

    kind: str
    losses: Mapping[str, float] | None
    compared: int
    benter: Blend
    market: Blend
    own: RegimeCalibration
    curves: Mapping[str, RegimeCalibration]
    moving: Blend | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "losses": None if self.losses is None else dict(self.losses),
            "compared": self.compared,
            "benter": self.benter.to_json(),
            "market": self.market.to_json(),
            "own": self.own.to_json(),
            "curves": {kind: curve.to_json() for kind, curve in self.curves.items()},
            **({} if self.moving is None else {"moving": self.moving.to_json()}),
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Blending":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(
                f"blend format is {kept.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        return Blending(
            kept["kind"],
            kept["losses"],
            kept["compared"],
            Blend.from_json(kept["benter"]),
            Blend.from_json(kept["market"]),
            RegimeCalibration.from_json(kept["own"]),
            {kind: RegimeCalibration.from_json(curve) for kind, curve in kept["curves"].items()},
            Blend.from_json(kept["moving"]) if "moving" in kept else None,
        )


@dataclass(frozen=True, slots=True)
class OutOfFoldPredictions:
    """Out-of-fold predictions per starter of some races: f, π and the residual model (NaN if a race has no market).

    `moves` are the inputs of `move_inputs`, (starters, inputs), None where π is not of the decision time; `closing` is the
    π of the closing prices.
    """

    starts: Indices
    f: Floats
    pi: Floats
    residual: Floats
    share: Floats
    price: Floats
    moves: Floats | None = None
    closing: Floats | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of blend that can be fitted on these predictions."""
        return KINDS if self.moves is None else (*KINDS, MOVES)


def chances(kind: str, seen: OutOfFoldPredictions, benter: Blend, moving: Blend | None = None) -> Floats:
    """The uncalibrated probabilities of a kind of blend; `MOVES` needs the blend `moving`."""
    if kind == RESIDUAL:
        return seen.residual
    if kind == MOVES and moving is not None:
        return moving.probabilities(seen.f, seen.pi, seen.starts, seen.moves)
    own = benter.probabilities(seen.f, seen.pi, seen.starts)
    return own if kind == BENTER else normalised(np.sqrt(own * seen.residual), seen.starts)


def moving_blend(priced: OutOfFoldPredictions) -> Blend | None:
    """Benter's blend with the moves of the odds, fitted on winners and closing prices; None without moves.

    Raises `UserError` if there are too few races.
    """
    if priced.moves is None:
        return None
    target = priced.share
    if priced.closing is not None:
        known = ~np.isnan(normalised(priced.closing, priced.starts))
        mixed = (1.0 - CLOSING_SHARE) * priced.share + CLOSING_SHARE * priced.closing
        target = np.where(known, mixed, priced.share)
    return fit_moving_blend(priced.f, priced.pi, priced.moves, priced.starts, target)


def learn(
    before: OutOfFoldPredictions,
    priced: OutOfFoldPredictions,
    kind: str = BENTER,
    losses: Mapping[str, float] | None = None,
    compared: int = 0,
) -> Blending:
    """Fit the blend on earlier predictions; `priced` are those of the races with a market.

    Raises `UserError` if there are too few.
    """
    alone = fit_market_exponent(priced.pi, priced.starts, priced.share)
    benter = fit_blend(priced.f, priced.pi, priced.starts, priced.share)
    own = fit_calibration(before.f, before.share, 1.0 / before.f)
    moving = moving_blend(priced) if kind == MOVES else None
    curves = {
        name: fit_calibration(chances(name, priced, benter, moving), priced.share, priced.price)
        for name in dict.fromkeys((BENTER, kind))
    }
    return Blending(kind, losses, compared, benter, alone, own, curves, moving)


def enough(priced: OutOfFoldPredictions) -> bool:
    """Whether there are enough races to fit on."""
    return bool(priced.starts.size >= max(LEAST_RACES, LEAST_WINS))
