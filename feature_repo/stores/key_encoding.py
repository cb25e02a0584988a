"""EncodedKeys as small numbers: the same for an entity row and for the rows of a history that are its key's.

Only the values that entity rows have are numbered. What a history holds besides, and null on either side, is -1.
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
"""So many numbers may a key of several columns have before those that occur are numbered anew."""


@dataclass(frozen=True, slots=True)
class EncodedColumn:
    """A key column of the entity rows: the values that occur, and for each row the number of its value."""

    values: "pa.Array"
    numbers: Whole

    @classmethod
    def of(cls, column: "pa.ChunkedArray") -> "EncodedColumn":
        """Number the values of a column in the order they are met."""
        import pyarrow as pa

        whole = column.cast(plain(column.type)).combine_chunks()
        coded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
        return cls(coded.dictionary, _filled(coded.indices))

    def numbers_of(self, column: "pa.ChunkedArray") -> Whole:
        """For each row of a history the number of its value."""
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
    """The keys of entity rows in one view: the number of each row's, below `size`."""

    columns: Sequence[EncodedColumn]
    numbers: Whole
    size: int
    _renumbered: Sequence[Whole | None]

    @classmethod
    def of(cls, columns: Sequence[EncodedColumn]) -> "EncodedKeys":
        """The keys that the rows of some columns make together."""
        numbers, size, renumbered = np.zeros_like(columns[0].numbers), 1, []
        for column in columns:
            numbers, size = _together(numbers, column.numbers, len(column.values)), size * len(column.values)
            known = None
            if size > DENSE:
                known = np.unique(numbers[numbers != UNKNOWN])
                numbers, size = _among(known, numbers), len(known)
            renumbered.append(known)
        return cls(columns, numbers, size, renumbered)

    def numbers_of(self, columns: "Sequence[pa.ChunkedArray]") -> Whole:
        """For each row of a history the number of its key."""
        numbers = np.zeros(len(columns[0]), np.int64)
        for column, values, known in zip(self.columns, columns, self._renumbered, strict=True):
            numbers = _together(numbers, column.numbers_of(values), len(column.values))
            if known is not None:
                numbers = _among(known, numbers)
        return numbers


def plain(kind: "pa.DataType") -> "pa.DataType":
    """The type that values of this one are compared as: text however it is laid out, integers however wide."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else kind


def _together(numbers: Whole, more: Whole, size: int) -> Whole:
    """The numbers of pairs."""
    if not numbers.any():
        return more
    return np.where((numbers == UNKNOWN) | (more == UNKNOWN), UNKNOWN, numbers * size + more)


def _among(known: Whole, numbers: Whole) -> Whole:
    """The places of numbers among those known, which are in order."""
    if not len(known):
        return np.full_like(numbers, UNKNOWN)
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return np.where(known[place] == numbers, place, UNKNOWN)


def _filled(numbers: "pa.Array | pa.ChunkedArray") -> Whole:
    """Numbers with -1 for null."""
    return np.asarray(numbers.fill_null(UNKNOWN)).astype(np.int64)
