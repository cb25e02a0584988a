"""What the models before this house said of themselves, with the intervals that their own counts allow.

The figures are those of the training report of v1.1.0 (2025-11-03). It tells bets, win rates and returns out of sample, so an
interval can be made; of its in-sample figures it tells no count, and none can.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Final

from training.resampling import Figure

Z_95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Claim:
    """A strategy as it was reported: bets, their win rate, ROI and A/E (model p expected), as shares."""

    strategy: str
    bets: int
    win_rate: float
    roi: float
    ae: float

    @property
    def wins(self) -> int:
        """Winners, from the rounded rate."""
        return round(self.win_rate * self.bets)

    @property
    def mean_odds(self) -> float:
        """Decimal odds that its winners paid on average."""
        return (1.0 + self.roi) * self.bets / self.wins

    def ae_figure(self) -> Figure:
        """A/E with what chance allows the number of winners (Wilson's interval of the win rate)."""
        return self._scaled(self.ae / self.win_rate, 0.0, self.ae)

    def roi_figure(self) -> Figure:
        """ROI as if every winner had paid the mean: narrower than the truth, which the report does not tell."""
        return self._scaled(self.mean_odds, -1.0, self.roi)

    def _scaled(self, by: float, plus: float, value: float) -> Figure:
        low, high = wilson(self.wins, self.bets)
        return Figure(value, low * by + plus, high * by + plus, self.bets)


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One column of the report: where it was measured, and what was told there; None was not told."""

    name: str
    measured: str
    records: int | None
    auc: float | None
    calibration_error: float
    ae_top20: float | None
    roi_top20: float | None
    claims: tuple[Claim, ...] = ()


VERSIONS: Final = (
    PublishedModel("v1.0.0", "in sample", None, 0.7824, 0.0478, 0.87, -0.0826),
    PublishedModel("v1.1.0", "in sample", 5_406, 0.8213, 0.0145, 0.99, 0.1857),
    PublishedModel(
        "v1.1.0",
        "out of sample, 997 bets",
        None,
        None,
        0.0454,
        None,
        None,
        (
            Claim("TOP10", 107, 0.7290, 3.0064, 0.81),
            Claim("TOP20", 254, 0.4134, 1.4624, 0.72),
            Claim("TOP30", 300, 0.3633, 1.1482, 0.70),
            Claim("ALL", 997, 0.1153, -0.2588, 0.68),
        ),
    ),
)


def wilson(wins: int, bets: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    rate, square = wins / bets, Z_95**2 / bets
    middle = (rate + square / 2.0) / (1.0 + square)
    half = Z_95 * sqrt(rate * (1.0 - rate) / bets + square / (4.0 * bets)) / (1.0 + square)
    return middle - half, middle + half
