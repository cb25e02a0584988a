"""Values of a column by their places, null where there is none.

Arrow's own `take` looks at two bits for every value it moves. Here the values are moved as if none were null, and the bits
are made beside them, where there are any: two to three times as fast.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from feature_repo.stores.key_encoding import Whole

if TYPE_CHECKING:
    import pyarrow as pa


class TakeIndices:
    """A place of a column for each row of an answer; any place will do where `there` is false, it gives null."""

    def __init__(self, places: Whole, there: NDArray[np.bool_] | None = None) -> None:
        import pyarrow as pa

        self._places = places
        self._index = pa.array(places)
        self._there = None if there is None or there.all() else there
        self._bits = None if self._there is None else _packed(self._there)

    def of(self, column: "pa.ChunkedArray") -> "pa.Array":
        """The column's values at these places."""
        import pyarrow as pa
        import pyarrow.compute as pc

        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray) or not _is_plain(whole) or not len(whole):
            return column.take(self._index if self._there is None else pa.array(self._places, mask=~self._there))
        validity, values = whole.buffers()
        # the system's allocator: at a million rows Arrow's own took as long as all else in the join
        bare = pc.take(
            pa.Array.from_buffers(whole.type, len(whole), [None, values]),
            self._index,
            memory_pool=pa.system_memory_pool(),
        )
        bits = self._bits
        if whole.null_count:
            held = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(whole), bitorder="little")
            valid = held.take(self._places)
            bits = _packed(valid if self._there is None else valid & self._there)
        return pa.Array.from_buffers(whole.type, len(bare), [bits, bare.buffers()[1]])


def _is_plain(values: "pa.Array") -> bool:
    """Whether values lie in whole bytes, one after another from the buffer's start."""
    import pyarrow as pa

    kind = values.type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    return bool(numbers and kind.bit_width >= 8 and values.offset == 0)


def _packed(bits: NDArray[np.bool_] | NDArray[np.uint8]) -> "pa.Buffer":
    import pyarrow as pa

    return pa.py_buffer(np.packbits(bits, bitorder="little"))
