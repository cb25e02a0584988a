"""Segments of the log: the framing of a record, and how far a file can be trusted (contract 2).

A segment is `log/{first_seq:012d}-v{schema_version}.ndjson`. A record is one checksummed line (`velo.storage.jsonl`),
`{"crc":"8 hex",REST`. REST begins with `seq`, `digest`, `known_at`, `type`, `schema_version`, `race_id` and, for a result,
`result_version` and, where an alias raised it, `alias_source_version`, in this order.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from velo.errors import UserError
from velo.racing.aliases import SOURCE_VERSION
from velo.storage import jsonl
from velo.storage.store import Home

SEGMENT_BYTES: Final = 64 * 2**20
"""A segment of at least this size is full: the next record begins a new one."""
RECORD_BYTES: Final = 64 * 2**20
"""The size limit of a record, which is also what the batch reads as one object (`maximum_object_size` in `log.sql`). A race has
some kilobytes."""
REPEATED: Final = "alias_repeated"
ENVELOPE: Final = frozenset({"crc", "seq", "digest", "known_at", "origin", REPEATED})
"""Fields of a record that are not part of its message.

`origin` is the offset in a feed that the message came from: {"feed": its name, "at": the offset}. `alias_repeated` of an alias is the
number of records directly after it that repeat earlier messages under other keys.
"""

IDEMPOTENCY_KEY: Final = "idempotency_key"
"""A field that its sender chose for a message: the log takes a message with it once."""

GENERATION: Final = "generation"
"""The file of a log's folder that counts its rebuilds."""

_FIRST: Final = ("type", "schema_version", "race_id", "result_version", SOURCE_VERSION)
_NAME: Final = re.compile(r"(\d{12})-v(\d+)\.ndjson")
_SEQ: Final = re.compile(rb'.{18}"seq":(\d+),')
_TAIL_BLOCK: Final = 2**16


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the log: its records count from `first_seq` and are all of one `schema_version`."""

    first_seq: int
    schema_version: int
    path: Path

    @classmethod
    def at(cls, folder: Path, first_seq: int, schema_version: int) -> "Segment":
        """The segment of a folder that begins with record `first_seq`."""
        return cls(first_seq, schema_version, folder / f"{first_seq:012d}-v{schema_version}.ndjson")


def segments(home: Home) -> list[Segment]:
    """The segments of a store's log, in order; empty where it has no log yet."""
    return segments_in(home.log)


def segments_in(folder: Path) -> list[Segment]:
    """The segments of a folder, in order."""
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(Segment(int(match[1]), int(match[2]), path) for match, path in named if match)


def generation(home: Home) -> int:
    """The number of times the log was rebuilt: a `seq` of one generation means nothing in another."""
    return generation_of(home.log)


def generation_of(folder: Path) -> int:
    """The generation of the log in a folder."""
    try:
        return int((folder / GENERATION).read_text())
    except FileNotFoundError:
        return 0


def reaching(every: Sequence[Segment], from_seq: int) -> list[Segment]:
    """The segments that may hold records from a seq on."""
    before = sum(later.first_seq <= from_seq for later in every[1:])
    return list(every[before:])


def next_log(home: Home) -> Path:
    """The folder of a rebuilt log until it replaces the log."""
    return home.root / "log.next"


def finish_swap(home: Home) -> None:
    """Complete a rebuild that was killed between its two renames: the old log away, the new one in."""
    if not home.log.exists() and next_log(home).is_dir():
        next_log(home).rename(home.log)


