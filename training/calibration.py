"""RegimeCalibration by odds regime: what is said at 30 % should win 30 % of the time, among favourites and outsiders alike.

A regime is a stretch of prices (for a model without a market: of 1/p) that runs over into its neighbours: between the middles
of two, their curves are mixed, and each has learned from a runner as much as it has a say in it. A price that moves by a tick
so moves no chance by more, which it would where one curve ended and another began. A regime with enough winners gets an
isotonic curve; another a beta curve drawn to the global one, so that a handful of races cannot bend it. Runners without a
price get the global curve. All of it is text: plain numbers, fitted on out-of-fold probabilities and kept as JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from training.by_race import Floats, Indices, normalised
from velo.errors import UserError

FORMAT: Final = 2
MIDDLES: Final = (3.0, 6.5, 11.0, 18.0, 32.0)
"""Decimal prices in the middle of the price buckets of contract 9, by their logs: where each regime's curve stands alone."""
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
    """The curve of a stretch of prices, and what it was fitted on: runners and winners, each by the curve's say in it."""

    curve: Curve
    runners: float
    wins: float


@dataclass(frozen=True, slots=True)
class RegimeCalibration:
    """A curve for each regime: it stands alone at its price of `middles` and is mixed with the next one's between them."""

    middles: tuple[float, ...]
    regimes: tuple[Regime, ...]
    everywhere: BetaCurve

    def curve_values(self, p: Floats, price: Floats) -> Floats:
        """Each runner's probability through the curves of its price, not yet summing to 1."""
        say = says(price, self.middles)
        curves = np.stack([regime.curve.at(p) for regime in self.regimes], axis=1)
        return np.where(say.any(axis=1), (say * curves).sum(axis=1), self.everywhere.at(p))

    def probabilities(self, p: Floats, price: Floats, starts: Indices) -> Floats:
        """Calibrated probabilities, each race's summing to 1; `price` is decimal, NaN where there is none."""
        return normalised(self.curve_values(p, price), starts)

    def to_json(self) -> dict[str, Any]:
        """As kept in a bundle."""
        return {
            "format": FORMAT,
            "middles": list(self.middles),
            "everywhere": asdict(self.everywhere),
            "regimes": [{"kind": _KINDS[type(regime.curve)], **asdict(regime)} for regime in self.regimes],
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "RegimeCalibration":
        """The calibration that `to_json` told; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(f"a calibration of format {kept.get('format')!r}, this version reads {FORMAT}: train anew")
        return RegimeCalibration(
            tuple(kept["middles"]),
            tuple(
                Regime(_curve(told["kind"], told["curve"]), told["runners"], told["wins"]) for told in kept["regimes"]
            ),
            BetaCurve(**kept["everywhere"]),
        )


def says(price: Floats, middles: tuple[float, ...] = MIDDLES) -> Floats:
    """The say of each regime in each price, (runners, regimes): linear in log price between two middles, 1 in all.

    Beyond the ends the last one has all of it; a row of zeros where there is no price (missing, or ≤ 1).
    """
    priced = np.isfinite(price) & (price > 1.0)
    at = np.log(np.where(priced, price, middles[0]))
    by_regime = [np.interp(at, np.log(middles), one) for one in np.eye(len(middles))]
    return np.where(priced[:, None], np.stack(by_regime, axis=1), 0.0)


def fit_calibration(
    p: Floats, share: Floats, price: Floats, middles: tuple[float, ...] = MIDDLES, enough: float = ENOUGH_WINS
) -> RegimeCalibration:
    """Curves from out-of-fold probabilities and each runner's share of the win.

    Raises `UserError` for fewer than `LEAST_WINS` winners.
    """
    if share.sum() < LEAST_WINS:
        raise UserError(f"{share.sum():g} winners are too few to calibrate on: at least {LEAST_WINS:g} are needed")
    everywhere = _fit_beta(p, share, np.ones(p.size), BetaCurve(1.0, 1.0, 0.0))
    regimes = []
    for say in says(price, middles).T:
        inside = say > 0.0
        regimes.append(_fit_regime(p[inside], share[inside], say[inside], everywhere, enough))
    return RegimeCalibration(tuple(middles), tuple(regimes), everywhere)


def _fit_regime(p: Floats, share: Floats, say: Floats, everywhere: BetaCurve, enough: float) -> Regime:
    wins = float(say @ share)
    beta = _fit_beta(p, share, say, everywhere) if p.size else everywhere
    trusted = p.size > 0 and min(wins, float(say @ p)) >= enough
    return Regime(_fit_steps(p, share, say, beta) if trusted else beta, float(say.sum()), wins)


def _fit_beta(p: Floats, share: Floats, say: Floats, drawn_to: BetaCurve) -> BetaCurve:
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
        value = say @ (np.logaddexp(0.0, logit) - share * logit) + weight * (away @ away) / 2.0
        return float(value), np.asarray(columns.T @ (say * (said - share)) + weight * away, dtype=np.float64)

    bounds = [(0.0, None), (0.0, None), (None, None)]
    found = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8})
    a, b, c = (float(value) for value in found.x)
    return BetaCurve(a, b, c)


def _fit_steps(p: Floats, share: Floats, say: Floats, beta: BetaCurve) -> StepCurve:
    """Pooled adjacent violators; each pool's winning share is mixed with the beta curve, its knot at the pool's mean p."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(p, share, sample_weight=say)
    pool = np.unique(fitted, return_inverse=True)[1]
    runners = np.bincount(pool, say)
    x = np.bincount(pool, say * p) / runners
    expected = beta.at(x)
    prior = PRIOR_WINS / expected
    y = (np.bincount(pool, say * share) + PRIOR_WINS) / (runners + prior)
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
