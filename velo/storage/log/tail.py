"""The growing end of the log: whole records in order, as they are appended, without waiting."""

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedReader
from typing import Final, NamedTuple

import orjson

from velo.errors import UserError
from velo.racing.clock import from_text
from velo.racing.messages import Message, from_record
from velo.storage import jsonl
from velo.storage.log import reader
from velo.storage.log.format import RECORD_BYTES, Segment, generation, reaching, segments
from velo.storage.log.migrations import upgraded
from velo.storage.store import Home

CHUNK_BYTES: Final = 2**20
BEGINNING_BYTES: Final = 2**16
"""The bytes kept of a line over the size limit of a record."""
_SEQ: Final = re.compile(rb'.{18}"seq":(\d+),')
_ABOUT: Final = re.compile(
    rb'.{18}"seq":\d+,"digest":"[0-9a-f]*","known_at":(?:"[^"]*"|\d+),"type":"(\w+)","schema_version":\d+'
    rb'(?:,"race_id":("(?:[^"\\]|\\.)*"))?(?:,"result_version":(\d+))?'
)
_KNOWN: Final = re.compile(rb'"known_at":"([^"]+)"')
HEAD_BYTES: Final = 200


class RecordOffset(NamedTuple):
    """The location of a record: its segment (first seq, schema version), its first byte, its length in bytes."""

    first_seq: int
    schema_version: int
    offset: int
    length: int


class FoundRecord(NamedTuple):
    """One seq of the log as it was read; `whole` is False where the record is damaged or missing."""

    seq: int
    place: RecordOffset
    text: bytes
    whole: bool


class RecordHead(NamedTuple):
    """The first fields of a record, read without parsing the rest."""

    kind: str
    race_id: str | None
    result_version: int | None


