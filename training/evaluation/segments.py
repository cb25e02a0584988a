"""Where a model and the market differ, and which of them was right: starters by segment, corrected for the number of segments.

A segment is a range of one property of the race or the runner. In each, the model and the market are compared by the
log-likelihood of each runner's win (yes or no): above 0 the model was closer. Races of a day are dependent, so that the
standard error is of whole race days. Many segments are compared at once and some differ by chance: only those that the
procedure of Benjamini and Hochberg keeps at `RATE` have a winner, so that in the long run at most that share of the named
segments is named by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from velo.resampling import LEAST_DAYS, Figure
from velo.training.dataset.by_race import Floats, Indices, sizes_of
from velo.training.evaluation.betting import BUCKETS, bucket_of
from velo.training.evaluation.metrics import BacktestPeriod

RATE: Final = 0.05
"""The false discovery rate."""
LEAST_EXPECTED: Final = 20.0
"""The fewest winners that both the model and the market expect in a segment that is compared."""
MODEL: Final = "model"
MARKET: Final = "market"
UNKNOWN: Final = "unknown"
_SMALLEST: Final = 1e-12
_PER: Final = 1000.0
"""Gains are shown for a thousand runners: that of one is too small to read."""
_FIELDS: Final = ((7.0, 11.0, 15.0), ("2–7", "8–11", "12–15", "> 15"))
_STARTS: Final = ((0.0, 3.0, 10.0, 30.0), ("0", "1–3", "4–10", "11–30", "> 30"))

Labels = NDArray[Any]
"""The segment of each starter by one property, texts, (starters,)."""


@dataclass(frozen=True, slots=True)
class ComparedSegment:
    """The starters with one value of a property.

    `differ` is the mean distance between the probabilities of model and market. A/E is the winners among the starters that the
    model rates above the market, divided by those that each expects: over whole races both expect every winner. `gain` is the model's log-likelihood less the market's, in nats for a thousand runners, with its interval
    over race days. `p_value` is of a gain of 0. `right` is `model` or `market` where the gain is shown, else None.
    """

    by: str
    value: str
    races: int
    runners: int
    differ: float
    ae_model: Figure
    ae_market: Figure
    gain: Figure
    p_value: float
    right: str | None


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """The compared segments, the surest first. `too_small` others have too few days or expected winners to be compared."""

    rate: float
    compared: int
    too_small: int
    segments: tuple[ComparedSegment, ...]

    @property
    def shown(self) -> tuple[ComparedSegment, ...]:
        """The segments in which one of the two was right, after the correction."""
        return tuple(segment for segment in self.segments if segment.right is not None)


def segments_of(season: BacktestPeriod, market: Floats, labels: Mapping[str, Labels]) -> SegmentReport:
    """Compare the season's p with the `market`'s probabilities in each segment of each property.

    Races that lack either are left out, and so are segments with fewer than `LEAST_DAYS` race days or `LEAST_EXPECTED`
    winners expected by either.
    """
    known = ~np.isnan(season.p + market)
    compared: list[ComparedSegment] = []
    too_small = 0
    for by, of in labels.items():
        for value in sorted(set(of[known].tolist()), key=str):
            segment = _segment(season, market, by, str(value), known & (of == value))
            if segment is None:
                too_small += 1
            else:
                compared.append(segment)
    kept = discoveries([segment.p_value for segment in compared], RATE)
    judged = [_judged(segment) if found else segment for segment, found in zip(compared, kept.tolist(), strict=True)]
    judged.sort(key=lambda segment: segment.p_value)
    return SegmentReport(RATE, len(judged), too_small, tuple(judged))


def discoveries(p_values: Sequence[float], rate: float) -> NDArray[np.bool_]:
    """Which of some hypotheses the procedure of Benjamini and Hochberg rejects at a false discovery rate."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= rate * np.arange(1, p.size + 1) / max(p.size, 1))
    found = np.zeros(p.size, dtype=np.bool_)
    if below.size:
        found[order[: below[-1] + 1]] = True
    return found


