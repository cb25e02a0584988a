"""Logs of older schemas: read as if they were of today's, and never rewritten (contract 10).

Schema 1 was the draft before the first release: a runner carried `odds` for `sp_decimal`, and `known_at` and
`off_time` were whole microseconds since 1970.
"""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final
from zlib import crc32

from velo.errors import UserError
from velo.racing.clock import EPOCH, to_text
from velo.racing.messages import SCHEMA_VERSION
from velo.storage import jsonl
from velo.storage.atomic_files import make_folder
from velo.storage.log.format import (
    Segment,
    body_of,
    damaged,
    digest_of,
    framed,
    generation,
    last_whole,
    lines,
    reaching,
    segments,
    whole_records,
)
from velo.storage.store import Home


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of any schema as one of the current; raises `UserError` for a schema that is not known here."""
    current = dict(record)
    while (version := current.get("schema_version")) != SCHEMA_VERSION:
        if version not in _STEPS:
            raise UserError(
                f"record {record.get('seq')} has schema_version {version!r}, this version reads up to "
                f"{SCHEMA_VERSION}: upgrade velo"
            )
        current = _STEPS[version](current)
    if current != record and "digest" in current:
        current["digest"] = digest_of(current)
    return current


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 to 2."""
    record |= {name: _instant(record[name]) for name in ("known_at", "off_time", "midnight") if name in record}
    if "runners" in record:
        record["runners"] = [
            {"sp_decimal" if name == "odds" else name: value for name, value in one.items()}
            for one in record["runners"]
        ]
    return record | {"schema_version": 2}


def _instant(microseconds: int) -> str:
    return to_text(EPOCH + timedelta(microseconds=microseconds))


_STEPS: Final[dict[Any, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _from_1}


def readable_segments(home: Home, from_seq: int = 0) -> list[Path]:
    """Files of whole records of the current schema, in order, for a reader that takes files whole.

    One for each segment that may hold records from a seq on; the first may begin before it.
    That is the segment itself, except: one of an older schema is a converted copy; the last one is a copy of its
    whole records, as a writer may be appending to it while it is read. Copies live in `batch/upgraded`, appear at
    once or not at all, and are kept while they are up to date. Empty segments are left out. Raises `UserError` where a
    record was damaged.
    """
    folder = home.batch / "upgraded"
    files: list[Path] = []
    every = segments(home)
    for segment in reaching(every, from_seq):
        length, line = last_whole(segment.path)
        if length == 0:
            continue
        _refuse_damaged(segment, length)
        old = segment.schema_version != SCHEMA_VERSION
        if not old and segment is not every[-1]:
            files.append(segment.path)
            continue
        # what the copy is of stands in its name, so that a rebuilt log never meets a copy of the one before
        mark = f"{generation(home)}-{length}-{crc32(line):08x}"
        copy = folder / f"{segment.path.stem}-{mark}.v{SCHEMA_VERSION}.ndjson"
        if not copy.exists() or _damaged_at(copy, copy.stat().st_size) is not None:
            make_folder(folder)
            aside = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
            with aside.open("wb") as out:
                (_convert if old else _cut)(segment, length, out)
            aside.replace(copy)
        files.append(copy)
        _forget(folder, segment, copy)
    return files


def _refuse_damaged(segment: Segment, length: int) -> None:
    """Raise `UserError` where a record is not what was written: a reader that takes files whole would not see it."""
    place = _damaged_at(segment.path, length)
    if place is not None:
        raise damaged(segment.path, place)


def _damaged_at(path: Path, length: int) -> int | None:
    return next((place for place, line in lines(path, length) if not jsonl.is_whole(line)), None)


def _cut(segment: Segment, length: int, out: BinaryIO) -> None:
    with segment.path.open("rb") as source:
        while length and (block := source.read(min(length, 2**22))):
            length -= out.write(block)


def _convert(segment: Segment, length: int, out: BinaryIO) -> None:
    for record in whole_records(segment, length):
        now = upgraded(record)
        out.write(framed(now["seq"], now["digest"], now["known_at"], body_of(now)))


def _forget(folder: Path, segment: Segment, copy: Path) -> None:
    """Remove a segment's copies that are out of date; a reader that has one open keeps it until it closes it."""
    for path in folder.glob(f"{segment.path.stem}-*.ndjson"):
        if path != copy:
            path.unlink(missing_ok=True)
