"""What a bet is expected to win, and how much of a bank to put on it; `training.betting` does the same for a whole period."""

from typing import Final

KELLY_FRACTION: Final = 0.25
KELLY_CAP: Final = 0.02
"""The most of the bank on one runner."""


def edge(p: float, price: float) -> float:
    """p · price − 1: what one unit is expected to win if p is true; the price is decimal and above 1."""
    return p * price - 1.0


def kelly_stake(p: float, price: float, fraction: float = KELLY_FRACTION, cap: float = KELLY_CAP) -> float:
    """The share of the bank by fractional Kelly, at most `cap`; 0 without an edge. As if nothing else ran."""
    return min(max(fraction * edge(p, price) / (price - 1.0), 0.0), cap)
