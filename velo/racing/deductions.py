"""Deductions from bets struck before a late withdrawal: Tattersalls Rule 4(c), and an exchange's reduction factors.

Scales are named data, so that no bet is silently settled under another scale. Bookmakers differ in details (some waive
5p, some stop at 75p); define a `Scale` for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from velo.errors import UserError


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A declared runner withdrawn at an instant (UTC).

    `price` is its decimal price when it was withdrawn, `reduction_factor` the exchange's factor in per cent; None if
    unknown.
    """

    horse_id: str
    at: datetime
    price: float | None = None
    reduction_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Rule 4 deductions: rows of (longest fractional price, pence in the pound), shortest first; none for longer prices.

    `most` limits the total of a race's withdrawals; a total of at most `waived` is not deducted.
    """

    name: str
    rows: tuple[tuple[Fraction, int], ...]
    most: int = 90
    waived: int = 0

    def pence(self, price: float) -> int:
        """Return the deduction (pence) for a runner withdrawn at a decimal price, which may be rounded to hundredths."""
        if not price > 1.0:
            raise UserError(f"a withdrawn runner's price must be decimal and > 1, got {price!r}")
        for longest, pence in self.rows:
            if price <= max(1.0 + float(longest), round(1.0 + float(longest), 2)) + 1e-9:
                return pence
        return 0


SCALE: Final = Scale(
    name="tattersalls-4c-5p",
    rows=tuple(
        (Fraction(longest), pence)
        for longest, pence in (
            ("1/9", 90), ("2/11", 85), ("1/4", 80), ("3/10", 75), ("2/5", 70), ("8/15", 65), ("8/13", 60), ("4/5", 55),
            ("20/21", 50), ("6/5", 45), ("6/4", 40), ("7/4", 35), ("9/4", 30), ("3/1", 25), ("4/1", 20), ("11/2", 15),
            ("9/1", 10), ("14/1", 5),
        )
    ),
)  # fmt: skip
"""The 5p-step scale that bookmakers publish as Rule 4(c); its first day in force is not established."""


@dataclass(frozen=True, slots=True)
class Reductions:
    """An exchange's rule for reducing matched prices: by a withdrawn runner's factor in per cent, if it is at least `least`."""

    name: str
    least: float


REDUCTION: Final = Reductions(name="betfair-win-2.5", least=2.5)
"""Betfair's rule for win markets; its first day in force is not established."""


def known_factor(value: object) -> float | None:
    """Return a reduction factor in per cent, from 0 to below 100; None for anything else: older logs may hold any value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0.0 <= value < 100.0 else None  # type: ignore[arg-type, operator]


def rule_4_pence(prices: Sequence[float], scale: Scale = SCALE) -> int:
    """Return the pence deducted from each pound won, for all runners withdrawn after the bet; prices are decimal."""
    whole = min(sum(scale.pence(price) for price in prices), scale.most)
    return 0 if whole <= scale.waived else whole


def reduced_price(price: float, factors: Sequence[float], by: Reductions = REDUCTION) -> float:
    """Return a matched price after reduction factors in per cent, applied in turn; factors below `by.least` are ignored.

    An exchange reduces the whole price, not the winnings. A price never falls below 1 (the stake back).
    """
    for factor in factors:
        if not 0.0 <= factor < 100.0:
            raise UserError(f"a reduction factor is a percentage from 0 to below 100, got {factor!r}")
        if factor >= by.least:
            price *= 1.0 - factor / 100.0
    return max(price, 1.0)
