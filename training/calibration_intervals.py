"""How far a chance can be trusted: what share of the runners given about that chance won, and how sure that share is.

Runners predicted out of fold are put into bins by their chance, each bin with as many winners expected. Of each bin winners ÷
expected winners is told with its 95 % interval over whole race days drawn anew (`velo.resampling`), as for a reliability
diagram: Bröcker and Smith, "Increasing the reliability of reliability diagrams", Weather and Forecasting 22 (2007), with
blocks in place of single forecasts. Plain numbers, kept as JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.by_race import Floats
from velo.errors import UserError
from velo.resampling import Days

FORMAT: Final = 1
MOST_BINS: Final = 12
WINS_A_BIN: Final = 50.0
"""Expected winners of a bin: of fewer the bounds say more of the bin than of the chance."""


@dataclass(frozen=True, slots=True)
class CalibrationInterval:
    """Bounds of a winning rate as multiples of the chance said: `low` and `high` at the `chances`, straight between them.

    It covers the mean rate of all runners given such a chance, over the race days it was measured on: by how much the chance
    may be off on average and by luck of the draw. It does not cover what sets one runner apart from others of its chance,
    nor days unlike those. It need not hold the chance itself: where it does not, the model was off there. `runners`, `days`
    and `wins` are what it was measured on.
    """

    chances: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    runners: int
    days: int
    wins: float

    def interval(self, p: Floats) -> Floats:
        """Lower and upper bound of each probability, (runners, 2), between 0 and 1."""
        at, knots = np.log(np.clip(p, 1e-12, 1.0)), np.log(self.chances)
        bounds = np.stack([np.interp(at, knots, self.low), np.interp(at, knots, self.high)], axis=1)
        return np.asarray(np.clip(p[:, None] * bounds, 0.0, 1.0), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """As kept in a bundle."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> "CalibrationInterval":
        """The band that `to_json` told; raises `UserError` for another format."""
        if kept.get("format") != FORMAT:
            raise UserError(
                f"calibration interval format is {kept.get('format')!r}, but this version reads {FORMAT}: run `velo train` again"
            )
        chances, low, high = (tuple(kept[name]) for name in ("chances", "low", "high"))
        return CalibrationInterval(chances, low, high, kept["runners"], kept["days"], kept["wins"])


def fit_interval(p: Floats, share: Floats, dates: NDArray[Any], seed: int) -> CalibrationInterval | None:
    """The band of out-of-fold chances; `share` is each runner's of the win, `dates` its local race date.

    None where no bin has winners enough, or too few race days to draw anew: then no interval can be told.
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
        told = days.where(inside).ratio(share[inside], p[inside])
        if told.low is None or told.high is None:
            continue
        chances.append(float(p[inside].sum() / inside.sum()))
        low.append(told.low)
        high.append(told.high)
    if not chances:
        return None
    return CalibrationInterval(tuple(chances), tuple(low), tuple(high), p.size, days.count, float(share.sum()))
