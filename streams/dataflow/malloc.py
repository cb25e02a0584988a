"""One heap for all threads of a stream.

glibc gives threads heaps of their own: each grows by its own peak, and none gives back what others could use. The
engine, the checkpoint writer and the flusher take turns anyway.
"""

import ctypes
import sys
from typing import Final

_ARENA_MAX: Final = -8


def single_arena() -> bool:
    """Have threads begun from now on share the heap of the first; there is no way back.

    Returns whether it was done, which only glibc can; elsewhere nothing changes. `mallopt(3)`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))
