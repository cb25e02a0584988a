"""One heap for all threads of a stream.

glibc gives each thread a heap of its own: each grows to its own peak, and keeps memory that others could use. The engine, the
checkpoint writer and the flusher take turns anyway.
"""

import ctypes
import sys
from typing import Final

_ARENA_MAX: Final = -8


def single_arena() -> bool:
    """Make threads that start from now on share the first one's heap; this cannot be undone.

    Returns whether it was done: only glibc can (`mallopt(3)`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    return mallopt is not None and bool(mallopt(_ARENA_MAX, 1))
