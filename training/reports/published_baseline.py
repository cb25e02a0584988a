"""Published figures of earlier models, with the intervals that follow from their own counts.

Source: the training report of v1.1.0 (2025-11-03). Its out-of-sample figures come with bets, win rates and returns, so they get an
interval. Its in-sample figures come without counts, so they get none.
"""

from dataclasses import dataclass
from typing import Final

from scipy.stats import binomtest

from velo.resampling import LEVEL, Figure


@dataclass(frozen=True, slots=True)
class Claim:
    """A reported strategy: bets, win rate, ROI and A/E against the model's own p; rates are shares, not percent."""

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
        """The mean decimal odds of its winners."""
        return (1.0 + self.roi) * self.bets / self.wins

    def ae_figure(self) -> Figure:
        """A/E with the Wilson interval of the win rate, scaled."""
        return self._scaled(self.ae / self.win_rate, 0.0, self.ae)

    def roi_figure(self) -> Figure:
        """ROI with an interval that assumes every winner paid the mean odds; too narrow, since the report omits their spread."""
        return self._scaled(self.mean_odds, -1.0, self.roi)

    def _scaled(self, by: float, plus: float, value: float) -> Figure:
        low, high = wilson(self.wins, self.bets)
        return Figure(value, low * by + plus, high * by + plus, self.bets)


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One column of the report: what it was measured on and its figures; None where the report omits one."""

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
    """The Wilson 95 % interval of a rate."""
    interval = binomtest(wins, bets).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(interval.low), float(interval.high)
