"""Probability calibration by price regime, and intervals of the calibrated probabilities; both are stored as JSON.

A regime is a range of prices (of 1/p for a model without a market) that overlaps its neighbours. Between the centres of two
regimes their curves are mixed, and each runner trains each curve with the same weight. The mixing keeps the result
continuous: a small price move never jumps from one curve to the next. A regime with enough winners gets an isotonic curve.
Any other gets a beta curve shrunk towards the global one, so that few races cannot distort it. Runners without a price get
the global curve. Curves are fitted on out-of-fold probabilities.

An interval is the win rate of runners with about the same p, and its uncertainty. Out-of-fold runners are binned by p, with equal
expected winners in each bin; each bin gives winners ÷ expected winners with its 95 % interval over resampled race days
(`velo.resampling`): Bröcker and Smith, "Increasing the reliability of reliability diagrams", Weather and Forecasting 22 (2007), with
race days in place of single forecasts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Days
from velo.training.dataset.by_race import Floats, Indices, normalised

FORMAT: Final = 2
MIDDLES: Final = (3.0, 6.5, 11.0, 18.0, 32.0)
"""Regime centres: decimal prices in the log middle of contract 9's price buckets. There a regime's curve has weight 1."""
ENOUGH_WINS: Final = 1000.0
"""A regime with at least this many expected and actual winners gets an isotonic curve."""
LEAST_WINS: Final = 50.0
"""Minimum number of winners to fit any calibration."""
PRIOR_SD: Final = 0.2
"""Prior standard deviation of a regime's beta parameters about the global ones, and of those about (1, 1, 0)."""
PRIOR_WINS: Final = 5.0
"""Weight of the beta curve in each isotonic step, in winners; it keeps every step above 0."""
_EDGE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class BetaCurve:
    """The monotone beta curve of Kull et al. (2017): logit q = a·ln p − b·ln(1 − p) + c with a, b ≥ 0."""

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
    """An isotonic curve: linear between its knots (x, y), and from (0, 0) to the first and from the last to (1, 1)."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def at(self, p: Floats) -> Floats:
        """The curve's value at each probability."""
        return np.asarray(np.interp(p, (0.0, *self.x, 1.0), (0.0, *self.y, 1.0)), dtype=np.float64)


Curve = BetaCurve | StepCurve


@dataclass(frozen=True, slots=True)
class Regime:
    """The curve of a price range, with the weighted numbers of runners and winners it was fitted on."""

    curve: Curve
    runners: float
    wins: float


@dataclass(frozen=True, slots=True)
class RegimeCalibration:
    """One curve per regime; each has weight 1 at its price in `middles`, and neighbours are mixed between those prices."""

    middles: tuple[float, ...]
    regimes: tuple[Regime, ...]
    everywhere: BetaCurve

    def curve_values(self, p: Floats, price: Floats) -> Floats:
        """Each runner's probability after the curves of its price, before normalisation."""
        weight = regime_weights(price, self.middles)
        curves = np.stack([regime.curve.at(p) for regime in self.regimes], axis=1)
        return np.where(weight.any(axis=1), (weight * curves).sum(axis=1), self.everywhere.at(p))

    def probabilities(self, p: Floats, price: Floats, starts: Indices) -> Floats:
        """Calibrated probabilities that sum to 1 in each race; `price` is decimal, NaN if missing."""
        return normalised(self.curve_values(p, price), starts)

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {
            "format": FORMAT,
            "middles": list(self.middles),
            "everywhere": asdict(self.everywhere),
            "regimes": [{"kind": _KINDS[type(regime.curve)], **asdict(regime)} for regime in self.regimes],
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "RegimeCalibration":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if document.get("format") != FORMAT:
            raise UserError(
                f"calibration format is {document.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        return RegimeCalibration(
            tuple(document["middles"]),
            tuple(
                Regime(_curve(regime["kind"], regime["curve"]), regime["runners"], regime["wins"])
                for regime in document["regimes"]
            ),
            BetaCurve(**document["everywhere"]),
        )


def regime_weights(price: Floats, middles: tuple[float, ...] = MIDDLES) -> Floats:
    """Regime weights of each price, (runners, regimes): linear in log price between two centres, summing to 1.

    Beyond the outer centres the outer regime has weight 1. A missing price, or one ≤ 1, gives a row of zeros.
    """
    priced = np.isfinite(price) & (price > 1.0)
    at = np.log(np.where(priced, price, middles[0]))
    by_regime = [np.interp(at, np.log(middles), unit) for unit in np.eye(len(middles))]
    return np.where(priced[:, None], np.stack(by_regime, axis=1), 0.0)


def fit_calibration(
    p: Floats, share: Floats, price: Floats, middles: tuple[float, ...] = MIDDLES, enough: float = ENOUGH_WINS
) -> RegimeCalibration:
    """Fit the curves on out-of-fold probabilities and each runner's share of the win.

    Raises `UserError` for fewer than `LEAST_WINS` winners.
    """
    if share.sum() < LEAST_WINS:
        raise UserError(f"{share.sum():g} winners are too few to calibrate on: at least {LEAST_WINS:g} are needed")
    everywhere = _fit_beta(p, share, np.ones(p.size), BetaCurve(1.0, 1.0, 0.0))
    regimes = []
    for weight in regime_weights(price, middles).T:
        inside = weight > 0.0
        regimes.append(_fit_regime(p[inside], share[inside], weight[inside], everywhere, enough))
    return RegimeCalibration(tuple(middles), tuple(regimes), everywhere)


def _fit_regime(p: Floats, share: Floats, weight: Floats, everywhere: BetaCurve, enough: float) -> Regime:
    wins = float(weight @ share)
    beta = _fit_beta(p, share, weight, everywhere) if p.size else everywhere
    trusted = p.size > 0 and min(wins, float(weight @ p)) >= enough
    return Regime(_fit_steps(p, share, weight, beta) if trusted else beta, float(weight.sum()), wins)


def _fit_beta(p: Floats, share: Floats, weight: Floats, about: BetaCurve) -> BetaCurve:
    """Fit a beta curve by maximum a posteriori, with a normal prior of `PRIOR_SD` about the curve `about`."""
    from scipy.optimize import minimize

    inside = np.clip(p, _EDGE, 1.0 - _EDGE)
    columns = np.stack([np.log(inside), -np.log1p(-inside), np.ones(p.size)], axis=1)
    centre = np.array([about.a, about.b, about.c])
    precision = 1.0 / PRIOR_SD**2

    def loss(at: Floats) -> tuple[float, Floats]:
        logit = columns @ at
        fitted = 1.0 / (1.0 + np.exp(-logit))
        offset = at - centre
        value = weight @ (np.logaddexp(0.0, logit) - share * logit) + precision * (offset @ offset) / 2.0
        return float(value), np.asarray(columns.T @ (weight * (fitted - share)) + precision * offset, dtype=np.float64)

    bounds = [(0.0, None), (0.0, None), (None, None)]
    result = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8})
    a, b, c = (float(value) for value in result.x)
    return BetaCurve(a, b, c)


