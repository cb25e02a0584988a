"""Append lines to the segments of a log: one process at a time, whole records only, a new segment when one is full."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.racing.messages import SCHEMA_VERSION
from velo.storage import locks
from velo.storage.atomic_files import make_folder, sync_folder, write_atomically
from velo.storage.log.format import Segment, complete_length, reaching, record_at, segments_in

_BLOCK_BYTES: Final = 2**22
_log = logging.getLogger(__name__)


class LogInUse(UserError):
    """Another process writes to the log, maybe only for a moment."""


@dataclass(slots=True)
class SegmentWriter:
    """Appends lines to the segments of a folder, holding its lock.

    A segment is full at `segment_bytes`, however the bytes were split into writes, so a load that is interrupted and
    repeated makes the same files. `_length` is that of the file, `_block` the bytes not yet written.
    """

    folder: Path
    segment_bytes: int
    _lock: int = -1
    _file: int = -1
    _length: int = 0
    _block: bytearray = field(default_factory=bytearray)
    _broken: bool = False

    @classmethod
    def open(cls, folder: Path, segment_bytes: int, scan: Callable[[Segment, int], None]) -> "SegmentWriter":
        """Return the writer of a folder. `scan` is called with each segment and its length, after a torn tail is removed.

        Raises `LogInUse` where another process has the lock, `UserError` where a segment but the last has a torn tail.
        """
        make_folder(folder)
        writer = cls(folder, segment_bytes, _lock=lock(folder))
        try:
            writer._recover(scan)
        except BaseException:
            writer.close()
            raise
        return writer

    def put(self, seq: int, line: bytes) -> int:
        """Buffer a line; returns its byte offset in its segment.

        The line is in the file after `flush`, synced to the disk after `sync`.
        """
        if self._broken:
            raise UserError(f"an earlier write to {self.folder} failed: open the log again")
        if self._file < 0 or self._length + len(self._block) >= self.segment_bytes:
            self._roll(seq)
        place = self._length + len(self._block)
        self._block += line
        if len(self._block) >= _BLOCK_BYTES:
            self.flush()
        return place

    def record_at(self, seq: int, place: int) -> dict[str, Any]:
        """Return the record of a seq at a byte offset of its segment, as written. Raises `UserError` where it is damaged."""
        if self._block:
            self.flush()
        segment = reaching(segments_in(self.folder), seq)[0]
        return record_at(segment.path, place)

    def flush(self) -> None:
        """Write the buffered lines. Raises `UserError` where that fails; then only whole records of them stay in the file.

        Those are in the log: a reader may have read them, and a repeated load finds them as duplicates.
        """
        block, self._block = self._block, bytearray()
        written = 0
        try:
            with memoryview(block) as view:
                while written < len(block):
                    written += os.write(self._file, view[written:])
        except OSError as failed:
            self._broken = True
            os.ftruncate(self._file, self._length + block.rfind(b"\n", 0, written) + 1)
            raise UserError(
                f"cannot write to the log at {self.folder} ({failed.strerror}): make room, then repeat the command"
            ) from failed
        self._length += written

    def sync(self) -> None:
        """Flush, and sync file and folder to the disk."""
        if self._file >= 0:
            self.flush()
            os.fsync(self._file)
            sync_folder(self.folder)

    @property
    def broken(self) -> bool:
        """Whether a write failed, so that the file lacks some of the lines."""
        return self._broken

    def close(self) -> None:
        """Sync, unless a write failed, and release the lock."""
        try:
            if not self._broken:
                self.sync()
        finally:
            for descriptor in (self._file, self._lock):
                if descriptor >= 0:
                    os.close(descriptor)
            self._file = self._lock = -1

    def _roll(self, seq: int) -> None:
        if self._file >= 0:
            self.flush()
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
        self._open(Segment.at(self.folder, seq, SCHEMA_VERSION))
        sync_folder(self.folder)

    def _open(self, segment: Segment) -> None:
        self._file = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._length = os.fstat(self._file).st_size

    def _recover(self, scan: Callable[[Segment, int], None]) -> None:
        every = segments_in(self.folder)
        for segment in every:
            length = complete_length(segment.path)
            torn = segment.path.stat().st_size - length
            if torn and segment is not every[-1]:
                raise UserError(
                    f"{segment.path} ends in {torn} bytes that are not a record, and is not the last: run `velo log check`"
                )
            if torn:
                _repair(segment.path, length)
            scan(segment, length)
        if every and every[-1].schema_version == SCHEMA_VERSION:
            self._open(every[-1])


def _repair(path: Path, length: int) -> None:
    """Remove a torn tail. A tail of several lines is more than an interrupted write, and is kept beside the segment."""
    with path.open("rb+") as file:
        cut = file.seek(0, os.SEEK_END) - length
        file.seek(length)
        several = any(b"\n" in block for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
        kept = path.with_name(f"{path.stem}.torn-{length}") if several else None
        if kept:
            file.seek(length)
            write_atomically(kept, iter(lambda: file.read(_BLOCK_BYTES), b""))
        file.truncate(length)
        os.fsync(file.fileno())
    _log.warning(
        "log.repaired segment=%s cut_bytes=%d length=%d kept_as=%s",
        path.name,
        cut,
        length,
        kept.name if kept else None,
    )


def lock(folder: Path) -> int:
    """Return the descriptor that holds the lock of a folder until it is closed. Raises `LogInUse` where another process has it.

    A rebuild swaps the whole folder. `locks.acquire` makes sure that the lock is on the folder that is there now.
    """
    try:
        descriptor = locks.acquire(folder / ".lock")
    except locks.LockHeld as held:
        raise LogInUse(
            f"the log at {folder} is being written by process {held.holder or 'unknown'}: wait until it ends, or stop it"
        ) from None
    locks.record_holder(descriptor)
    return descriptor
