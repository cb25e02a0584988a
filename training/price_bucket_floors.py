"""Whether p is true at every price: A/E by bucket against a floor that a sound model keeps (contract 9).

A bucket holds where its 95 % interval contains 1, or where so many winners were expected that 5 % off is near enough.
"""

from dataclasses import dataclass
from typing import Final

from velo.resampling import Figure
from velo.training.backtest_metrics import BacktestPeriod
from velo.training.betting import BUCKETS, bucket_of

NEAR: Final = 0.05
MANY_EXPECTED: Final = 2_500.0
BY_PRICE: Final = "price"
BY_P: Final = "own fair price"


@dataclass(frozen=True, slots=True)
class Floor:
    """All starters of one bucket of SP or of the model's own fair price 1/p: their number, the wins that p expects, and A/E.

    `holds` is None without an interval.
    """

    subject: str
    by: str
    bucket: str
    n: int
    expected: float
    ae: Figure
    holds: bool | None


def floors(season: BacktestPeriod, subject: str, by: str) -> tuple[Floor, ...]:
    """A/E of all starters by bucket, with the model's p as the expectation; `by` is `BY_PRICE` or `BY_P`."""
    bucket = bucket_of(season.settled_at if by == BY_PRICE else 1.0 / season.p)
    kept = []
    for at, name in enumerate(BUCKETS):
        inside = bucket == at
        p = season.p[inside]
        ae = season.days.where(inside).ratio(season.share[inside], p)
        kept.append(Floor(subject, by, name, int(inside.sum()), float(p.sum()), ae, holds(ae, float(p.sum()))))
    return tuple(kept)


def holds(ae: Figure, expected: float) -> bool | None:
    """Whether a bucket keeps its floor; None without an interval."""
    if ae.value is None or ae.low is None or ae.high is None:
        return None
    return ae.low <= 1.0 <= ae.high or (expected >= MANY_EXPECTED and abs(ae.value - 1.0) <= NEAR)
