"""Intervals for calibrated probabilities: the win rate of runners with about the same p, and its uncertainty.

Out-of-fold runners are binned by p, with equal expected winners in each bin. Each bin gives winners ÷ expected winners with
its 95 % interval over resampled race days (`velo.resampling`), as in a reliability diagram: Bröcker and Smith, "Increasing the
reliability of reliability diagrams", Weather and Forecasting 22 (2007), with race days in place of single forecasts. Stored as
JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.errors import UserError
from velo.resampling import Days
from velo.training.by_race import Floats

FORMAT: Final = 1
MOST_BINS: Final = 12
WINS_A_BIN: Final = 50.0
"""Minimum expected winners of a bin; with fewer, the bounds reflect noise."""


@dataclass(frozen=True, slots=True)
class CalibrationInterval:
    """Bounds of the win rate as multiples of p: `low` and `high` at the knots `chances`, linear in log p between them.

    The interval covers the mean win rate of all runners with such a p on the race days it was fitted on: average
    miscalibration and sampling error. It does not cover differences between runners of equal p, or other days. It can
    exclude p itself, where the model is miscalibrated. `runners`, `days` and `wins` describe the fitted data.
    """

    chances: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runners: int
    days: int
    wins: float

    def interval(self, p: Floats) -> Floats:
        """Lower and upper bound of each p, (runners, 2), between 0 and 1."""
        at, knots = np.log(np.clip(p, 1e-12, 1.0)), np.log(self.chances)
        bounds = np.stack([np.interp(at, knots, self.low), np.interp(at, knots, self.high)], axis=1)
        return np.asarray(np.clip(p[:, None] * bounds, 0.0, 1.0), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "CalibrationInterval":
        """The inverse of `to_json`; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(
                f"calibration interval format is {kept.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        chances, low, high = (tuple(kept[name]) for name in ("chances", "low", "high"))
        return CalibrationInterval(chances, low, high, kept["runners"], kept["days"], kept["wins"])


def fit_interval(p: Floats, share: Floats, dates: NDArray[Any], seed: int) -> CalibrationInterval | None:
    """Fit intervals on out-of-fold p; `share` is each runner's share of the win, `dates` its local race date.

    None if no bin has enough expected winners, or there are too few race days to resample.
    """
    if p.size == 0 or p.sum() < WINS_A_BIN:
        return None
    days = Days.of_dates(dates, seed)
    order = np.argsort(p, kind="stable")
    bins = min(MOST_BINS, int(p.sum() / WINS_A_BIN))
    expected = np.cumsum(p[order])
    bin_of = np.empty(p.size, dtype=np.intp)
    bin_of[order] = np.minimum((expected - p[order]) * bins / expected[-1], bins - 1)
    chances, low, high = [], [], []
    for number in range(bins):
        inside = bin_of == number
        rate = days.where(inside).ratio(share[inside], p[inside])
        if rate.low is None or rate.high is None:
            continue
        chances.append(float(p[inside].sum() / inside.sum()))
        low.append(rate.low)
        high.append(rate.high)
    if not chances:
        return None
    return CalibrationInterval(tuple(chances), tuple(low), tuple(high), p.size, days.count, float(share.sum()))
