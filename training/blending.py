"""What is put on top of a model's utility: calibration, the market, and calibration again. Plain numbers, kept as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from training.by_race import Floats, Indices, normalised
from training.calibration import LEAST_WINS, RegimeCalibration, fit_calibration
from training.market import LEAST_RACES, Blend, fit_blend, fit_market_exponent
from velo.errors import UserError

FORMAT: Final = 2
BENTER: Final = "Benter"
RESIDUAL: Final = "residual"
MEAN: Final = "mean"
"""The even mean of the utilities of the other two, so ∝ √(Benter · residual): each errs in a way of its own."""
KINDS: Final = (BENTER, RESIDUAL, MEAN)


@dataclass(frozen=True, slots=True)
class Blending:
    """How a model and the market are put together. All of it is fitted on out-of-fold predictions.

    `kind` is the blend that gained most surely (`training.blend_calibrate`) by `losses` (winner log loss of each, nats a race, over the
    folds after the first; None where there was one fold alone: then Benter's). `own` calibrates the model by itself, `curves`
    the blend of that kind, and Benter's beside it. `market` is the market's own exponent, the yardstick.
    """

    kind: str
    losses: Mapping[str, float] | None
    compared: int
    benter: Blend
    market: Blend
    own: RegimeCalibration
    curves: Mapping[str, RegimeCalibration]

    def to_json(self) -> dict[str, Any]:
        """As kept in a bundle."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "losses": None if self.losses is None else dict(self.losses),
            "compared": self.compared,
            "benter": self.benter.to_json(),
            "market": self.market.to_json(),
            "own": self.own.to_json(),
            "curves": {kind: one.to_json() for kind, one in self.curves.items()},
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Blending":
        """What `to_json` told; raises `UserError` for another format."""
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
            {kind: RegimeCalibration.from_json(one) for kind, one in kept["curves"].items()},
        )


@dataclass(frozen=True, slots=True)
class OutOfFoldPredictions:
    """Out-of-fold predictions of some races, of each starter: f, π and the residual model (NaN where a race has no market)."""

    starts: Indices
    f: Floats
    pi: Floats
    residual: Floats
    share: Floats
    price: Floats


def chances(kind: str, seen: OutOfFoldPredictions, benter: Blend) -> Floats:
    """What a kind of blend says of some starters, not calibrated."""
    if kind == RESIDUAL:
        return seen.residual
    own = benter.probabilities(seen.f, seen.pi, seen.starts)
    return own if kind == BENTER else normalised(np.sqrt(own * seen.residual), seen.starts)


def learn(
    before: OutOfFoldPredictions,
    priced: OutOfFoldPredictions,
    kind: str = BENTER,
    losses: Mapping[str, float] | None = None,
    compared: int = 0,
) -> Blending:
    """Fit everything on what was predicted before; `priced` are those of its races that have a market.

    Raises `UserError` where they are too few.
    """
    alone = fit_market_exponent(priced.pi, priced.starts, priced.share)
    benter = fit_blend(priced.f, priced.pi, priced.starts, priced.share)
    own = fit_calibration(before.f, before.share, 1.0 / before.f)
    curves = {
        name: fit_calibration(chances(name, priced, benter), priced.share, priced.price)
        for name in dict.fromkeys((BENTER, kind))
    }
    return Blending(kind, losses, compared, benter, alone, own, curves)


def enough(priced: OutOfFoldPredictions) -> bool:
    """Whether so many races can be learned from."""
    return bool(priced.starts.size >= max(LEAST_RACES, LEAST_WINS))
