"""Where DuckDB spills: a folder of one process in the system's temporary folder, bounded, and none outlives its owner."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from velo.storage import locks

PREFIX: Final = "velo-spill-"
MOST_BYTES: Final = 20 * 10**9
SHARE_OF_FREE: Final = 0.5


@contextmanager
def spill_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder to spill to, locked while it is used and then removed; what killed processes left beside it goes first.

    `parent` is the system's temporary folder if not given.
    """
    place = parent or Path(tempfile.gettempdir())
    _sweep(place)
    folder, lock = _locked(place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def bound(folder: Path) -> str:
    """What DuckDB may spill there: half of what is free, and never more than 20 GB."""
    return f"{int(min(MOST_BYTES, SHARE_OF_FREE * shutil.disk_usage(folder).free)) // 10**6}MB"


def _locked(place: Path) -> tuple[Path, int]:
    """A new folder and the lock on it; another's sweep may take one before it is locked: then the next."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        try:
            return folder, locks.acquire(folder, wait=True, flags=os.O_RDONLY)
        except FileNotFoundError:
            continue


def _sweep(place: Path) -> None:
    """Remove the folders that nobody holds: a lock ends with its process, however that ended."""
    for left in place.glob(f"{PREFIX}*"):
        try:
            # the folder is locked itself: a lock file in it would be removed with it, under whoever just opened it
            lock = locks.acquire(left, flags=os.O_RDONLY | os.O_NOFOLLOW)
        except (locks.LockHeld, OSError):  # in use, removed meanwhile, or another user's
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(lock)
