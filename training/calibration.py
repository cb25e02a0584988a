"""Calibration by odds regime: what is said at 30 % should win 30 % of the time, among favourites and outsiders alike.

A regime is a band of prices (for a model without a market: of 1/p). One with enough winners gets an isotonic curve; another
a beta curve drawn to the global one, so that a handful of races cannot bend it. Runners without a price get the global curve.
All of it is text: plain numbers, fitted on out-of-fold probabilities and kept as JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.blocks import Floats, Indices, normalised
from velo.errors import UserError

FORMAT: Final = 1
PRICE_EDGES: Final = (5.0, 8.0, 15.0, 21.0)
"""Upper ends of the price buckets of SPEC 9, each with its end; above the last is a bucket of its own."""
ENOUGH_WINS: Final = 1000.0
"""Expected and actual winners of a regime from which on it is trusted with an isotonic curve."""
LEAST_WINS: Final = 50.0
"""Below so many winners in all nothing can be calibrated."""
PRIOR_SD: Final = 0.2
"""How far a regime's beta parameters are thought to lie from the global ones, and those from (1, 1, 0)."""
PRIOR_WINS: Final = 5.0
"""Winners' worth of the beta curve mixed into each step of an isotonic one: no step says never."""
_EDGE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class BetaCurve:
    """Kull et al. (2017): logit q = a·ln p − b·ln(1 − p) + c with a, b ≥ 0, so that the order is kept."""

    a: float
    b: float
    c: float

    def at(self, p: Floats) -> Floats:
        """The curve's value at each probability."""
        inside = np.clip(p, _EDGE, 1.0 - _EDGE)
        logit = self.a * np.log(inside) - self.b * np.log1p(-inside) + self.c
        return np.asarray(1.0 / (1.0 + np.exp(-logit)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class StepCurve:
    """An isotonic curve, straight between its knots (x, y), from (0, 0) and to (1, 1) beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def at(self, p: Floats) -> Floats:
        """The curve's value at each probability."""
        return np.asarray(np.interp(p, (0.0, *self.x, 1.0), (0.0, *self.y, 1.0)), dtype=np.float64)


Curve = BetaCurve | StepCurve


@dataclass(frozen=True, slots=True)
class Regime:
    """The curve of a band of prices, and what it was fitted on."""

    curve: Curve
    runners: int
    wins: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve for each band of prices: `edges` are the upper ends of all bands but the last, which has none."""

    edges: tuple[float, ...]
    regimes: tuple[Regime, ...]
    everywhere: BetaCurve

    def curve_values(self, p: Floats, price: Floats) -> Floats:
        """Each runner's probability through the curve of its price, not yet summing to 1."""
        band = regime_of(price, self.edges)
        values = self.everywhere.at(p)
        for number, regime in enumerate(self.regimes):
            inside = band == number
            values[inside] = regime.curve.at(p[inside])
        return values

    def probabilities(self, p: Floats, price: Floats, starts: Indices) -> Floats:
        """Calibrated probabilities, each race's summing to 1; `price` is decimal, NaN where there is none."""
        return normalised(self.curve_values(p, price), starts)

    def to_json(self) -> dict[str, Any]:
        """As kept in a bundle."""
        return {
            "format": FORMAT,
            "edges": list(self.edges),
            "everywhere": asdict(self.everywhere),
            "regimes": [{"kind": _KINDS[type(regime.curve)], **asdict(regime)} for regime in self.regimes],
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Calibration":
        """The calibration that `to_json` told; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(f"a calibration of format {kept.get('format')!r}, this version reads {FORMAT}: train anew")
        return Calibration(
            tuple(kept["edges"]),
            tuple(
                Regime(_curve(told["kind"], told["curve"]), told["runners"], told["wins"]) for told in kept["regimes"]
            ),
            BetaCurve(**kept["everywhere"]),
        )


def regime_of(price: Floats, edges: tuple[float, ...] = PRICE_EDGES) -> NDArray[np.intp]:
    """The band of each price, from 0; −1 where there is no price (missing, or ≤ 1)."""
    band = np.searchsorted(np.asarray(edges), price, side="left")
    return np.where(np.isfinite(price) & (price > 1.0), band, -1).astype(np.intp)


def fit_calibration(
    p: Floats, share: Floats, price: Floats, edges: tuple[float, ...] = PRICE_EDGES, enough: float = ENOUGH_WINS
) -> Calibration:
    """Curves from out-of-fold probabilities and each runner's share of the win.

    Raises `UserError` for fewer than `LEAST_WINS` winners.
    """
    if share.sum() < LEAST_WINS:
        raise UserError(f"{share.sum():g} winners are too few to calibrate on: at least {LEAST_WINS:g} are needed")
    everywhere = _fit_beta(p, share, BetaCurve(1.0, 1.0, 0.0))
    band = regime_of(price, edges)
    regimes = []
    for number in range(len(edges) + 1):
        inside = band == number
        regimes.append(_fit_regime(p[inside], share[inside], everywhere, enough))
    return Calibration(tuple(edges), tuple(regimes), everywhere)


def _fit_regime(p: Floats, share: Floats, everywhere: BetaCurve, enough: float) -> Regime:
    wins = float(share.sum())
    beta = _fit_beta(p, share, everywhere) if p.size else everywhere
    trusted = p.size > 0 and min(wins, float(p.sum())) >= enough
    return Regime(_fit_steps(p, share, beta) if trusted else beta, p.size, wins)


def _fit_beta(p: Floats, share: Floats, drawn_to: BetaCurve) -> BetaCurve:
    """The most likely curve under a normal prior of `PRIOR_SD` about another: with few winners it stays near that one."""
    from scipy.optimize import minimize

    inside = np.clip(p, _EDGE, 1.0 - _EDGE)
    columns = np.stack([np.log(inside), -np.log1p(-inside), np.ones(p.size)], axis=1)
    centre = np.array([drawn_to.a, drawn_to.b, drawn_to.c])
    weight = 1.0 / PRIOR_SD**2

    def loss(at: Floats) -> tuple[float, Floats]:
        logit = columns @ at
        said = 1.0 / (1.0 + np.exp(-logit))
        away = at - centre
        value = (np.logaddexp(0.0, logit) - share * logit).sum() + weight * (away @ away) / 2.0
        return float(value), np.asarray(columns.T @ (said - share) + weight * away, dtype=np.float64)

    bounds = [(0.0, None), (0.0, None), (None, None)]
    found = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8})
    a, b, c = (float(value) for value in found.x)
    return BetaCurve(a, b, c)


def _fit_steps(p: Floats, share: Floats, beta: BetaCurve) -> StepCurve:
    """Pooled adjacent violators; each pool's winning share is mixed with the beta curve, its knot at the pool's mean p."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(p, share)
    pool = np.unique(fitted, return_inverse=True)[1]
    runners = np.bincount(pool).astype(np.float64)
    x = np.bincount(pool, p) / runners
    expected = beta.at(x)
    prior = PRIOR_WINS / expected
    y = (np.bincount(pool, share) + PRIOR_WINS) / (runners + prior)
    rising = np.maximum.accumulate(y)
    return StepCurve(tuple(x.tolist()), tuple(np.clip(rising, _EDGE, 1.0 - _EDGE).tolist()))


_KINDS: Final[Mapping[type, str]] = {BetaCurve: "beta", StepCurve: "isotonic"}


def _curve(kind: str, told: Mapping[str, Any]) -> Curve:
    if kind == "beta":
        return BetaCurve(**told)
    if kind == "isotonic":
        return StepCurve(tuple(told["x"]), tuple(told["y"]))
    raise UserError(
        f"a calibration curve of kind {kind!r}: this version knows {', '.join(_KINDS.values())}: train anew"
    )
