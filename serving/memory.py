"""Memory of a process that answers in milliseconds: kept once it was had, and what lasts is not looked through again."""

import ctypes
import gc
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 256 * 2**20
_AT_ONCE_BYTES: Final = 32 * 2**20


def keep_freed() -> bool:
    """Have the C library keep memory that is freed, instead of giving it back and asking for it again at the next request.

    Every page asked for again is a fault and cleared first: a third of the time of a score. Returns whether it was done,
    which only glibc can; elsewhere nothing changes. `mallopt(3)`.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, _AT_ONCE_BYTES))
    return all(bool(mallopt(option, value)) for option, value in asked)


def freeze() -> None:
    """Leave what was loaded so far out of every later search for garbage: one that walks all of it takes tens of ms."""
    gc.collect()
    gc.freeze()


def thaw() -> None:
    """Look through all of it again: a process that ends frozen leaves what it loaded to be complained of."""
    gc.unfreeze()
