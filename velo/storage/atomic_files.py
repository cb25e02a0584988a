"""Small files written so that a reader, or a crash, finds the old content or the new, never a part."""

import ctypes
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.storage import locks

OTHERS = 0o077
"""The permission bits of everyone but the owner."""
_log = logging.getLogger(__name__)
_AT_CWD: Final = -100
_SWAP: Final = 2


def write_atomically(
    path: Path, content: bytes | Iterable[bytes], mode: int = 0o600, within: Path | None = None
) -> None:
    """Replace a file's content, given whole or in pieces: write a temporary file, sync it, rename it, and sync the folder.

    The temporary file is in the folder `within`, or beside the file.
    """
    aside = (within or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.writelines([content] if isinstance(content, bytes) else content)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, remedy: str = "set VELO_HOME to a place you may write to") -> Path:
    """The folder, created with its parents where missing; raises `UserError` with the remedy where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise UserError(f"cannot make the folder {folder} ({refused.strerror}): {remedy}") from refused
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to {folder}: {remedy}")
    return folder


def make_private(root: Path, names: Iterable[str]) -> None:
    """Remove the permissions of group and others from a folder, and from everything below the named entries in it.

    The folder itself comes last, so a call that was killed is completed by the next one; a folder that is private already
    costs one `stat`. Where the system refuses, a warning is logged.
    """
    try:
        if not root.stat().st_mode & OTHERS:
            return
        for name in names:
            if (root / name).is_dir() and not (root / name).is_symlink():
                for folder, folders, files in os.walk(root / name):
                    for name_below in (*folders, *files):
                        _make_private(Path(folder, name_below))
            _make_private(root / name)
        _make_private(root)
    except OSError as refused:
        _log.warning("files.readable_by_others folder=%s reason=%s", root, refused.strerror)


def _make_private(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & OTHERS:
            path.chmod(stat.S_IMODE(mode) & ~OTHERS)
    except FileNotFoundError:
        return


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Wait for the lock on a folder and hold it; temporary files (`.….tmp`) of killed writers are removed first."""
    make_folder(folder)
    with locks.holding(folder / ".lock", wait=True):
        for leftover in list(folder.rglob(".*.tmp")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                # may be gone with its folder
                leftover.unlink(missing_ok=True)
        yield


def exchange(path: Path, other: Path) -> bool:
    """Swap two paths in one step; returns whether the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            done = libc.renamex_np(os.fsencode(path), os.fsencode(other), _SWAP)
        else:
            done = libc.renameat2(_AT_CWD, os.fsencode(path), _AT_CWD, os.fsencode(other), _SWAP)
    except AttributeError:
        return False
    return bool(done == 0)
