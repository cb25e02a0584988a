"""Place chances of a backtest, by field size, beside those that the market's odds imply by the same formula.

The exponents λ of each tested fold are fitted on the folds before it. The direct model corrects the formula's chance by a logistic
regression on its logit and on the runner's rank by chance of winning, fitted on the same earlier folds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from velo.resampling import Days, Figure
from velo.training.dataset.by_race import Floats, Indices, sizes_of, spread, total
from velo.training.evaluation.blend_calibrate import Combined, priced_before
from velo.training.evaluation.reliability import mean_gap
from velo.training.evaluation.walk_forward import OutOfFold
from velo.training.market.places import FIELDS, LEAST_RACES, FinishOrder, fit_finish_order, place_chances

MARKET, DIRECT = "market", "direct"
SUBJECTS: Final = ("fundamental", "blend")
_TOGETHER: Final = 200
"""Races whose chances are computed together: four places of forty runners take half a megabyte each."""
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class PlacesMeasured:
    """Place chances of `subject` in fields of one group of sizes, and the market's by the same formula.

    `error` is the debiased calibration error, R² is 1 − log loss ÷ that of places ÷ runners. A/E is of the runners whose chance is above
    the market's: placed ÷ expected by the chance, and by the market's.
    """

    subject: str
    field: str
    races: int
    error: Figure
    r2: Figure
    market_error: Figure
    market_r2: Figure
    ae: Figure
    ae_market: Figure


@dataclass(frozen=True, slots=True)
class Exponent:
    """λ of one place in fields of one group of sizes, fitted on the folds before the last tested one; no interval if it was not fitted."""

    subject: str
    field: str
    place: int
    figure: Figure


def field_names() -> list[str]:
    """The groups of field sizes, in words."""
    begins = (2, *(most + 1 for most in FIELDS))
    return [f"{begin} to {most}" for begin, most in zip(begins, FIELDS, strict=False)] + [f"{begins[-1]} or more"]


def chances_of(win: Floats, starts: Indices, places: Indices, order: FinishOrder) -> Floats:
    """The place chance of every runner, (runners,), for `places` of each race; NaN where a race has no place bet."""
    sizes = sizes_of(starts, win.size)
    found = np.full(win.size, np.nan)
    for size, count in sorted({*zip(sizes.tolist(), places.tolist(), strict=True)}):
        if count == 0:
            continue
        races = np.flatnonzero((sizes == size) & (places == count))
        for part in np.array_split(races, -(-races.size // _TOGETHER)):
            rows = starts[part][:, None] + np.arange(size)
            found[rows] = place_chances(np.maximum(win[rows], _TINY), count, order.of(size))
    return found


def placed_of(position: Floats, starts: Indices, places: Indices) -> Floats:
    """1 for a placed runner, else 0, (runners,); NaN in a race without a place bet, or whose placed runners are not all known."""
    rows = spread(places.astype(np.float64), starts, position.size)
    placed = (position <= rows).astype(np.float64)
    known = spread(total(placed, starts), starts, position.size) >= rows
    return np.where(known & (rows > 0), placed, np.nan)


@dataclass(frozen=True, slots=True)
class Correction:
    """A logistic correction of place chances by group of field sizes: intercept, slope of the logit, slope of the log of the rank."""

    coefficients: tuple[tuple[float, float, float], ...]

    def apply(self, chance: Floats, win: Floats, starts: Indices, places: Indices) -> Floats:
        """Corrected chances, whose sum in each race is again its places."""
        scores = np.empty(chance.size)
        group = np.repeat(np.searchsorted(FIELDS, sizes_of(starts, win.size)), sizes_of(starts, win.size))
        columns = _columns(chance, win, starts)
        for at, weights in enumerate(self.coefficients):
            scores[group == at] = columns[group == at] @ np.array(weights)
        return _summing_to(scores, starts, places)


def fit_correction(chance: Floats, placed: Floats, win: Floats, starts: Indices) -> Correction:
    """Fit a correction; a group with fewer than `LEAST_RACES` races is not corrected."""
    sizes = sizes_of(starts, win.size)
    columns, known = _columns(chance, win, starts), np.isfinite(chance + placed)
    fitted = []
    for at in range(len(FIELDS) + 1):
        races = np.searchsorted(FIELDS, sizes) == at
        rows = np.repeat(races, sizes) & known
        enough = int(known[starts[races]].sum()) >= LEAST_RACES
        fitted.append(_logistic(columns[rows], placed[rows]) if enough else (0.0, 1.0, 0.0))
    return Correction(tuple(fitted))


def _columns(chance: Floats, win: Floats, starts: Indices) -> Floats:
    inside = np.clip(chance, _TINY, 1.0 - _TINY)
    race = np.repeat(np.arange(starts.size), sizes_of(starts, win.size))
    order = np.lexsort((-win, race))
    rank = np.empty(win.size)
    rank[order] = np.arange(win.size) - starts[race] + 1.0
    return np.stack([np.ones(win.size), np.log(inside) - np.log1p(-inside), np.log(rank)], axis=1)


def _logistic(columns: Floats, placed: Floats) -> tuple[float, float, float]:
    weights = np.array([0.0, 1.0, 0.0])
    for _ in range(50):
        fitted = expit(columns @ weights)
        hessian = columns.T @ (columns * (fitted * (1.0 - fitted))[:, None]) + 1e-6 * np.eye(3)
        step = np.linalg.solve(hessian, columns.T @ (placed - fitted))
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    first, second, third = weights.tolist()
    return first, second, third


def _summing_to(scores: Floats, starts: Indices, places: Indices) -> Floats:
    """expit(scores + t) with the t of each race that makes them sum to its places; NaN for a race without a place bet."""
    sizes = sizes_of(starts, scores.size).astype(np.float64)
    wanted = np.where((places > 0) & (places < sizes), places.astype(np.float64), 0.5 * sizes)
    shift = np.zeros(starts.size)
    for _ in range(60):
        p = expit(scores + spread(shift, starts, scores.size))
        step = (wanted - total(p, starts)) / np.maximum(total(p * (1.0 - p), starts), _TINY)
        shift = shift + np.clip(step, -1.0, 1.0)
    p = expit(scores + spread(shift, starts, scores.size))
    full = spread((places >= sizes).astype(np.float64), starts, scores.size) > 0
    return np.where(spread(places.astype(np.float64), starts, scores.size) == 0, np.nan, np.where(full, 1.0, p))


def place_columns(
    predicted: OutOfFold, combined: Combined, sp_decimal: Floats, places: Indices
) -> tuple[dict[str, Floats], tuple[Exponent, ...]]:
    """Columns of the tested starters: `placed`, and the chances `place_…` of the market, of `SUBJECTS` and of the direct model.

    `places` are those of every predicted race. NaN in races without a market, without a place bet, or whose places are unknown.
    Also returns the exponents of the last tested fold. Empty if no runner has a position.
    """
    position = predicted.races.place
    if position is None:
        return {}, ()
    names = (MARKET, *SUBJECTS, DIRECT)
    found = {f"place_{name}": np.full(position.size, np.nan) for name in names}
    exponents: list[Exponent] = []
    for number, fitted in enumerate(combined.fitted, predicted.past):
        past, now = (
            priced_before(predicted, sp_decimal, fitted, of)
            for of in (predicted.fold < number, predicted.fold == number)
        )
        orders = {
            name: fit_finish_order(past.win[name], past.starts, position[past.rows]) for name in (MARKET, *SUBJECTS)
        }
        exponents = [exponent for name, order in orders.items() for exponent in _exponents(name, order)]
        for name, order in orders.items():
            found[f"place_{name}"][now.rows] = chances_of(now.win[name], now.starts, places[now.races], order)
        earlier = chances_of(past.win["blend"], past.starts, places[past.races], orders["blend"])
        placed = placed_of(position[past.rows], past.starts, places[past.races])
        correction = fit_correction(earlier, placed, past.win["blend"], past.starts)
        found[f"place_{DIRECT}"][now.rows] = correction.apply(
            found["place_blend"][now.rows], now.win["blend"], now.starts, places[now.races]
        )
    placed = placed_of(position, predicted.races.starts, places)
    return {"placed": placed[combined.rows]} | {name: p[combined.rows] for name, p in found.items()}, tuple(exponents)


def _exponents(subject: str, order: FinishOrder) -> list[Exponent]:
    found = []
    for field, values, errors, races in zip(field_names(), order.exponents, order.errors, order.races, strict=True):
        for at, (value, error, count) in enumerate(zip(values, errors, races, strict=True)):
            low, high = (None, None) if error is None else (value - 1.96 * error, value + 1.96 * error)
            found.append(Exponent(subject, field, at + 2, Figure(value, low, high, count)))
    return found


def measure_places(columns: Mapping[str, NDArray[Any]], starts: Indices, days: Days) -> tuple[PlacesMeasured, ...]:
    """The figures of the direct model and of `SUBJECTS` by field size, and over all; empty for a backtest without place chances.

    `columns` are those of the stored predictions, `days` of their rows.
    """
    if "placed" not in columns:
        return ()
    sizes = sizes_of(starts, columns["placed"].size)
    group = np.repeat(np.searchsorted(FIELDS, sizes), sizes)
    groups = [
        ("all", np.ones(group.size, dtype=np.bool_)),
        *((name, group == at) for at, name in enumerate(field_names())),
    ]
    measured = []
    for name in (*SUBJECTS, DIRECT):
        for field, inside in groups:
            known = inside & np.isfinite(columns["placed"] + columns[f"place_{name}"] + columns["place_market"])
            if known.any():
                measured.append(_measured(name, field, columns, known, starts, days))
    return tuple(measured)


def _measured(
    name: str, field: str, columns: Mapping[str, NDArray[Any]], known: NDArray[np.bool_], starts: Indices, days: Days
) -> PlacesMeasured:
    of, placed = days.where(known), columns["placed"][known]
    p, market = columns[f"place_{name}"][known], columns["place_market"][known]
    base = spread(total(columns["place_market"], starts), starts, known.size)[known]
    base = base / spread(sizes_of(starts, known.size).astype(np.float64), starts, known.size)[known]
    uniform = _loss(base, placed)
    above = p > market
    liked = of.where(above)
    return PlacesMeasured(
        subject=name,
        field=field,
        races=int(known[starts].sum()),
        error=mean_gap(p, placed, of),
        r2=of.ratio(uniform - _loss(p, placed), uniform),
        market_error=mean_gap(market, placed, of),
        market_r2=of.ratio(uniform - _loss(market, placed), uniform),
        ae=liked.ratio(placed[above], p[above]),
        ae_market=liked.ratio(placed[above], market[above]),
    )


def _loss(p: Floats, placed: Floats) -> Floats:
    inside = np.clip(p, _TINY, 1.0 - _TINY)
    return -(placed * np.log(inside) + (1.0 - placed) * np.log1p(-inside))
