"""`velo sentinel`: each column of a training set, tried for what it could not know before its race.

Three signs give a leak away. A column that alone orders winner and losers better than the starting price knows the result: its
values or their absence come from after the race. And a column that is there for horses that still race at the end of the
data, and absent for others of the same experience in the same months, was collected later: its absence says who retires. And a
column whose values differ from those served for the same race is not what the service knows before a race.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from velo.errors import UserError
from velo.feature_repo.catalogue.columns import COLUMNS
from velo.feature_repo.point_in_time import numbers
from velo.resampling import Days, Figure
from velo.training.dataset.by_race import spread, total
from velo.training.dataset.races import Races, races_of
from velo.training.dataset.training_set import FEATURE, TrainingSet

Floats = NDArray[np.float64]
_PLACE: Final = {name: at for at, name in enumerate(COLUMNS)}

RESULT: Final = "knows the result"
SURVIVORS: Final = "is there for survivors"
UNLIKE_SERVED: Final = "differs from what was served"
RUNNERS: Final = "(runners)"
"""Named as a column where a race was served with other runners."""
QUIET: Final = timedelta(days=180)
"""A horse without a start in the last days of the data has retired."""
EDGE: Final = 0.02
"""How much better than the starting price a column must order winner and losers to be named."""
CERTAIN: Final = 0.9
"""The order from which a column is named where there are no prices to compare it with."""
GAP: Final = 0.2
"""The difference between the shares of survivors, with and without a value, from which a column is named."""
EXPERIENCE: Final = 10
"""Horses with this many earlier starts or more count as equally experienced."""
LEAST_WEIGHT: Final = 25.0
"""The least comparable rows, as pairs of a known and an unknown value, for an answer about survivors."""


@dataclass(frozen=True, slots=True)
class ServedValues:
    """A served race: what serving computes as of its decision time, (runners, `COLUMNS`), and its horses in that order.

    `differing` names the columns in which the score that was served had other values than the tables as of its instant.
    """

    horses: tuple[str, ...]
    values: Floats
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ColumnTried:
    """One column. `order` is how often it puts the winner before a loser, read in its better direction; 0.5 is chance.

    `edge` is that less the starting price's, over the races that have both. `gap` is the share of horses that still race at
    the end of the data where the column has a value, less the share where it is null. A figure without a value could not be
    computed. `leak` says what the column knows, None if nothing was found. `unlike` are races in which it differs from what was
    served, of `served` races compared.
    """

    column: str
    order: Figure
    edge: Figure
    gap: Figure
    leak: str | None
    unlike: tuple[str, ...] = ()
    served: int = 0


def tried(
    rows: TrainingSet,
    extra: Mapping[str, Floats] | None = None,
    *,
    served: Mapping[str, ServedValues] | None = None,
    quiet: timedelta = QUIET,
    seed: int = 1,
) -> list[ColumnTried]:
    """Try every column of a training set, and `extra` ones of the same rows (NaN is null); those that leak come first.

    `served` has the served races that the set has too, by race id. Raises `UserError` where the set has no race with a winner.
    """
    races = races_of(rows)
    if not races.count:
        raise UserError("the training set has no race with a declared winner: load results and run `velo build` first")
    every = {name: rows.features[:, place] for place, name in enumerate(COLUMNS)} | dict(extra or {})
    trial = _Trial(races, Days.of_dates(races.days, seed), _Survival.of(rows, races, quiet))
    found = [trial.column(name, values[races.rows]) for name, values in every.items()]
    if served:
        unlike = unlike_served(rows, served, extra or {})
        found = [_beside_served(column, unlike.pop(column.column, ()), len(served)) for column in found]
        unknown = Figure(None, None, None, 0)
        found += [
            ColumnTried(name, unknown, unknown, unknown, UNLIKE_SERVED, tuple(ids), len(served))
            for name, ids in unlike.items()
        ]
    return sorted(found, key=lambda column: column.leak is None)


def _beside_served(column: ColumnTried, unlike: Sequence[str], served: int) -> ColumnTried:
    leak = column.leak or (UNLIKE_SERVED if unlike else None)
    return replace(column, leak=leak, unlike=tuple(unlike), served=served)


def unlike_served(
    rows: TrainingSet, served: Mapping[str, ServedValues], extra: Mapping[str, Floats]
) -> dict[str, list[str]]:
    """The races in which a column of a training set is not what was served, by column; equal means every bit, or both null.

    An `extra` column is compared where it has the name of a column of the catalogue, with or without `feature__`.
    """
    race_ids = rows.identity.column("race_id").to_numpy(zero_copy_only=False)
    horses = rows.identity.column("horse_id").to_pylist()
    tables = [(COLUMNS, rows.features)]
    for name, values in extra.items():
        if name.removeprefix(FEATURE) in COLUMNS:
            tables.append(((name,), values[:, None]))
    found: dict[str, list[str]] = {}
    order = np.argsort(race_ids, kind="stable")
    begins = np.searchsorted(race_ids[order], [*served])
    ends = np.searchsorted(race_ids[order], [*served], side="right")
    for (race_id, of_race), begin, end in zip(served.items(), begins, ends, strict=True):
        place = {horses[at]: at for at in order[begin:end].tolist()}
        names = set(of_race.differing)
        if set(place) != set(of_race.horses):
            names.add(RUNNERS)
        else:
            at = [place[horse] for horse in of_race.horses]
            for columns, values in tables:
                wanted = [_PLACE[name.removeprefix(FEATURE)] for name in columns]
                equal = (values[at] == of_race.values[:, wanted]) | (
                    np.isnan(values[at]) & np.isnan(of_race.values[:, wanted])
                )
                names |= {columns[column] for column in np.flatnonzero(~equal.all(axis=0)).tolist()}
        for name in names:
            found.setdefault(name, []).append(race_id)
    return found


def read_columns(path: Path) -> pa.Table:
    """A user's Parquet file. Raises `UserError` where it cannot be read."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as broken:
        raise UserError(f"{path} cannot be read ({' '.join(str(broken).split())}): give a Parquet file") from None


