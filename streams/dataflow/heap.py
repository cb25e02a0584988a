"""One heap for all threads of a stream.

glibc gives threads heaps of their own, and Arrow has another: each grows by its own peak, and none gives back what
others could use. The engine, the sealer and the courier take turns anyway. `velo bench stream --year 2500` held some
45 MB less from the first month on, and replays took as long.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ARENA_MAX: Final = -8


@contextmanager
def one_heap() -> Iterator[None]:
    """Have Arrow allocate where all else does, and threads begun from now on share one heap, where that is glibc's.

    What threads share stays so: `mallopt(3)` has no way back.
    """
    import pyarrow as pa

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
