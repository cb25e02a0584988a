"""Exclusive file locks between processes (flock). The system releases a lock when its last descriptor is closed.

A lock therefore never outlives the processes that hold it, however they end, and a process that inherits the descriptor
holds the lock too. The lock file itself stays: only its inode matters, and its text, which may name the holder's pid.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

OPEN_OR_CREATE: Final = os.O_RDWR | os.O_CREAT
_PID_BYTES: Final = 32


class LockHeld(Exception):
    """Another process holds the lock. `holder` is its pid as text, where it recorded one, else None."""

    def __init__(self, path: Path, holder: str | None) -> None:
        super().__init__(f"{path} is locked by {f'process {holder}' if holder else 'another process'}")
        self.holder = holder


def acquire(path: Path, *, wait: bool = False, flags: int = OPEN_OR_CREATE) -> int:
    """Lock a file and return the descriptor that holds the lock until it is closed.

    Raises `LockHeld` where another process has the lock, unless `wait`. `flags` are those of `os.open`: a folder is locked
    with `os.O_RDONLY`.
    """
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise LockHeld(path, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
        # the path was removed or replaced between open and flock: this lock excludes nobody
        os.close(descriptor)


@contextmanager
def holding(path: Path, *, wait: bool = False) -> Iterator[int]:
    """Hold the lock of a file, created where missing; yields the descriptor. Raises `LockHeld` as `acquire` does."""
    descriptor = acquire(path, wait=wait)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; False where there is no such file."""
    try:
        descriptor = acquire(path, flags=os.O_RDWR)
    except FileNotFoundError:
        return False
    except LockHeld:
        return True
    os.close(descriptor)
    return False


def record_holder(descriptor: int) -> None:
    """Write this process's pid to a locked file, for the `holder` of the `LockHeld` that others get."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str | None:
    try:
        return os.pread(descriptor, _PID_BYTES, 0).decode(errors="replace").strip() or None
    except IsADirectoryError:
        return None
