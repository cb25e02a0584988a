"""A backup of what cannot be made again: the log first, then the models, the bets and the scores."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.storage.atomic_files import make_folder, sync_folder
from velo.storage.store import STORE_ID, Home

IN_ORDER: Final = (
    "store.json",
    "log",
    "dead-letters.ndjson",
    "feeds",
    "models",
    "paper",
    "scores",
    "mappings",
    "velo.toml",
    "demo.txt",
)
"""What is copied, relative to the home. `store.json` and the log come first: the others refer to them."""
_SUFFIX: Final = ".copying"
_PASSING: Final = (".lock", ".tmp")
"""Files of running processes, which no restored store needs."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """The files of a backup: how many there are, how many were copied now, and the bytes copied."""

    folder: str
    files: int
    copied: int
    bytes: int


def backup(home: Home, folder: Path) -> BackupReport:
    """Copy a store to `folder`; a file whose size and time are unchanged since the last backup is not copied again.

    No process needs to stop: the copy of a growing log ends at some record, and the next writer removes a torn last line.
    A copy cut short and repeated ends in the same files, and files that left the store stay in the backup. Raises
    `UserError` where there is no store, where `folder` lies inside it or holds another store, and where the disk is full.
    """
    if not home.log.is_dir():
        raise UserError(f"there is no store at {home.root}: set VELO_HOME to the folder of the store")
    if folder.resolve().is_relative_to(home.root.resolve()):
        raise UserError(f"{folder} lies inside the store: back up to a folder outside it, best on another disk")
    theirs, ours = folder / "log" / STORE_ID, home.log / STORE_ID
    if theirs.exists() and ours.exists() and theirs.read_bytes() != ours.read_bytes():
        raise UserError(f"{folder} has the backup of another store: give each store a folder of its own")
    files = copied = size = 0
    try:
        for path in _files(home):
            target = folder / path.relative_to(home.root)
            files += 1
            if _is_same(path, target):
                continue
            make_folder(target.parent, "give a folder you may write to")
            size += _copy(path, target)
            copied += 1
    except OSError as failed:
        raise UserError(f"cannot write the backup at {folder} ({failed.strerror}): make room, then repeat it") from None
    return BackupReport(str(folder), files, copied, size)


def _files(home: Home) -> Iterator[Path]:
    for name in IN_ORDER:
        path = home.root / name
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.endswith(_PASSING))
        elif path.exists():
            yield path


def _is_same(path: Path, target: Path) -> bool:
    try:
        here, there = path.stat(), target.stat()
    except FileNotFoundError:
        return False
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _copy(path: Path, target: Path) -> int:
    """Copy a file under another name, sync it and put it in place; 0 bytes where it went meanwhile."""
    aside = target.with_name(target.name + _SUFFIX)
    try:
        with path.open("rb") as source, aside.open("wb") as sink:
            before = os.fstat(source.fileno())
            shutil.copyfileobj(source, sink, 2**20)
            sink.flush()
            os.fsync(sink.fileno())
            size = sink.tell()
    except FileNotFoundError:
        return 0
    # the time from before the copy: a file that grew meanwhile is copied again next time
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    aside.chmod(0o600)
    aside.replace(target)
    sync_folder(target.parent)
    return size