def labels_of(
    starts: Indices, price: Floats, days: NDArray[np.datetime64], given: Mapping[str, Any]
) -> dict[str, Labels]:
    """The segments of some starters by every property of the report.

    `price` are decimal odds, `days` the local race dates of the starters. `given` has their `race_class`, `distance_band`,
    `draw_cell`, `going_group` and `starts` (the horse's earlier starts, NaN without one).
    """
    sizes = sizes_of(starts, price.size)
    inverse = np.where(np.isfinite(price) & (price > 1.0), price, np.inf)
    favourite = np.repeat(np.minimum.reduceat(inverse, starts), sizes)
    bucket = np.where(np.isfinite(favourite), bucket_of(favourite), -1)
    months = days.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return {
        "class": _texts([UNKNOWN if value != value else f"{value:g}" for value in given["race_class"]]),
        "distance": _texts(given["distance_band"]),
        "surface": _texts([str(cell).split("|")[1] for cell in given["draw_cell"]]),
        "going": _texts(given["going_group"]),
        "field size": _binned(np.repeat(sizes, sizes).astype(np.float64), *_FIELDS),
        "favourite's price": _texts([UNKNOWN if at < 0 else BUCKETS[at] for at in bucket.tolist()]),
        "horse's starts": _binned(np.nan_to_num(np.asarray(given["starts"], dtype=np.float64)), *_STARTS),
        "month": _texts([f"{month:02d}" for month in months.tolist()]),
    }


def _segment(
    season: BacktestPeriod, market: Floats, by: str, value: str, inside: NDArray[np.bool_]
) -> ComparedSegment | None:
    p, pi, won, days = season.p[inside], market[inside], season.share[inside], season.days.where(inside)
    above = p > pi
    of_above = days.where(above)
    if np.unique(days.of).size < LEAST_DAYS or min(p.sum(), pi.sum()) < LEAST_EXPECTED:
        return None
    gained = _PER * _gain(p, pi, won)
    return ComparedSegment(
        by=by,
        value=value,
        races=int(np.unique(season.race[inside]).size),
        runners=int(inside.sum()),
        differ=float(np.abs(p - pi).mean()),
        ae_model=of_above.ratio(won[above], p[above]),
        ae_market=of_above.ratio(won[above], pi[above]),
        gain=days.mean(gained),
        p_value=_p_value(gained, days.of),
        right=None,
    )


def _judged(segment: ComparedSegment) -> ComparedSegment:
    return replace(segment, right=MODEL if (segment.gain.value or 0.0) > 0.0 else MARKET)


def _gain(p: Floats, market: Floats, won: Floats) -> Floats:
    """The log-likelihood of each runner's win or loss by p less that by the market, in nats; a dead heat is a part of a win."""
    own, other = (np.clip(chances, _SMALLEST, 1.0 - _SMALLEST) for chances in (p, market))
    return np.asarray(won * np.log(own / other) + (1.0 - won) * np.log((1.0 - own) / (1.0 - other)), dtype=np.float64)


def _p_value(values: Floats, day: Indices) -> float:
    """Two-sided p of a mean of 0, by Student's t with the standard error of whole days; 1 where the values do not vary."""
    _, place = np.unique(day, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place).astype(np.float64)
    mean = sums.sum() / counts.sum()
    spread = np.sqrt(((sums - mean * counts) ** 2).sum() * counts.size / (counts.size - 1)) / counts.sum()
    return float(2.0 * stdtr(counts.size - 1, -abs(mean / spread))) if spread > 0.0 else 1.0


def _binned(values: Floats, edges: Sequence[float], names: Sequence[str]) -> Labels:
    return _texts(np.asarray(names, dtype=object)[np.searchsorted(np.asarray(edges), values, side="left")].tolist())


def _texts(values: Sequence[Any]) -> Labels:
    return np.asarray([UNKNOWN if value is None else str(value) for value in values], dtype=object)