def _fit_steps(p: Floats, share: Floats, weight: Floats, beta: BetaCurve) -> StepCurve:
    """Fit an isotonic curve by pool-adjacent-violators.

    Each pool's win rate is mixed with the beta curve by `PRIOR_WINS`; its knot is the pool's mean p.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(p, share, sample_weight=weight)
    pool = np.unique(fitted, return_inverse=True)[1]
    runners = np.bincount(pool, weight)
    x = np.bincount(pool, weight * p) / runners
    expected = beta.at(x)
    prior = PRIOR_WINS / expected
    y = (np.bincount(pool, weight * share) + PRIOR_WINS) / (runners + prior)
    rising = np.maximum.accumulate(y)
    return StepCurve(tuple(x.tolist()), tuple(np.clip(rising, _EDGE, 1.0 - _EDGE).tolist()))


_KINDS: Final[Mapping[type, str]] = {BetaCurve: "beta", StepCurve: "isotonic"}


def _curve(kind: str, parameters: Mapping[str, Any]) -> Curve:
    if kind == "beta":
        return BetaCurve(**parameters)
    if kind == "isotonic":
        return StepCurve(tuple(parameters["x"]), tuple(parameters["y"]))
    raise UserError(
        f"calibration curve kind is {kind!r}, but this version reads {', '.join(_KINDS.values())}: run `velo train` again"
    )


INTERVAL_FORMAT: Final = 1
MOST_BINS: Final = 12
WINS_A_BIN: Final = 50.0
"""Minimum expected winners of a bin; with fewer, the bounds reflect noise."""


@dataclass(frozen=True, slots=True)
class CalibrationInterval:
    """Bounds of the win rate as multiples of p: `low` and `high` at the knots `chances`, linear in log p between them.

    The interval covers the mean win rate of all runners with such a p on the race days it was fitted on: average
    miscalibration and sampling error. It does not cover differences between runners of equal p, or other days. It can
    exclude p itself, where the model is miscalibrated. `runners`, `days` and `wins` describe the fitted data.
    """

    chances: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runners: int
    days: int
    wins: float

    def interval(self, p: Floats) -> Floats:
        """Lower and upper bound of each p, (runners, 2), between 0 and 1."""
        at, knots = np.log(np.clip(p, 1e-12, 1.0)), np.log(self.chances)
        bounds = np.stack([np.interp(at, knots, self.low), np.interp(at, knots, self.high)], axis=1)
        return np.asarray(np.clip(p[:, None] * bounds, 0.0, 1.0), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {"format": INTERVAL_FORMAT, **asdict(self)}

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "CalibrationInterval":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if kept.get("format") != INTERVAL_FORMAT:
            raise UserError(
                f"calibration interval format is {kept.get('format')!r}, but this version reads {INTERVAL_FORMAT}: run `velo train` again"
            )
        chances, low, high = (tuple(kept[name]) for name in ("chances", "low", "high"))
        return CalibrationInterval(chances, low, high, kept["runners"], kept["days"], kept["wins"])


def fit_interval(p: Floats, share: Floats, dates: NDArray[Any], seed: int) -> CalibrationInterval | None:
    """Fit intervals on out-of-fold p; `share` is each runner's share of the win, `dates` its local race date.

    None if no bin has enough expected winners, or there are too few race days to resample.
    """
    if p.size == 0 or p.sum() < WINS_A_BIN:
        return None
    days = Days.of_dates(dates, seed)
    order = np.argsort(p, kind="stable")
    bins = min(MOST_BINS, int(p.sum() / WINS_A_BIN))
    expected = np.cumsum(p[order])
    bin_of = np.empty(p.size, dtype=np.intp)
    bin_of[order] = np.minimum((expected - p[order]) * bins / expected[-1], bins - 1)
    chances, low, high = [], [], []
    for number in range(bins):
        inside = bin_of == number
        rate = days.where(inside).ratio(share[inside], p[inside])
        if rate.low is None or rate.high is None:
            continue
        chances.append(float(p[inside].sum() / inside.sum()))
        low.append(rate.low)
        high.append(rate.high)
    if not chances:
        return None
    return CalibrationInterval(tuple(chances), tuple(low), tuple(high), p.size, days.count, float(share.sum()))
