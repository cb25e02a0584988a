"""Where what is seldom needed is put aside: starts, and what races earned, that an amendment may take back.

The file of a `FileSpill` has no name, is read by nobody else and outlives nothing: a stream that begins again lays its
state anew from the log, and the system removes the file with the process, however that ends.
"""

import os
from pathlib import Path
from tempfile import mkstemp
from typing import Final, Protocol
from weakref import finalize

from velo.errors import UserError
from velo.storage.atomic_files import make_folder

BLOCK_BYTES: Final = 2**18
"""So much is held before it is written."""
STREAM_AGAIN: Final = "make room, then start the stream again; it goes on where its last snapshot was"
_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 512


class Spill(Protocol):
    """Bytes put aside for as long as the process lives."""

    def put(self, content: bytes) -> int:
        """Put some aside; the place they can be had from, which is never 0."""

    def get(self, place: int) -> bytes:
        """What was put aside at a place."""


class MemorySpill:
    """A shelf in memory: for what is told a log of modest size."""

    def __init__(self) -> None:
        self._contents: list[bytes] = []

    def put(self, content: bytes) -> int:
        """Put some aside."""
        # a copy: what orjson gives keeps the 4 KB it was written in
        self._contents.append(bytes(bytearray(content)))
        return len(self._contents)

    def get(self, place: int) -> bytes:
        """What was put aside at a place."""
        return self._contents[place - 1]


class FileSpill:
    """Puts bytes aside in a file of a folder, made when the first block is full; for one thread at a time.

    `remedy` is what a full disk is told to be mended by.
    """

    def __init__(self, folder: Path, remedy: str = STREAM_AGAIN) -> None:
        self._folder, self._remedy = folder, remedy
        self._file = -1
        self._written = 0
        self._block = bytearray()

    def put(self, content: bytes) -> int:
        """Put some aside; the place they can be had from. Raises `UserError` where there is no room."""
        # one more than its byte: 0 is no place
        place = self._written + len(self._block) + 1
        self._block += len(content).to_bytes(_LENGTH_BYTES, "little")
        self._block += content
        if len(self._block) >= BLOCK_BYTES:
            self._write()
        return place

    def get(self, place: int) -> bytes:
        """What was put aside at a place."""
        begin = place - 1
        if begin >= self._written:
            begin -= self._written
            after = begin + _LENGTH_BYTES
            return bytes(self._block[after : after + _length(self._block[begin:after])])
        found = os.pread(self._file, _READ_BYTES, begin)
        end = _LENGTH_BYTES + _length(found[:_LENGTH_BYTES])
        if end > len(found):
            found = os.pread(self._file, end, begin)
        return found[_LENGTH_BYTES:end]

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
