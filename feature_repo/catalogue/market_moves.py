"""The market's columns at decision time: the last odds of each runner, their rank, their drift, and the stakes.

They are computed at request time from the snapshots known by then, by one implementation for training and serving, and are
stored in no view: the market of a race is never a stored feature of that race. Odds are compared as whole numbers, inverse
odds in millionths of a millionth, so that any order of the runners gives the same bits.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from velo.racing.cards import DRIFT_MINUTES

if TYPE_CHECKING:
    from velo.racing.cards import Declared
    from velo.racing.messages import Market

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

PRICE: Final = "price"
RANK: Final = "rank"
DRIFTS: Final = tuple(f"drift_{minutes}m" for minutes in DRIFT_MINUTES)
VOLUME: Final = "volume"
VOLUME_SHARE: Final = "volume_share"
COLUMNS: Final = (PRICE, RANK, *DRIFTS, VOLUME, VOLUME_SHARE)
"""The decimal odds; their rank in the race, 1 the shortest; the drift over 60, 30, 10 and 5 minutes; the stakes matched so far,
and their share of the race's.

Drift is the logarithm of the runner's probability then ÷ now, each among the runners with odds in both snapshots, without the
margin: above 0 the odds have lengthened."""
NO_SNAPSHOT: Final = "no odds are known"
NOT_PRICED: Final = "the last odds do not name the runner"
NO_EARLIER: Final = "no odds of that source so long before, or none since"
NOT_PRICED_THEN: Final = "the odds then do not name the runner"
NO_VOLUME: Final = "the source says no stakes"
_SCALE: Final = 1_000_000_000_000


def market_columns(odds: Floats, then: Floats, volume: Floats, starts: Indices) -> Floats:
    """The columns of the declared runners of some races, (runners, columns), in the order of `COLUMNS`; NaN for unknown.

    `odds` are the decimal odds in the last snapshot, `then` those in the earlier ones, (runners, `DRIFT_MINUTES`), `volume` the
    stakes; NaN for missing. `starts` has the first runner of each race.
    """
    sizes = np.diff(np.r_[starts, odds.size])
    race = np.repeat(np.arange(starts.size), sizes)
    priced = odds > 1.0
    now = _inverse(odds)
    columns = np.full((odds.size, len(COLUMNS)), np.nan)
    columns[priced, 0] = odds[priced]
    columns[priced, 1] = _ranks(np.where(priced, odds, np.inf), race, starts, sizes)[priced]
    for at in range(len(DRIFTS)):
        before = _inverse(then[:, at])
        both = (now > 0) & (before > 0)
        share_now, share_then = (_shares(np.where(both, inverse, 0), race, starts.size) for inverse in (now, before))
        columns[both, 2 + at] = np.log(share_then[both] / share_now[both])
    known = volume >= 0.0
    columns[known, -2] = volume[known]
    matched = np.zeros(starts.size)
    # sorted, so that any order of the runners sums to the same bits
    order = np.lexsort((volume, race))
    np.add.at(matched, race[order], np.where(known, volume, 0.0)[order])
    some = known & (matched[race] > 0.0)
    columns[some, -1] = volume[some] / matched[race][some]
    return columns


def moves_of(race: "Declared") -> Floats:
    """The columns of the declared runners of one race, in its order, (runners, columns)."""
    horses = [runner.horse_id for runner in race.runners]
    then = np.stack([_prices(market, horses) for market in race.earlier_odds], axis=1)
    volumes = race.odds.volumes if race.odds else None
    return market_columns(_prices(race.odds, horses), then, _numbers(volumes, horses), np.zeros(1, dtype=np.intp))


def unknown_of(race: "Declared", columns: Floats) -> list[dict[str, str]]:
    """Why a column of each runner is unknown, by its name; `columns` are those of `moves_of`."""
    reasons = []
    for runner, row in zip(race.runners, columns.tolist(), strict=True):
        missing = [name for name, value in zip(COLUMNS, row, strict=True) if value != value]
        reasons.append({name: _reason(race, runner.horse_id, name) for name in missing})
    return reasons


def _reason(race: "Declared", horse_id: str, name: str) -> str:
    if race.odds is None:
        return NO_SNAPSHOT
    if name in (VOLUME, VOLUME_SHARE):
        return NO_VOLUME
    if not race.odds.prices.get(horse_id, 0.0) > 1.0:
        return NOT_PRICED
    return NO_EARLIER if race.earlier_odds[DRIFTS.index(name)] is None else NOT_PRICED_THEN


def _prices(market: "Market | None", horses: Sequence[str]) -> Floats:
    return _numbers(market.prices if market else None, horses)


def _numbers(values: Mapping[str, float] | None, horses: Sequence[str]) -> Floats:
    return np.array([(values or {}).get(horse, np.nan) for horse in horses], dtype=np.float64)


def _inverse(odds: Floats) -> NDArray[np.int64]:
    """The inverse odds in billionths of a thousandth, whole; 0 for missing odds."""
    known = np.isfinite(odds) & (odds > 1.0) & (odds < 1e9)
    thousandths = np.floor(1000.0 * np.where(known, odds, 1.0) + 0.5).astype(np.int64)
    return np.where(known, _SCALE // thousandths, 0)


def _shares(inverse: NDArray[np.int64], race: Indices, races: int) -> Floats:
    book = np.zeros(races, dtype=np.int64)
    np.add.at(book, race, inverse)
    return np.asarray(inverse / np.maximum(book, 1)[race], dtype=np.float64)


def _ranks(odds: Floats, race: Indices, starts: Indices, sizes: NDArray[np.intp]) -> Floats:
    """1 plus the number of runners of the race with shorter odds."""
    order = np.lexsort((odds, race))
    ordered, of = odds[order], race[order]
    place = np.arange(odds.size) - np.repeat(starts, sizes)
    new = np.r_[True, (ordered[1:] != ordered[:-1]) | (of[1:] != of[:-1])]
    first = place[np.maximum.accumulate(np.where(new, np.arange(odds.size), 0))]
    ranks = np.empty(odds.size)
    ranks[order] = first + 1.0
    return ranks
