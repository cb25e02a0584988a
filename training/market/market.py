"""The market's probabilities from odds, Benter's blend of model and market, and the market as an offset (contract 9).

`proportional`, `power` and `shin` take the margin out of decimal odds. Odds that are missing, infinite or ≤ 1 leave the whole race
without a market: its probabilities are NaN. A race of one runner is certain. Blends are fitted on out-of-fold f, a model's
probabilities of races it was not trained on: on its own training races a model looks better than it is, and the blend would trust
it too much. Rows of a race are adjacent (`velo.training.dataset.training_set.by_race`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from velo.errors import UserError
from velo.training.dataset.by_race import Floats, Indices, normalised, sizes_of, softmax, spread, total

Devig = Callable[[Floats, Indices], Floats]

NEWTON_STEPS: Final = 60
HALVINGS: Final = 60
"""Bisections of [0, 1] for Shin's z: as many as a double can resolve."""


def market_probabilities(odds: Floats, starts: Indices, method: str = "proportional") -> Floats:
    """The market's probabilities by one of `METHODS`; raises `UserError` for another name."""
    if method not in METHODS:
        raise UserError(f"{method!r} is not a method: choose one of {', '.join(METHODS)}")
    return METHODS[method](odds, starts)


def inverses(odds: Floats) -> Floats:
    """1/odds, NaN for missing odds."""
    known = np.isfinite(odds) & (odds > 1.0)
    return np.asarray(np.divide(1.0, odds, out=np.full(odds.shape, np.nan), where=known), dtype=np.float64)


def book(odds: Floats, starts: Indices) -> Floats:
    """Σ 1/odds of each race: 1.2 is a margin of 20 %, below 1 the book is under-round; NaN if any odds are missing."""
    return total(inverses(odds), starts)


def proportional(odds: Floats, starts: Indices) -> Floats:
    """π ∝ 1/odds."""
    return normalised(inverses(odds), starts)


