"""Take values of an Arrow column by position, with null for a missing position.

Arrow's own `take` tests two validity bits per value. This takes the values as if none were null and builds the validity
bits apart, if there are any nulls: two to three times as fast.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.stores.key_encoding import Whole

if TYPE_CHECKING:
    import pyarrow as pa


class TakeIndices:
    """Positions to take, one per output row. A row whose `present` is false is null, whatever its position."""

    def __init__(self, positions: Whole, present: NDArray[np.bool_] | None = None) -> None:
        import pyarrow as pa

        self._positions = positions
        self._index = pa.array(positions)
        self._present = None if present is None or present.all() else present
        self._bits = None if self._present is None else _packed(self._present)

    def of(self, column: "pa.ChunkedArray") -> "pa.Array":
        """Return the column's values at these positions."""
        import pyarrow as pa
        import pyarrow.compute as pc

        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray) or not _is_plain(whole) or not len(whole):
            return column.take(self._index if self._present is None else pa.array(self._positions, mask=~self._present))
        validity, values = whole.buffers()
        # the system's allocator: at a million rows Arrow's own took as long as the rest of the join
        bare = pc.take(
            pa.Array.from_buffers(whole.type, len(whole), [None, values]),
            self._index,
            memory_pool=pa.system_memory_pool(),
        )
        bits = self._bits
        if whole.null_count:
            held = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(whole), bitorder="little")
            valid = held.take(self._positions)
            bits = _packed(valid if self._present is None else valid & self._present)
        return pa.Array.from_buffers(whole.type, len(bare), [bits, bare.buffers()[1]])


def _is_plain(values: "pa.Array") -> bool:
    """Whether values are fixed-width whole bytes that start at the beginning of the buffer."""
    import pyarrow as pa

    kind = values.type
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    return bool(numbers and kind.bit_width >= 8 and values.offset == 0)


def _packed(bits: NDArray[np.bool_] | NDArray[np.uint8]) -> "pa.Buffer":
    import pyarrow as pa

    return pa.py_buffer(np.packbits(bits, bitorder="little"))
