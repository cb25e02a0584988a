"""Chances of places and of exotic bets from the chances of winning.

The order of finish is made place by place: each place goes to one of the remaining runners in proportion to p^λ, with an
exponent λ for each place. λ = 1 is Harville (1973), who lets favourites finish second and third too often. A λ below 1 that falls
from place to place approximates running times that are normal (Henery, 1981) or gamma (Stern, 1990); Lo and Bacon-Shone, "Probability
and statistical models for racing" (2008), give the approximation. VÉLØ fits λ on out-of-fold chances, by field size.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices, sizes_of, spread, total

FORMAT: Final = 1
MOST_PLACES: Final = 4
FIELDS: Final = (7, 11)
"""The largest field of each group but the last, which has all larger ones."""
LEAST_RACES: Final = 300
"""Races that a λ is fitted on; with fewer, a group takes that of all fields, and all fields take Henery's."""
_STEPS: Final = 30

Exponents = tuple[float, float, float]
"""λ of the second, third and fourth place."""
HARVILLE: Final[Exponents] = (1.0, 1.0, 1.0)
HENERY: Final[Exponents] = (0.76, 0.62, 0.55)
STERN: Final[Exponents] = (0.87, 0.80, 0.74)
"""For gamma running times of shape 4."""


@dataclass(frozen=True, slots=True)
class FinishOrder:
    """λ for each group of `FIELDS`, with standard errors (None where it was not fitted) and the races of each fit."""

    exponents: tuple[Exponents, ...]
    errors: tuple[tuple[float | None, ...], ...]
    races: tuple[tuple[int, ...], ...]

    def of(self, runners: int) -> Exponents:
        """The exponents for a field of `runners`."""
        return self.exponents[_group(runners)]

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {"format": FORMAT, "fields": list(FIELDS), **asdict(self)}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "FinishOrder":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if stored.get("format") != FORMAT or tuple(stored["fields"]) != FIELDS:
            raise UserError(
                f"place model format is {stored.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        exponents, errors, races = (tuple(map(tuple, stored[name])) for name in ("exponents", "errors", "races"))
        return FinishOrder(exponents, errors, races)


UNFITTED: Final = FinishOrder(
    (HENERY,) * (len(FIELDS) + 1), ((None,) * 3,) * (len(FIELDS) + 1), ((0,) * 3,) * (len(FIELDS) + 1)
)
"""Henery's exponents, for a bundle that has none of its own."""


def place_chances(win: Floats, places: int, exponents: Exponents) -> Floats:
    """The chance of each runner to finish in the first `places`, (…, runners), from chances of winning > 0 that sum to 1.

    They sum to `places`, or to the number of runners if that is smaller. `places` is at most `MOST_PLACES`; dead heats are
    left out. Leading dimensions are races of equal size.
    """
    if not 0 <= places <= MOST_PLACES:
        raise ValueError(f"places must be 0 to {MOST_PLACES}, got {places}")
    if places >= win.shape[-1]:
        return np.ones_like(win)
    if places < 2:
        return win * places
    second = _powers(win, exponents[0])
    ahead = win / _others(second)
    chances = win + second * (ahead.sum(axis=-1, keepdims=True) - ahead)
    if places == 2:
        return _clipped(chances)
    third = _powers(win, exponents[1])
    pairs = _pairs(ahead, second) / _other_pairs(third)
    chances = chances + third * (pairs.sum(axis=(-1, -2))[..., None] - pairs.sum(axis=-1) - pairs.sum(axis=-2))
    if places == 3:
        return _clipped(chances)
    fourth = _powers(win, exponents[2])
    triples = _triples(pairs, third) / _other_triples(fourth)
    left = triples.sum(axis=(-1, -2, -3))[..., None]
    for axes in ((-1, -2), (-1, -3), (-2, -3)):
        left = left - triples.sum(axis=axes)
    return _clipped(chances + fourth * left)


def exactas(win: Floats, exponents: Exponents) -> Floats:
    """The chance of each first and second in that order, (runners, runners), 0 on the diagonal; `win` is of one race."""
    second = _powers(win, exponents[0])
    return _pairs(win / _others(second), second)


def trifectas(win: Floats, exponents: Exponents) -> Floats:
    """The chance of each first, second and third in that order, (runners, runners, runners); `win` is of one race."""
    third = _powers(win, exponents[1])
    return _triples(exactas(win, exponents) / _other_pairs(third), third)


def quartets(win: Floats, exponents: Exponents) -> Floats:
    """The chance of each first four in that order, (runners, runners, runners, runners); `win` is of one race."""
    fourth = _powers(win, exponents[2])
    chances = (trifectas(win, exponents) / _other_triples(fourth))[..., None] * fourth
    for axis in range(3):
        shape = [1, 1, 1, fourth.size]
        shape[axis] = fourth.size
        chances = chances * (1.0 - np.eye(fourth.size)).reshape(shape)
    return np.asarray(chances, dtype=np.float64)


_IN_ORDER: Final = {"exacta": exactas, "trifecta": trifectas, "quartet": quartets}
_ANY_ORDER: Final = {"quinella": (2, exactas), "trio": (3, trifectas), "first four": (4, quartets)}


def likeliest(win: Floats, exponents: Exponents, pool: str, most: int) -> list[tuple[tuple[int, ...], float]]:
    """The likeliest combinations of one race, likeliest first, each with its chance.

    `pool` is exacta, trifecta or quartet, whose runners are in order, or quinella, trio or first four, whose runners are in any order and
    listed ascending. Fewer than `most` where there are fewer.
    """
    if pool in _IN_ORDER:
        chances = _IN_ORDER[pool](win, exponents)
        flat = chances.ravel()
        best = np.argsort(-flat, kind="stable")[:most]
        places = np.stack(np.unravel_index(best, chances.shape), axis=1)
    else:
        count, ordered = _ANY_ORDER[pool]
        chances = ordered(win, exponents)
        sets = np.array(list(combinations(range(win.size), count)), dtype=np.intp).reshape(-1, count)
        flat = np.zeros(len(sets))
        for order in permutations(range(count)):
            flat += chances[tuple(sets[:, order].T)]
        best = np.argsort(-flat, kind="stable")[:most]
        places = sets[best]
    return [
        (tuple(place), chance)
        for place, chance in zip(places.tolist(), flat[best].tolist(), strict=True)
        if chance > 0.0
    ]


def fit_finish_order(win: Floats, starts: Indices, position: Floats) -> FinishOrder:
    """Fit λ by maximum likelihood, for each place and group of field sizes.

    `win` are out-of-fold chances, `position` is NaN for a runner without one; rows of a race together. A race without a single
    runner at each place up to the fitted one is left out: a dead heat, or a place that is unknown.
    """
    sizes = sizes_of(starts, win.size)
    groups = np.searchsorted(FIELDS, sizes)
    fits = [
        [_fit(win, starts, position, place, groups == group) for place in (2, 3, 4)] for group in range(len(FIELDS) + 1)
    ]
    whole = [_fit(win, starts, position, place, np.ones(sizes.size, dtype=np.bool_)) for place in (2, 3, 4)]
    exponents, errors, races = [], [], []
    for group in fits:
        chosen = [
            own if own[2] >= LEAST_RACES else every if every[2] >= LEAST_RACES else (HENERY[at], None, own[2])
            for at, (own, every) in enumerate(zip(group, whole, strict=True))
        ]
        exponents.append((chosen[0][0], chosen[1][0], chosen[2][0]))
        errors.append(tuple(fit[1] for fit in chosen))
        races.append(tuple(fit[2] for fit in chosen))
    return FinishOrder(tuple(exponents), tuple(errors), tuple(races))


def _fit(
    win: Floats, starts: Indices, position: Floats, place: int, wanted: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> tuple[float, float | None, int]:
    """λ of one place, its standard error, and the number of races, by Newton's method on a concave likelihood."""
    single = wanted & (sizes_of(starts, win.size) > place)
    for earlier in range(1, place + 1):
        single &= total((position == earlier).astype(np.float64), starts) == 1.0
    rows = spread(single.astype(np.float64), starts, win.size) > 0
    rows &= ~(position < place)
    count = int(single.sum())
    if count == 0:
        return HENERY[place - 2], None, 0
    logs = np.log(win[rows])
    sizes = total(rows.astype(np.float64), starts)[single].astype(np.intp)
    first = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.intp)
    taken = float(logs[position[rows] == place].sum())
    exponent, variance = 1.0, 0.0
    for _ in range(_STEPS):
        powers = np.exp(exponent * (logs - spread(np.maximum.reduceat(logs, first), first, logs.size)))
        share = powers / spread(total(powers, first), first, logs.size)
        mean = total(share * logs, first)
        variance = float((total(share * logs**2, first) - mean**2).sum())
        if variance <= 0.0:
            return HENERY[place - 2], None, 0
        step = (taken - float(mean.sum())) / variance
        exponent += float(np.clip(step, -0.5, 0.5))
        if abs(step) < 1e-9:
            break
    return exponent, variance**-0.5, count


def _group(runners: int) -> int:
    return int(np.searchsorted(FIELDS, runners))


def _clipped(chances: Floats) -> Floats:
    # rounding may carry a near certainty beyond 1
    return np.asarray(np.clip(chances, 0.0, 1.0), dtype=np.float64)


def _powers(win: Floats, exponent: float) -> Floats:
    return np.asarray(win**exponent, dtype=np.float64)


def _others(powers: Floats) -> Floats:
    """The sum over all runners but one, (…, runners); at least the smallest, which rounding could undercut."""
    return np.asarray(
        np.maximum(powers.sum(axis=-1, keepdims=True) - powers, powers.min(axis=-1, keepdims=True)), dtype=np.float64
    )


def _other_pairs(powers: Floats) -> Floats:
    sums = powers.sum(axis=-1)[..., None, None] - powers[..., :, None] - powers[..., None, :]
    return np.asarray(np.maximum(sums, powers.min(axis=-1)[..., None, None]), dtype=np.float64)


def _other_triples(powers: Floats) -> Floats:
    sums = (
        powers.sum(axis=-1)[..., None, None, None]
        - powers[..., :, None, None]
        - powers[..., None, :, None]
        - powers[..., None, None, :]
    )
    return np.asarray(np.maximum(sums, powers.min(axis=-1)[..., None, None, None]), dtype=np.float64)


def _pairs(ahead: Floats, powers: Floats) -> Floats:
    return np.asarray(ahead[..., :, None] * powers[..., None, :] * (1.0 - np.eye(powers.shape[-1])), dtype=np.float64)


def _triples(pairs: Floats, powers: Floats) -> Floats:
    apart = 1.0 - np.eye(powers.shape[-1])
    return np.asarray(
        pairs[..., :, :, None] * powers[..., None, None, :] * apart[:, None, :] * apart[None, :, :], dtype=np.float64
    )