def power(odds: Floats, starts: Indices) -> Floats:
    """π = (1/odds)^k with the k of each race that makes them sum to 1; takes more from outsiders. Under-round: k < 1."""
    logs = np.log(inverses(odds))
    exponent = np.ones(starts.size)
    # log Σ (1/odds)^k is convex and falls with k, so Newton's method finds its only root from either side
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
    """Shin's (1993) probabilities: the margin is protection against insiders, who hold a share z of the money, one z per race.

    π = (√(z² + 4(1 − z)·(1/odds)²/B) − z) ÷ 2(1 − z) with B the book. A fair or under-round book has z = 0 and the
    proportional probabilities.
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
    # the textbook form times its conjugate: no difference of nearly equal numbers, and no 0/0 as z approaches 1
    return np.asarray(2.0 * squares / (np.sqrt(z**2 + 4.0 * (1.0 - z) * squares) + z), dtype=np.float64)


METHODS: Final[Mapping[str, Devig]] = MappingProxyType({"proportional": proportional, "power": power, "shin": shin})


SMALLEST: Final = 1e-15
LEAST_RACES: Final = 20
ILL_CONDITIONED: Final = 1e10


@dataclass(frozen=True, slots=True)
class Blend:
    """c ∝ f^α · π^β, with standard errors: None for an α fixed at 0 (the market alone), and if the data cannot separate α from β.

    `moves` are the weights of the market's moves before the decision, by `move_inputs`, in c ∝ f^α · π^β · exp(moves · inputs);
    empty without them. `log_loss` is that of the `races` it was fitted on, in nats per race.
    """

    alpha: float
    beta: float
    alpha_se: float | None
    beta_se: float | None
    races: int
    log_loss: float
    moves: tuple[float, ...] = ()

    def probabilities(self, f: Floats | None, pi: Floats, starts: Indices, inputs: Floats | None = None) -> Floats:
        """Blended probabilities, which sum to 1 in each race; NaN if the race has no market. f may be None if α is 0.

        `inputs` are those of `move_inputs`; without them the market is taken as unmoved.
        """
        scores = self.beta * _log(pi)
        if f is not None and self.alpha != 0.0:
            scores = scores + self.alpha * _log(f)
        elif self.alpha != 0.0:
            raise ValueError("this blend needs the model's probabilities: its α is not 0")
        if self.moves and inputs is not None:
            scores = scores + inputs @ np.array(self.moves)
        return softmax(_whole(scores, starts), starts)

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {name: value for name, value in asdict(self).items() if name != "moves" or value}

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "Blend":
        """The inverse of `to_json`; raises `TypeError` if a field is missing or unknown."""
        return Blend(**{**kept, "moves": tuple(kept.get("moves", ()))})


MOST_DRIFT: Final = 2.0
"""The largest drift that counts: odds that grew by more than sevenfold are an error or a withdrawal in all but name."""
MOVE_PENALTY: Final = 1.0
"""The L2 penalty of each weight of a move, in nats over all races: drifts over nested spans are nearly the same number."""


def move_inputs(moves: Floats, starts: Indices) -> Floats:
    """What a blend takes of the market's columns (`market_moves.COLUMNS`): its drifts, and the log of each share of the stakes.

    0 for an unknown drift, and for the stakes of a race in which one is unknown: as if the market had not moved.
    """
    drifts = np.clip(np.nan_to_num(moves[:, 2:-2], nan=0.0), -MOST_DRIFT, MOST_DRIFT)
    share = np.log(np.maximum(moves[:, -1], SMALLEST))
    return np.column_stack([drifts, np.nan_to_num(_whole(share, starts), nan=0.0)])


def fit_blend(f: Floats, pi: Floats, starts: Indices, share: Floats) -> Blend:
    """Fit α and β by maximum likelihood; `share` is each runner's share of the win. Races without a market are left out.

    Raises `UserError` for fewer than `LEAST_RACES` races with a market.
    """
    return _fit(np.stack([_log(f), _log(pi)], axis=1), starts, share)


def fit_moving_blend(f: Floats, pi: Floats, inputs: Floats, starts: Indices, share: Floats) -> Blend:
    """As `fit_blend`, with a weight for each of the `inputs` of `move_inputs`, drawn towards 0."""
    return _fit(np.column_stack([_log(f), inputs, _log(pi)]), starts, share)


def fit_market_exponent(pi: Floats, starts: Indices, share: Floats) -> Blend:
    """Fit β of the market alone, the benchmark of every blend: a model earns nothing by sharpening the market."""
    return _fit(_log(pi)[:, None], starts, share)


def market_offset(pi: Floats, beta: float, starts: Indices) -> Floats:
    """β·log π less its mean in the race: the offset of a residual model (LightGBM's `init_score`), (runners,).

    NaN for all runners of a race without a market: such a race cannot train a residual model.
    """
    offset = _whole(beta * _log(pi), starts)
    sizes = sizes_of(starts, pi.size).astype(np.float64)
    return np.asarray(offset - spread(total(offset, starts) / sizes, starts, pi.size), dtype=np.float64)


def residual_probabilities(scores: Floats, pi: Floats, beta: float, starts: Indices) -> Floats:
    """Probabilities of a model whose scores were trained on top of `market_offset` with the same β."""
    return softmax(scores + market_offset(pi, beta, starts), starts)


def _fit(logs: Floats, starts: Indices, share: Floats) -> Blend:
    """Fit a conditional logit: β is that of the last column, α of the first of several; those between are penalised. Convex."""
    from scipy.optimize import minimize

    kept = ~np.isnan(total(logs.sum(axis=1), starts))
    if int(kept.sum()) < LEAST_RACES:
        raise UserError(
            f"{int(kept.sum())} races with a market are too few to fit a blend: at least {LEAST_RACES} are needed"
        )
    rows = np.repeat(kept, sizes_of(starts, share.size))
    sizes = sizes_of(starts, share.size)[kept]
    logs, share = logs[rows], share[rows]
    starts = np.asarray(np.cumsum(np.r_[0, sizes[:-1]]), dtype=np.intp)
    races = starts.size
    won = (share[:, None] * logs).sum(axis=0) / races
    penalty = np.zeros(logs.shape[1])
    penalty[1:-1] = MOVE_PENALTY / races

    def loss(exponents: Floats) -> tuple[float, Floats]:
        scores = logs @ exponents
        top = np.maximum.reduceat(scores, starts)
        normaliser = top + np.log(total(np.exp(scores - spread(top, starts, scores.size)), starts))
        slope = (softmax(scores, starts)[:, None] * logs).sum(axis=0) / races - won
        drawn = 0.5 * float(penalty @ exponents**2)
        return float(normaliser.mean() - exponents @ won) + drawn, slope + penalty * exponents

    def curvature(exponents: Floats) -> Floats:
        chances = softmax(logs @ exponents, starts)
        weighted = chances[:, None] * logs
        means = np.stack([total(column, starts) for column in weighted.T], axis=1)
        return np.asarray((logs.T @ weighted - means.T @ means) / races + np.diag(penalty), dtype=np.float64)

    found = minimize(
        loss,
        np.r_[np.zeros(logs.shape[1] - 1), 1.0],
        jac=True,
        hess=curvature,
        method="trust-exact",
        options={"gtol": 1e-10},
    )
    exponents = [float(value) for value in found.x]
    log_loss = float(found.fun) - 0.5 * float(penalty @ found.x**2)
    information = races * curvature(found.x)
    errors: list[float | None] = [None] * len(exponents)
    # if the model gives all runners the same, or repeats the market, the data cannot separate the exponents
    if np.linalg.cond(information) < ILL_CONDITIONED:
        errors = [float(variance**0.5) for variance in np.diag(np.linalg.inv(information))]
    if len(exponents) == 1:
        return Blend(0.0, exponents[0], None, errors[0], races, log_loss)
    return Blend(exponents[0], exponents[-1], errors[0], errors[-1], races, log_loss, tuple(exponents[1:-1]))


def _log(chances: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(chances, SMALLEST)), dtype=np.float64)


def _whole(values: Floats, starts: Indices) -> Floats:
    """The values, with NaN for every runner of a race that has a NaN."""
    return np.asarray(values + 0.0 * spread(total(values, starts), starts, values.size), dtype=np.float64)
