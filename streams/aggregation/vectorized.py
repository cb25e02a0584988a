"""Rows of a family as arrays, and the columns of many rows at once: the arithmetic of `layout.Columns.values`, bit for bit.

Most rows of a replay are never written online. So the aggregation leaves its sums as they are, and a sink makes the columns of
the rows it writes. Sums are below 2^63, where NumPy and Python round whole numbers to doubles alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.feature_repo.catalogue.recent_aggregates import KnownNumbers, Recent
from velo.streams.aggregation.delta_batch import NULL, Integers
from velo.streams.aggregation.key_codes import Codes, KeyCodes, KeyColumns
from velo.streams.aggregation.layout import REMEMBERED_FROM, Columns

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one family in order of time, before their columns are made.

    Of each row: the number of the `message` that made it; the code of its key in `slots`, which `keys` names; `event_us`, its
    event_timestamp, and `until_us`, its valid_until or `NULL`, in µs; the sums of `career` (rows, lanes); of recent features
    `newest` and `last` as `HistoryArrays` has them; and the sums `within` its windows (rows, windows, lanes).
    """

    keys: KeyCodes
    key_columns: KeyColumns
    message: Integers
    slots: Codes
    event_us: Integers
    until_us: Integers
    career: Integers
    newest: Integers
    last: Integers
    within: Integers

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.slots)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """The rows of all parts, of one family, one after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            parts[0].keys,
            parts[0].key_columns,
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS),
        )

    def take(self, places: NDArray[np.intp] | NDArray[np.bool_]) -> "Rows":
        """Some of the rows, by their places or by whether each is taken."""
        return Rows(self.keys, self.key_columns, *(getattr(self, name)[places] for name in _ARRAYS))

    def newest_of_each_key(self) -> "Rows":
        """The last row of each key, in order of time."""
        _, from_end = np.unique(self.slots[::-1], return_index=True)
        return self if len(from_end) == len(self) else self.take(np.sort(len(self) - 1 - from_end))

    def texts(self) -> list[tuple[str, ...]]:
        """The key of each row."""
        return self.keys.texts(self.key_columns, self.slots)

    def valid_until(self) -> Matrix:
        """`until_us` as doubles, NaN for null: exact until the year 2255."""
        return np.where(self.until_us == NULL, np.nan, self.until_us)


_ARRAYS = tuple(each.name for each in fields(Rows))[2:]


class VectorizedColumns:
    """Makes the columns of one family's rows."""

    def __init__(self, family: Family) -> None:
        self.features = len(family.features)
        self._family, self._layout = family, Columns.of(family).layout
        self._whole = [family.known_measures[name].whole for name in self._layout.remembered]
        looked_back_on = Columns.of(family).looked_back_on
        self._looked_back_on = {
            self._layout.remembered[place - REMEMBERED_FROM]: number for number, place in enumerate(looked_back_on)
        }

    def of(self, rows: Rows) -> Matrix:
        """The values of rows as (features, rows) in the order of `Family.features`, NaN for null."""
        family, layout = self._family, self._layout
        matrix = np.empty((self.features, len(rows)))
        at = 0
        if family.career:
            totals = dict(zip(layout.career, np.ascontiguousarray(rows.career.T), strict=True))
            for aggregate in family.career:
                matrix[at] = aggregate.arrays(totals)
                at += 1
        newest: dict[str, list[KnownNumbers]] = {}
        for recent in family.recent:
            if recent.depth and recent.measure not in newest:
                lanes = np.ascontiguousarray(rows.newest[:, self._looked_back_on[recent.measure]].T)
                newest[recent.measure] = [(lane, lane != NULL) for lane in lanes]
            matrix[at] = recent.arrays(newest.get(recent.measure, ()), self._last(rows, recent))
            at += 1
        for window in range(len(family.windows) if family.windowed else 0):
            totals = dict(zip(layout.windowed, np.ascontiguousarray(rows.within[:, window].T), strict=True))
            for aggregate in family.windowed:
                matrix[at] = aggregate.arrays(totals)
                at += 1
        return matrix

    def _last(self, rows: Rows, recent: Recent) -> KnownNumbers:
        place = self._layout.remembered.index(recent.measure)
        numbers = rows.last[:, place]
        if self._whole[place]:
            return numbers, numbers != NULL
        reals = np.ascontiguousarray(numbers).view(np.float64)
        return reals, ~np.isnan(reals)  # type: ignore[return-value]
