"""Edge and Kelly stake of one bet; `velo.training.evaluation.betting` computes the same for a whole period."""

from typing import Final

KELLY_FRACTION: Final = 0.25
KELLY_CAP: Final = 0.02
"""The largest share of the bank on one runner."""


def edge(p: float, price: float) -> float:
    """Return p · price − 1, the expected profit of one unit if p is true; the price is decimal and above 1."""
    return p * price - 1.0


def kelly_stake(p: float, price: float, fraction: float = KELLY_FRACTION, cap: float = KELLY_CAP) -> float:
    """Return the fractional Kelly share of the bank, at most `cap`; 0 without an edge. Ignores other bets."""
    return min(max(fraction * edge(p, price) / (price - 1.0), 0.0), cap)
