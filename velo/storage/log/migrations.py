"""Read logs of older schemas as if they had the current one; they are never rewritten (contract 10).

Schema 1 was the draft before the first release: a runner had `odds` for `sp_decimal`, and `known_at` and `off_time` were
whole microseconds since 1970.
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
    place_of,
    placed_records,
    reaching,
    segments,
)
from velo.storage.store import Home


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of any schema as one of the current schema. Raises `UserError` for an unknown schema."""
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
    """Convert a record from schema 1 to 2."""
    record |= {name: _instant(record[name]) for name in ("known_at", "off_time", "midnight") if name in record}
    if "runners" in record:
        record["runners"] = [
            {"sp_decimal" if name == "odds" else name: value for name, value in runner.items()}
            for runner in record["runners"]
        ]
    return record | {"schema_version": 2}


def _instant(microseconds: int) -> str:
    return to_text(EPOCH + timedelta(microseconds=microseconds))


_STEPS: Final[dict[Any, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _from_1}


def readable_segments(home: Home, from_seq: int = 0) -> list[Path]:
    """Return files of whole records in the current schema, in order, for a reader of whole files.

    There is one for each segment that has records from a seq on. A file is the segment itself, with three exceptions: for a
    segment of an older schema it is a converted copy, for the last segment a copy of its whole records, as a writer may be
    appending to it, and for a segment that begins before the seq a copy of its records from there. Copies are in
    `batch/upgraded`, appear atomically, and are kept while they are up to date. Only records that a file has are verified.
    Raises `UserError` for a damaged one.
    """
    folder = home.batch / "upgraded"
    files: list[Path] = []
    every = segments(home)
    for segment in reaching(every, from_seq):
        length, line = last_whole(segment.path)
        begin = place_of(segment.path, from_seq, length) if from_seq > segment.first_seq else 0
        if begin == length:
            continue
        _refuse_damaged(segment, length, begin)
        old = segment.schema_version != SCHEMA_VERSION
        if not old and begin == 0 and segment is not every[-1]:
            files.append(segment.path)
            continue
        # the name identifies the original, so that a rebuilt log never uses a copy of the previous log
        mark = f"{generation(home)}-{begin}-{length}-{crc32(line):08x}"
        copy = folder / f"{segment.path.stem}-{mark}.v{SCHEMA_VERSION}.ndjson"
        if not copy.exists() or _damaged_at(copy, copy.stat().st_size) is not None:
            make_folder(folder)
            aside = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
            with aside.open("wb") as out:
                (_convert if old else _cut)(segment, length, begin, out)
            aside.replace(copy)
        files.append(copy)
        _forget(folder, segment, copy)
    return files


def _refuse_damaged(segment: Segment, length: int, begin: int) -> None:
    """Raise `UserError` for a damaged record, which a reader of whole files would not notice."""
    place = _damaged_at(segment.path, length, begin)
    if place is not None:
        raise damaged(segment.path, place)


def _damaged_at(path: Path, length: int, begin: int = 0) -> int | None:
    return next((place for place, line in lines(path, length, begin) if not jsonl.is_whole(line)), None)


def _cut(segment: Segment, length: int, begin: int, out: BinaryIO) -> None:
    with segment.path.open("rb") as source:
        source.seek(begin)
        left = length - begin
        while left and (block := source.read(min(left, 2**22))):
            left -= out.write(block)


def _convert(segment: Segment, length: int, begin: int, out: BinaryIO) -> None:
    for _, record in placed_records(segment, length, begin):
        now = upgraded(record)
        out.write(framed(now["seq"], now["digest"], now["known_at"], body_of(now)))


def _forget(folder: Path, segment: Segment, copy: Path) -> None:
    """Remove a segment's outdated copies; a reader keeps the one that it has open."""
    for path in folder.glob(f"{segment.path.stem}-*.ndjson"):
        if path != copy:
            path.unlink(missing_ok=True)
