"""What a book says of each runner's chance once its margin is taken out: proportional, power and Shin.

Each takes decimal odds in blocks of races (see `velo.training.by_race`) and gives probabilities that sum to 1 in each race. Odds that
are missing, infinite or ≤ 1 leave the whole race without a market: its probabilities are NaN. A race of one runner is certain.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from velo.errors import UserError
from velo.training.by_race import Floats, Indices, normalised, sizes_of, spread, total

Devig = Callable[[Floats, Indices], Floats]

NEWTON_STEPS: Final = 60
HALVINGS: Final = 60
"""Of the interval [0, 1] that holds Shin's z: as many as a double can tell apart."""


def market_probabilities(odds: Floats, starts: Indices, method: str = "proportional") -> Floats:
    """The market's probabilities by one of `METHODS`; raises `UserError` for another name."""
    if method not in METHODS:
        raise UserError(f"{method!r} is no way to take out a margin: choose one of {', '.join(METHODS)}")
    return METHODS[method](odds, starts)


def inverses(odds: Floats) -> Floats:
    """1/odds, NaN where there are none."""
    known = np.isfinite(odds) & (odds > 1.0)
    return np.asarray(np.divide(1.0, odds, out=np.full(odds.shape, np.nan), where=known), dtype=np.float64)


def book(odds: Floats, starts: Indices) -> Floats:
    """Σ 1/odds of each race: 1.2 is a margin of 20 %, below 1 the book is under-round; NaN where it is not whole."""
    return total(inverses(odds), starts)


def proportional(odds: Floats, starts: Indices) -> Floats:
    """π ∝ 1/odds."""
    return normalised(inverses(odds), starts)


def power(odds: Floats, starts: Indices) -> Floats:
    """π = (1/odds)^k, the k of each race such that they sum to 1: takes more from outsiders. Under-round: k < 1."""
    logs = np.log(inverses(odds))
    exponent = np.ones(starts.size)
    # log Σ (1/odds)^k is convex and falls with k, so Newton's method comes to its one root from any side.
    free = sizes_of(starts, odds.size) > 1
    for _ in range(NEWTON_STEPS):
        raised = np.exp(spread(exponent, starts, odds.size) * logs)
        sums = total(raised, starts)
        step = np.where(free, np.log(sums) * sums / -total(raised * logs, starts), 0.0)
        exponent += step
        if not np.any(np.abs(step) > 1e-14 * np.abs(exponent)):
            break
    return normalised(np.exp(spread(exponent, starts, odds.size) * logs), starts)


def shin(odds: Floats, starts: Indices) -> Floats:
    """Shin's (1993) probabilities: the margin guards against insiders, a share z of the money, one z a race.

    π = (√(z² + 4(1 − z)·(1/odds)²/B) − z) ÷ 2(1 − z) with B the book. A book that is fair or under-round has no room for
    insiders: z = 0 and the proportional probabilities.
    """
    inverse = inverses(odds)
    books = total(inverse, starts)
    squares = inverse**2 / spread(books, starts, odds.size)
    low, high = np.zeros(starts.size), np.ones(starts.size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        above = total(_at_insiders(squares, spread(middle, starts, odds.size)), starts) > 1.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    chances = normalised(_at_insiders(squares, spread(low, starts, odds.size)), starts)
    fair = spread((books <= 1.0).astype(np.float64), starts, odds.size) > 0
    return np.where(fair, proportional(odds, starts), chances)


def _at_insiders(squares: Floats, z: Floats) -> Floats:
    # The textbook form times its conjugate: no difference of near-equal numbers, and no 0/0 as z comes to 1.
    return np.asarray(2.0 * squares / (np.sqrt(z**2 + 4.0 * (1.0 - z) * squares) + z), dtype=np.float64)


METHODS: Final[Mapping[str, Devig]] = MappingProxyType({"proportional": proportional, "power": power, "shin": shin})
