"""The checksums of the batch's parts, as they were when their generation was published.

A changed byte of a Parquet file is a changed value that nothing reports. So a generation has the checksums of the batch's
parts, and no build grows from a part whose checksum differs. A build that adds to a generation computes only the checksums of
files that were written to since, so that its work does not grow with the history; an audit, a compaction and a rollback
compute all.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from velo.errors import UserError
from velo.storage.atomic_files import sync_file

SUMS: Final = "checksums.json"
"""The `PartSum` of each of the batch's parts when the generation was published, by path."""


class PartSum(NamedTuple):
    """What a part of the batch was when it was published: size in bytes, CRC-32, and modification time (0 in older stores)."""

    size: int
    crc: int
    mtime_ns: int = 0


def refuse_damaged(generation: Path) -> None:
    """Raise `UserError` where a part of the batch is missing or differs from what was published."""
    _refuse(generation, lambda part, known: _differs(part, known))


def refuse_changed(generation: Path) -> None:
    """As `refuse_damaged`, but a part that nobody wrote to since it was published is not read."""
    _refuse(generation, lambda part, known: not _untouched(part, known) and _differs(part, known))


def _refuse(generation: Path, damaged: Callable[[Path, PartSum], bool]) -> None:
    for name, known in _read(generation).items():
        part = generation / name
        if not part.exists():
            fault = "is missing"
        elif damaged(part, known):
            fault = "is damaged (its checksum differs)"
        else:
            continue
        raise UserError(f"{part} {fault}: run `velo build --whole`, which makes all tables again from the log")


def _differs(part: Path, known: PartSum) -> bool:
    return part.stat().st_size != known.size or _crc_of(part) != known.crc


def _untouched(part: Path, known: PartSum) -> bool:
    found = part.stat()
    return (found.st_size, found.st_mtime_ns) == (known.size, known.mtime_ns)


def synced(part: Path) -> PartSum:
    """Sync a part and return its sum."""
    sync_file(part)
    # before the content is read, so that a later change shows
    found = part.stat()
    return PartSum(found.st_size, _crc_of(part), found.st_mtime_ns)


def published(generation: Path) -> dict[tuple[str, int], PartSum]:
    """The sums of the parts of a generation, by path and inode: a part linked from it is the same file."""
    with suppress(UserError):
        named = ((name, generation / name, sums) for name, sums in _read(generation).items())
        return {(name, part.stat().st_ino): sums for name, part, sums in named if part.exists()}
    return {}


def _read(generation: Path) -> Mapping[str, PartSum]:
    """The sums of a generation's parts by path; empty for one published by an older release, or by the stream alone."""
    try:
        written = json.loads((generation / SUMS).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as damaged:
        raise UserError(f"{generation / SUMS} is damaged ({damaged}): run `velo build --whole`") from None
    return {name: PartSum(*known) for name, known in written.items()} if isinstance(written, dict) else {}


def _crc_of(part: Path) -> int:
    crc = 0
    with part.open("rb", buffering=0) as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc
