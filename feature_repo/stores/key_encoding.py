"""Encode keys as small integers, so that an entity row and the history rows of its key have the same number.

Only values that occur in the entity rows get a number. Other values of a history, and nulls on either side, are -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Whole = NDArray[np.int64]
UNKNOWN: Final = -1
DENSE: Final = 1 << 22
"""The most numbers a key of several columns may span before those that occur are renumbered from 0."""


@dataclass(frozen=True, slots=True)
class EncodedColumn:
    """A key column of the entity rows: its distinct values, and the number of each row's value."""

    values: "pa.Array"
    numbers: Whole

    @classmethod
    def of(cls, column: "pa.ChunkedArray") -> "EncodedColumn":
        """Number the values of a column in order of first occurrence."""
        import pyarrow as pa

        whole = column.cast(plain(column.type)).combine_chunks()
        coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
        return cls(coded.dictionary, _filled(coded.indices))

    def numbers_of(self, column: "pa.ChunkedArray") -> Whole:
        """Return the number of the value of each history row, or -1."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pa.types.is_dictionary(column.type):
            return _filled(pc.index_in(column.cast(self.values.type), value_set=self.values))
        column = column.unify_dictionaries()
        if column.num_chunks == 0:
            return np.empty(0, np.int64)
        dictionary = column.chunk(0).dictionary.cast(self.values.type)
        known = np.append(_filled(pc.index_in(dictionary, value_set=self.values)), UNKNOWN)
        return np.asarray(known[np.concatenate([_filled(chunk.indices) for chunk in column.chunks])])


@dataclass(frozen=True, slots=True)
class EncodedKeys:
    """The keys of the entity rows in one view: the number of each row's key, below `size`, or -1."""

    columns: Sequence[EncodedColumn]
    numbers: Whole
    size: int
    _renumbered: Sequence[Whole | None]

    @classmethod
    def of(cls, columns: Sequence[EncodedColumn]) -> "EncodedKeys":
        """Combine key columns into one number per row."""
        numbers, size, renumbered = np.zeros_like(columns[0].numbers), 1, []
        for column in columns:
            numbers, size = _paired(numbers, column.numbers, len(column.values)), size * len(column.values)
            known = None
            if size > DENSE:
                known = np.unique(numbers[numbers != UNKNOWN])
                numbers, size = _renumber(known, numbers), len(known)
            renumbered.append(known)
        return cls(columns, numbers, size, renumbered)

    def numbers_of(self, columns: "Sequence[pa.ChunkedArray]") -> Whole:
        """Return the number of the key of each history row, or -1."""
        numbers = np.zeros(len(columns[0]), np.int64)
        for column, values, known in zip(self.columns, columns, self._renumbered, strict=True):
            numbers = _paired(numbers, column.numbers_of(values), len(column.values))
            if known is not None:
                numbers = _renumber(known, numbers)
        return numbers


def plain(kind: "pa.DataType") -> "pa.DataType":
    """Return the type in which values are compared: one for all layouts of text, one for all widths of integer."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else kind


def _paired(numbers: Whole, more: Whole, size: int) -> Whole:
    """Combine two numbers per row into one; `more` is below `size`."""
    if not numbers.any():
        return more
    return np.where((numbers == UNKNOWN) | (more == UNKNOWN), UNKNOWN, numbers * size + more)


def _renumber(known: Whole, numbers: Whole) -> Whole:
    """Return the position of each number among `known`, which ascend, or -1."""
    if not len(known):
        return np.full_like(numbers, UNKNOWN)
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return np.where(known[place] == numbers, place, UNKNOWN)


def _filled(numbers: "pa.Array | pa.ChunkedArray") -> Whole:
    """Return integers with -1 for null."""
    return np.asarray(numbers.fill_null(UNKNOWN)).astype(np.int64)
