"""The columns of many rows at once: the arithmetic of `layout.Columns.values`, bit for bit, a column at a time.

Making each row's columns in Python costs as much as all else in the aggregation, and most rows of a replay are never written
online. So the aggregation leaves its sums packed, and a sink makes the columns of the rows it writes. Sums are below 2^63,
where NumPy and Python round whole numbers to doubles alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue.families import Family
from velo.streams.aggregation.layout import LANE_BITS, DeltaLayout, Sums
from velo.streams.aggregation.window_state import PackedRow

LANE_BYTES = LANE_BITS // 8
Matrix = NDArray[np.float64]


class VectorizedColumns:
    """Makes the columns of one family's rows."""

    def __init__(self, family: Family) -> None:
        self.features = len(family.features)
        self._family = family
        self._layout = DeltaLayout.of(family)

    def of(self, rows: Sequence[PackedRow]) -> Matrix:
        """The values of rows as (features, rows) in the order of `Family.features`, NaN for null."""
        family, layout = self._family, self._layout
        matrix = np.empty((self.features, len(rows)))
        at = 0
        if family.career:
            totals = dict(zip(layout.career, _lanes([row[2] for row in rows], len(layout.career)), strict=True))
            for aggregate in family.career:
                matrix[at] = aggregate.arrays(totals)
                at += 1
        if family.recent:
            # float64 turns None into NaN
            matrix[at : at + len(family.recent)] = np.array([row[3] for row in rows], dtype=np.float64).T
            at += len(family.recent)
        if family.windows:
            lanes = _lanes([row[4] for row in rows], len(layout.windowed) * len(family.windows))
            for place in range(len(family.windows)):
                first = place * len(layout.windowed)
                totals = dict(zip(layout.windowed, lanes[first : first + len(layout.windowed)], strict=True))
                for aggregate in family.windowed:
                    matrix[at] = aggregate.arrays(totals)
                    at += 1
        return matrix


def _lanes(sums: Sequence[Sums], lanes: int) -> NDArray[np.int64]:
    """Packed sums as (lanes, rows)."""
    size = lanes * LANE_BYTES
    packed = b"".join([of_row.to_bytes(size, "little") for of_row in sums])
    return np.ascontiguousarray(np.frombuffer(packed, dtype="<i8").reshape(len(sums), lanes).T)