def columns_of(table: pa.Table, rows: TrainingSet) -> dict[str, Floats]:
    """The columns of a user's table, by the rows of a training set: joined on `race_id` and `horse_id`; NaN where it has none.

    Raises `UserError` for a table without these keys, with a row twice, or with a column that is not a number.
    """
    keys = ["race_id", "horse_id"]
    if missing := [name for name in keys if name not in table.column_names]:
        raise UserError(
            f"the table has no {' and no '.join(missing)}: give one row a runner, with race_id and horse_id"
        )
    named = [name for name in table.column_names if name not in keys]
    place = {pair: at for at, pair in enumerate(zip(*(table.column(key).to_pylist() for key in keys), strict=True))}
    if len(place) < table.num_rows:
        raise UserError("the table has two rows of one race_id and horse_id: give one row a runner")
    asked = zip(*(rows.identity.column(key).to_pylist() for key in keys), strict=True)
    at = np.array([place.get(pair, -1) for pair in asked], dtype=np.intp)
    found = {}
    for name in named:
        try:
            values = numbers(table.column(name))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UserError(f"column {name} is no number: leave it out, or number its values") from None
        found[name] = np.where(at >= 0, np.append(values, np.nan)[at], np.nan)
    return found


@dataclass(frozen=True, slots=True)
class _Trial:
    """The races that every column is tried on."""

    races: Races
    days: Days
    survival: "_Survival"

    def column(self, name: str, values: Floats) -> ColumnTried:
        """Try the values of a column over the starters, and then where it has any."""
        order, edge = self._order(values)
        known = (~np.isnan(values)).astype(np.float64)
        if not _knows(order, edge) and 0 < known.mean() < 1:
            of_presence = self._order(known)
            if _knows(*of_presence):
                order, edge = of_presence
        gap = self.survival.gap(known > 0)
        beyond = gap.low is not None and gap.high is not None and (gap.low > GAP or gap.high < -GAP)
        leak = RESULT if _knows(order, edge) else SURVIVORS if beyond else None
        return ColumnTried(name, order, edge, gap, leak)

    def _order(self, values: Floats) -> tuple[Figure, Figure]:
        """How often a column puts the winner before a loser, and how much more often than the starting price does."""
        own, market = _concordance(self.races, values), _concordance(self.races, self.races.pi)
        has_own = ~np.isnan(own)
        if not has_own.any():
            return Figure(None, None, None, 0), Figure(None, None, None, 0)
        if own[has_own].mean() < 0.5:
            own = 1.0 - own
        both = has_own & ~np.isnan(market)
        return self.days.where(has_own).mean(own[has_own]), self.days.where(both).mean((own - market)[both])