@dataclass(slots=True)
class LogTail:
    """Reads a log from a seq on; each `read` continues with what was appended since.

    `read` raises `UserError` where the log was rebuilt, or ends before what was read.
    """

    home: Home
    next_seq: int
    _generation: int = -1
    _segment: Segment | None = None
    _file: BufferedReader | None = None
    _offset: int = 0
    _expected: int = -1
    _damaged: list[tuple[RecordOffset, bytes]] = field(default_factory=list)
    _barren: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._generation = generation(self.home)

    def read(self, most: int) -> list[FoundRecord]:
        """Up to about `most` next lines; empty at the log's end."""
        lines: list[FoundRecord] = []
        while len(lines) < most:
            if self._file is None and not self._open_first():
                break
            if not self._take_some(lines, most) and not self._open_next():
                self._look_for_rebuild()
                break
        return lines

    def sync(self) -> None:
        """Sync what was read to the disk: its writer may not have done so yet."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_some(self, lines: list[FoundRecord], most: int) -> bool:
        """Read whole lines; False where there are none."""
        assert self._file is not None
        if self._barren is not None and self._barren == _state(self._file):
            return False
        size = CHUNK_BYTES
        while (taken := self._take(size, lines, most)) is None:
            if size >= RECORD_BYTES:
                return self._take_beyond(lines)
            size *= 4
        return taken

    def _take_beyond(self, lines: list[FoundRecord]) -> bool:
        """Read the next whole line after more damaged bytes than a record may have, in bounded memory."""
        assert self._file is not None
        looked_at, offset = _state(self._file), self._offset
        damaged: list[tuple[RecordOffset, bytes]] = []
        self._file.seek(offset)
        while text := self._file.readline(RECORD_BYTES):
            length, ended = len(text), text.endswith(b"\n")
            if ended and jsonl.is_whole(text):
                self._damaged += damaged
                self._note(RecordOffset(*self._segment_key(), offset, length), text, lines)
                self._offset, self._barren = offset + length, None
                return True
            text = text[:BEGINNING_BYTES]
            while not ended and (more := self._file.readline(CHUNK_BYTES)):
                length, ended = length + len(more), more.endswith(b"\n")
            damaged.append((RecordOffset(*self._segment_key(), offset, length), text))
            offset += length
        # do not search the same bytes again until the file changes
        self._barren = looked_at
        return False

    def _take(self, size: int, lines: list[FoundRecord], most: int) -> bool | None:
        """Read whole lines from the next `size` bytes; False where there are none, None where a line may need more bytes."""
        assert self._file is not None
        self._file.seek(self._offset)
        block = self._file.read(size)
        begin = taken = 0
        damaged: list[tuple[RecordOffset, bytes]] = []
        while len(lines) < most and (end := block.find(b"\n", begin) + 1) > 0:
            text = block[begin:end]
            assert self._segment is not None
            place = RecordOffset(*self._segment_key(), self._offset + begin, end - begin)
            begin = end
            if not jsonl.is_whole(text):
                # a torn tail looks the same: it is damage only if a whole record follows
                damaged.append((place, text))
                continue
            self._damaged += damaged
            damaged = []
            self._note(place, text, lines)
            taken = end
        if taken:
            self._offset += taken
            return True
        if len(block) == size:
            return None
        self._file.seek(0, 2)
        if self._file.tell() < self._offset:
            raise cut_back(self.home, reader.end(self.home).next_seq, self.next_seq)
        return False

    def _note(self, place: RecordOffset, text: bytes, lines: list[FoundRecord]) -> None:
        match = _SEQ.match(text)
        seq = int(match[1]) if match else -1
        if self._expected < 0:
            self._expected = place.first_seq
        if seq < self._expected:
            raise UserError(
                f"the log at {self.home.log} holds record {seq} where {self._expected} belongs: run `velo log check`"
            )
        for missing in range(self._expected, seq):
            where, found = self._damaged.pop(0) if self._damaged else (place, b"")
            if missing >= self.next_seq:
                lines.append(FoundRecord(missing, where, found, whole=False))
        self._damaged.clear()
        self._expected = seq + 1
        if seq >= self.next_seq:
            lines.append(FoundRecord(seq, place, text, whole=True))
        self.next_seq = max(self.next_seq, self._expected)

    def _segment_key(self) -> tuple[int, int]:
        assert self._segment is not None
        return self._segment.first_seq, self._segment.schema_version

    def _open_first(self) -> bool:
        found = reaching(segments(self.home), self.next_seq)
        if found:
            self._open(found[0])
        return bool(found)

    def _open_next(self) -> bool:
        assert self._segment is not None
        later = [segment for segment in segments(self.home) if segment.first_seq > self._segment.first_seq]
        if later:
            self._open(later[0])
        return bool(later)

    def _open(self, segment: Segment) -> None:
        self.close()
        self._segment, self._file, self._offset, self._barren = segment, segment.path.open("rb"), 0, None

    def _look_for_rebuild(self) -> None:
        if generation(self.home) != self._generation:
            raise UserError(f"the log at {self.home.log} was rebuilt: run `velo build`, then start the stream again")


def _state(file: BufferedReader) -> tuple[int, int]:
    """The size and modification time of a file, which change whenever it is written to."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def cut_back(home: Home, next_seq: int, read: int) -> UserError:
    """The error for a log that ends before what was read of it."""
    return UserError(
        f"the log at {home.log} ends before record {next_seq}, but the stream has read up to {read}: restore the log "
        "from a backup, or make a new one of what it holds by `velo log rebuild FILE…`, then run `velo build`"
    )


def about(text: bytes) -> RecordHead:
    """The head of a whole record."""
    match = _ABOUT.match(text)
    if match is None:
        record = orjson.loads(text)
        return RecordHead(str(record.get("type")), record.get("race_id"), record.get("result_version"))
    kind, race_id, version = match.groups()
    return RecordHead(kind.decode(), orjson.loads(race_id) if race_id else None, int(version) if version else None)


def known_at_of(text: bytes) -> datetime:
    """The `known_at` of a whole record."""
    found = _KNOWN.search(text, 0, HEAD_BYTES)
    return from_text(found[1].decode()) if found else from_text(upgraded(orjson.loads(text))["known_at"])


UNREADABLE: Final = (UserError, KeyError, ValueError, TypeError, AttributeError)
"""The error of `message_of` for a whole record that is not a message of a known schema."""


def message_of(text: bytes) -> Message:
    """The message of a whole record."""
    return from_record(upgraded(orjson.loads(text)))


def line_at(home: Home, place: RecordOffset) -> bytes:
    """The bytes of the record at an offset."""
    segment = Segment.at(home.log, place.first_seq, place.schema_version)
    with segment.path.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.length)
