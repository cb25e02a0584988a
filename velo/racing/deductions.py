"""What a late withdrawal takes from bets struck before it: Tattersalls Rule 4(c), and an exchange's reduction factors.

Scales are data with a name, so that a bet settled under one is never silently settled under another. The bookmakers' own
readings differ in small ways (some waive 5p, some stop at 75p); a `Scale` of one's own says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from velo.errors import UserError


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A declared runner taken out at an instant (UTC), and what was said of it then.

    `price` is the decimal price current against it when it was withdrawn, `reduction_factor` the exchange's, in per cent;
    None where not known.
    """

    horse_id: str
    at: datetime
    price: float | None = None
    reduction_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """Rule 4 deductions: rows of (longest fractional price, pence in the pound) from the shortest; longer prices: none.

    `most` is the most that all withdrawals of a race take together; `waived` a total that is let go.
    """

    name: str
    rows: tuple[tuple[Fraction, int], ...]
    most: int = 90
    waived: int = 0

    def pence(self, price: float) -> int:
        """The deduction for one withdrawn at a decimal price; a price told in hundredths finds its fraction's row."""
        if not price > 1.0:
            raise UserError(f"a withdrawn runner's price of {price!r} is none: decimal prices are above 1")
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
"""The scale in steps of 5p that bookmakers publish as Rule 4(c); since when it holds was not established."""


@dataclass(frozen=True, slots=True)
class Reductions:
    """How an exchange reduces matched prices: by a withdrawn runner's factor in per cent, from `least` on; smaller are not made."""

    name: str
    least: float


REDUCTION: Final = Reductions(name="betfair-win-2.5", least=2.5)
"""Betfair's for win markets; since when it holds was not established."""


def rule_4_pence(prices: Sequence[float], scale: Scale = SCALE) -> int:
    """Pence taken of each pound won, for all runners withdrawn after the bet together; prices are decimal."""
    whole = min(sum(scale.pence(price) for price in prices), scale.most)
    return 0 if whole <= scale.waived else whole


def reduced_price(price: float, factors: Sequence[float], by: Reductions = REDUCTION) -> float:
    """A matched price after reduction factors in per cent, one after another; those too small are not made.

    An exchange takes them from the whole price, not from the winnings. A price never falls below 1 (the stake back).
    """
    for factor in factors:
        if not 0.0 <= factor < 100.0:
            raise UserError(f"a reduction factor of {factor!r} is none: give per cent from 0 to below 100")
        if factor >= by.least:
            price *= 1.0 - factor / 100.0
    return max(price, 1.0)