def digest_of(record: Mapping[str, Any]) -> str:
    """The digest of a record's message, 16 hex digits: independent of the fields of `ENVELOPE`."""
    message = {name: value for name, value in record.items() if name not in ENVELOPE}
    return blake2b(orjson.dumps(message, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def body_of(record: Mapping[str, Any]) -> bytes:
    """A record's message as JSON without its opening brace, the fields that the index needs first."""
    first = {name: record[name] for name in _FIRST if name in record}
    rest = {name: value for name, value in record.items() if name not in ENVELOPE and name not in first}
    return orjson.dumps(first | rest)[1:]


def with_origin(body: bytes, origin: Mapping[str, str]) -> bytes:
    """A body of `body_of` with the origin of its message."""
    return with_field(body, "origin", origin)


def with_field(body: bytes, name: str, value: object) -> bytes:
    """A body of `body_of` with one of the fields of `ENVELOPE`."""
    return b'%s,"%s":%s}' % (body[:-1], name.encode(), orjson.dumps(value))


def framed(seq: int, digest: str, known_at: str | int, body: bytes) -> bytes:
    """The line of a record; `known_at` is text, or µs since 1970 in schema 1."""
    instant = f'"{known_at}"' if isinstance(known_at, str) else str(known_at)
    rest = b'"seq":%d,"digest":"%s","known_at":%s,%s' % (seq, digest.encode(), instant.encode(), body)
    return jsonl.frame(rest)


def complete_length(path: Path) -> int:
    """Bytes of a file up to the end of its last complete, checksummed record; 0 where it holds none.

    Only the tail is read. What lies before the last whole record is the concern of `reader.check`.
    """
    return last_whole(path)[0]


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole record of a segment, as written; None where it holds none."""
    line = last_whole(path)[1]
    return orjson.loads(line) if line else None


def last_whole(path: Path) -> tuple[int, bytes]:
    """The end (byte) of the last whole line of a segment, and the line; (0, b"") where there is none."""
    with path.open("rb") as file:
        return _last_whole(file.fileno(), os.fstat(file.fileno()).st_size)


def _last_whole(descriptor: int, size: int) -> tuple[int, bytes]:
    tail, start = b"", size
    while True:
        end = len(tail)
        while (end := tail.rfind(b"\n", 0, end) + 1) > 0:
            begin = tail.rfind(b"\n", 0, end - 1) + 1
            if begin == 0 and start > 0:
                break
            if jsonl.is_whole(tail[begin:end]):
                return start + end, tail[begin:end]
            end -= 1
        if start == 0:
            return 0, b""
        # bytes after the last newline are not a record, nor is a line that is too long: both are dropped
        tail = tail[:end] if end <= RECORD_BYTES else b""
        step = min(start, max(_TAIL_BLOCK, len(tail)))
        start -= step
        tail = os.pread(descriptor, step, start) + tail


def lines(path: Path, length: int, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each line of a segment's first `length` bytes, from `begin` on, with the byte it begins at; checksums are not checked.

    A line over the size limit of a record is yielded without its rest, so that memory stays bounded.
    """
    place = begin
    with path.open("rb", buffering=2**20) as file:
        file.seek(begin)
        while place < length and (line := file.readline(RECORD_BYTES)):
            yield place, line
            place += len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(RECORD_BYTES)
                place += len(line)


def place_of(path: Path, seq: int, length: int) -> int:
    """The byte at which the first record from a seq on begins in a segment's first `length` bytes, found by bisection.

    0 where a line that is not a record is met, so that who reads from there meets it too.
    """
    begin, end = 0, length
    with path.open("rb") as file:
        while end - begin > _TAIL_BLOCK:
            middle = (begin + end) // 2
            file.seek(middle - 1)
            file.readline(RECORD_BYTES)
            place = file.tell()
            if place >= end:
                end = middle
                continue
            match = _SEQ.match(file.readline(RECORD_BYTES))
            if match is None:
                return 0
            begin, end = (place, end) if int(match[1]) <= seq else (begin, middle)
    for place, line in lines(path, length, begin):
        match = _SEQ.match(line)
        if match is None:
            return 0
        if int(match[1]) >= seq:
            return place
    return length


def whole_records(segment: Segment, length: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a segment as written, up to a length or its torn tail; raises `UserError` where one is damaged."""
    for _, record in placed_records(segment, length):
        yield record


def placed_records(segment: Segment, length: int | None = None, begin: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """`whole_records` from a byte on, each with the byte it begins at."""
    for place, line in lines(segment.path, complete_length(segment.path) if length is None else length, begin):
        yield place, _parsed(segment.path, place, line)


def record_at(path: Path, place: int) -> dict[str, Any]:
    """The record that begins at a byte of a segment, as written; raises `UserError` where it is damaged."""
    with path.open("rb") as file:
        file.seek(place)
        return _parsed(path, place, file.readline(RECORD_BYTES))


def _parsed(path: Path, place: int, line: bytes) -> dict[str, Any]:
    if not jsonl.is_whole(line):
        raise damaged(path, place)
    record: dict[str, Any] = orjson.loads(line)
    return record


def damaged(path: Path, place: int) -> UserError:
    """The error for a segment with a record that is not as it was written."""
    return UserError(
        f"{path.resolve()} is damaged at byte {place}: run `velo log check`, then restore the file from a backup"
    )
