"""The columns of many rows at once: the arithmetic of `shapes.Columns.values`, bit for bit, a column at a time.

Making each row's columns in Python costs as much as all else in the fold, and most rows of a replay are never written
online: so the fold leaves its sums packed, and a sink makes the columns of the rows it keeps. Sums are below 2^63,
where whole numbers turn into doubles by the same rounding in NumPy and in Python.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from feature_repo.catalogue.aggregates import Aggregate, OffsetSum, Ratio, Sum
from feature_repo.catalogue.families import Family
from feature_repo.catalogue.measures import unit
from streams.aggregation.layout import LANE_BITS, Columns, Sums
from streams.aggregation.window_state import PackedRow

LANE_BYTES = LANE_BITS // 8
Matrix = NDArray[np.float64]


class VectorizedColumns:
    """Makes the columns of one family's rows."""

    def __init__(self, family: Family) -> None:
        self.features = len(family.features)
        self._family = family
        self._columns = Columns.of(family)
        # a kind of aggregate that has no form for arrays is asked row by row
        self._at_once = all(type(one) in (Sum, Ratio, OffsetSum) for one in (*family.career, *family.windowed))

    def of(self, rows: Sequence[PackedRow]) -> Matrix:
        """The values of rows as (features, rows) in the order of `Family.features`, NaN for null."""
        if not self._at_once:
            values = [self._columns.values(row[2], row[3], row[4]) for row in rows]
            return np.array(values, dtype=np.float64).reshape(len(rows), self.features).T
        family, shape = self._family, self._columns.shape
        matrix = np.empty((self.features, len(rows)))
        at = 0
        if family.career:
            totals = dict(zip(shape.career, _lanes([row[2] for row in rows], len(shape.career)), strict=True))
            for one in family.career:
                matrix[at] = _values(one, totals)
                at += 1
        if family.recent:
            # None becomes NaN
            matrix[at : at + len(family.recent)] = np.array([row[3] for row in rows], dtype=np.float64).T
            at += len(family.recent)
        if family.windows:
            lanes = _lanes([row[4] for row in rows], len(shape.windowed) * len(family.windows))
            for place in range(len(family.windows)):
                first = place * len(shape.windowed)
                totals = dict(zip(shape.windowed, lanes[first : first + len(shape.windowed)], strict=True))
                for one in family.windowed:
                    matrix[at] = _values(one, totals)
                    at += 1
        return matrix


def _lanes(sums: Sequence[Sums], lanes: int) -> NDArray[np.int64]:
    """Packed sums as (lanes, rows)."""
    size = lanes * LANE_BYTES
    packed = b"".join([one.to_bytes(size, "little") for one in sums])
    return np.ascontiguousarray(np.frombuffer(packed, dtype="<i8").reshape(len(sums), lanes).T)


def _values(one: Aggregate, totals: Mapping[str, NDArray[np.int64]]) -> Matrix:
    if isinstance(one, Sum):
        return totals[one.measure].astype(np.float64)
    if isinstance(one, OffsetSum):
        known, scale = totals[one.known], unit(one.measure)
        balance = (totals[one.measure] - one.even * scale * known).astype(np.float64)
        return np.where(known > 0, balance / float(scale), np.nan)
    numerator, denominator = totals[one.numerator], totals[one.denominator]
    over_unit, under_unit = unit(one.numerator), unit(one.denominator)
    by_numerator, by_denominator = (1, 1) if over_unit == under_unit else (under_unit, over_unit)
    over = ((numerator + one.prior * over_unit) * by_numerator).astype(np.float64)
    under = ((denominator + one.prior * under_unit) * by_denominator).astype(np.float64)
    made = np.full(len(over), np.nan)
    np.divide(over, under, out=made, where=under != 0)
    return made
