"""Bytes that are seldom needed, written to a temporary file: past starts, and what races earned, for amended results.

The file of a `FileSpill` is unlinked as soon as it is open, so no other process reads it and it ends with its process. A
stream that starts again rebuilds its state from the log.
"""

import os
from pathlib import Path
from tempfile import mkstemp
from typing import Final, Protocol
from weakref import finalize

from velo.errors import UserError
from velo.storage.atomic_files import make_folder

BLOCK_BYTES: Final = 2**18
"""Bytes are written to the file in blocks of at least this size."""
STREAM_AGAIN: Final = "make room, then start the stream again; it resumes from its last snapshot"
_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 512


class Spill(Protocol):
    """Stores bytes for the life of the process."""

    def put(self, content: bytes) -> int:
        """Store bytes; returns the place to get them from, which is never 0."""

    def get(self, place: int) -> bytes:
        """The bytes that `put` stored at a place."""

    def part(self, place: int, begin: int, length: int) -> bytes:
        """Some of the bytes that `put` stored at a place: `length` of them, from byte `begin` on."""


class FileSpill:
    """Stores bytes in an unlinked file of a folder, created when the first block is full. Use it from one thread.

    `remedy` ends the error for a full disk.
    """

    def __init__(self, folder: Path, remedy: str = STREAM_AGAIN) -> None:
        self._folder, self._remedy = folder, remedy
        self._file = -1
        self._written = 0
        self._block = bytearray()

    def put(self, content: bytes) -> int:
        """Store bytes; returns the place to get them from. Raises `UserError` where the disk is full."""
        # one more than the byte it begins at, as 0 means no place
        place = self._written + len(self._block) + 1
        self._block += len(content).to_bytes(_LENGTH_BYTES, "little")
        self._block += content
        if len(self._block) >= BLOCK_BYTES:
            self._write()
        return place

    def get(self, place: int) -> bytes:
        """The bytes that `put` stored at a place."""
        begin = place - 1
        # not written yet: still in the block
        if begin >= self._written:
            begin -= self._written
            after = begin + _LENGTH_BYTES
            return bytes(self._block[after : after + _length(self._block[begin:after])])
        found = os.pread(self._file, _READ_BYTES, begin)
        end = _LENGTH_BYTES + _length(found[:_LENGTH_BYTES])
        if end > len(found):
            found = os.pread(self._file, end, begin)
        return found[_LENGTH_BYTES:end]

    def part(self, place: int, begin: int, length: int) -> bytes:
        """Some of the bytes that `put` stored at a place: `length` of them, from byte `begin` on."""
        at = place - 1 + _LENGTH_BYTES + begin
        if at >= self._written:
            return bytes(self._block[at - self._written : at - self._written + length])
        return os.pread(self._file, length, at)

    def _write(self) -> None:
        try:
            if self._file < 0:
                self._open()
            with memoryview(self._block) as block:
                written = 0
                while written < len(block):
                    written += os.pwrite(self._file, block[written:], self._written + written)
        except OSError as failed:
            raise UserError(f"cannot write below {self._folder} ({failed.strerror}): {self._remedy}") from failed
        self._written += len(self._block)
        self._block.clear()

    def _open(self) -> None:
        self._file, name = mkstemp(prefix=".shelf-", dir=make_folder(self._folder))
        Path(name).unlink()
        finalize(self, os.close, self._file)


def _length(written: bytes | bytearray) -> int:
    return int.from_bytes(written, "little")