def _knows(order: Figure, edge: Figure) -> bool:
    if edge.low is not None and edge.value is not None:
        return edge.low > 0 and edge.value > EDGE
    return order.low is not None and order.low > CERTAIN


def _concordance(races: Races, values: Floats) -> Floats:
    """The share of losers that the winner's value is above, (races,), ties counted half; NaN for a race that cannot say."""
    winner = spread(np.maximum.reduceat(races.share, races.starts), races.starts, races.rows.size)
    won = (races.share > 0) & (races.share == winner)
    single = total(won.astype(np.float64), races.starts) == 1
    value = spread(total(np.where(won, values, 0.0), races.starts), races.starts, values.size)
    pairs = (~won & ~np.isnan(values) & ~np.isnan(value)).astype(np.float64)
    above = np.where(pairs > 0, (value > values) + 0.5 * (value == values), 0.0)
    count = total(pairs, races.starts)
    with np.errstate(invalid="ignore"):
        share = total(above, races.starts) / count
    return np.where(single & (count > 0), share, np.nan)


@dataclass(frozen=True, slots=True)
class _Survival:
    """The starters of races long enough before the end of the data: `early` marks them, (starters,).

    For each of those: whether its horse still races at the end, its horse, and its stratum of quarter and experience.
    """

    early: NDArray[np.bool_]
    survives: NDArray[np.bool_]
    horse: NDArray[np.intp]
    stratum: NDArray[np.intp]

    @classmethod
    def of(cls, rows: TrainingSet, races: Races, quiet: timedelta) -> "_Survival":
        """Those of a training set; a horse's experience is its number of earlier starts in it."""
        coded = rows.identity.column("horse_id").combine_chunks().dictionary_encode().indices
        horse = coded.to_numpy(zero_copy_only=False)[races.rows].astype(np.intp)
        day = np.repeat(races.days, races.sizes)
        by_horse = np.lexsort((day, horse))
        first = np.flatnonzero(np.r_[True, np.diff(horse[by_horse]) != 0])
        experience = np.empty(horse.size, dtype=np.intp)
        experience[by_horse] = np.arange(horse.size) - np.repeat(first, np.diff(np.r_[first, horse.size]))
        last = np.full(horse.max() + 1, day.min())
        np.maximum.at(last, horse, day)
        since = day.max() - np.timedelta64(quiet)
        quarter = day.astype("datetime64[M]").astype(np.intp) // 3
        _, stratum = np.unique(quarter * (EXPERIENCE + 1) + np.minimum(experience, EXPERIENCE), return_inverse=True)
        early = day <= since
        return cls(early, last[horse[early]] > since, horse[early], stratum[early])

    def gap(self, known: NDArray[np.bool_]) -> Figure:
        """The share of survivors among rows with a value less that among rows without, within strata.

        The interval takes the rows of one horse as one draw.
        """
        k, y, s = known[self.early], self.survives, self.stratum
        if not k.size:
            return Figure(None, None, None, 0)
        count = s.max() + 1
        with_value, without = np.bincount(s, k, count), np.bincount(s, ~k, count)
        weight = with_value * without / np.maximum(with_value + without, 1)
        if weight.sum() < LEAST_WEIGHT:
            return Figure(None, None, None, k.size)
        share_with = np.bincount(s, k & y, count) / np.maximum(with_value, 1)
        share_without = np.bincount(s, ~k & y, count) / np.maximum(without, 1)
        value = float(weight @ (share_with - share_without) / weight.sum())
        off = np.where(
            k, (y - share_with[s]) / np.maximum(with_value, 1)[s], (share_without[s] - y) / np.maximum(without, 1)[s]
        )
        by_horse = np.bincount(self.horse, weight[s] * off / weight.sum())
        margin = 1.96 * float(np.sqrt(np.square(by_horse).sum()))
        return Figure(value, value - margin, value + margin, k.size)
