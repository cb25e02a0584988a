"""Generations of the offline tables: a reader sees one whole, whatever is published meanwhile.

`$VELO_HOME/offline` is a link to one folder of `generations/`; a new generation is made aside (parts of the one before
it are hard links, so it costs only what is new) and the link is swung over in one step. The generation before stays,
for readers that have just resolved the link.

A generation's parts hold each row once: those of the batch up to the manifest's `next_seq`, those of the stream
(`stream-FIRST-LAST.parquet`, by seq, both included) from there on. Publishing a generation drops the stream's parts
that the batch has caught up with and takes the later ones along, so build and stream may run beside each other.

A Parquet file does not tell when a byte of it was changed, and a changed byte is another value. So a generation keeps
the checksums of the batch's parts, and nothing grows from a part that is no longer what it was.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from velo.errors import UserError
from velo.racing.clock import from_text, to_text
from velo.storage import locks
from velo.storage.atomic_files import make_folder, sync_file, sync_folder, write_atomically
from velo.storage.store import Home

MANIFEST: Final = "manifest.json"
SUMS: Final = "checksums.json"
"""What the batch's parts of a generation were when it was published: bytes and CRC-32 by path."""
KEPT: Final = 2
"""How many generations stay: the current one and the one before."""
NOTHING_KNOWN: Final = datetime(1000, 1, 1, tzinfo=UTC)
"""`known_at` of a generation without batch rows: before any race."""
_STREAM_PART: Final = re.compile(r"stream-(\d{12})-(\d{12})\.parquet")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation holds: all rows up to a position of the log, of one catalogue and epoch of formulas."""

    log_generation: int
    next_seq: int
    known_at: datetime
    fingerprint: str
    epoch: int
    rows: dict[str, int]

    def to_json(self) -> bytes:
        """As written in the generation's folder."""
        return json.dumps(asdict(self) | {"known_at": to_text(self.known_at)}, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> "Manifest":
        """As read from the generation's folder."""
        written = json.loads(text)
        return cls(**(written | {"known_at": from_text(written["known_at"])}))


@contextmanager
def sole_publisher(home: Home) -> Iterator[None]:
    """Hold the right to publish, what a killed build left behind swept away; raises `UserError` where another has it."""
    make_folder(home.generations)
    try:
        descriptor = locks.acquire(home.generations / ".lock")
    except locks.LockHeld:
        raise UserError(
            f"another build is writing to {home.root}: wait for it to end, then run this one again"
        ) from None
    try:
        for left in (*home.generations.glob(".*.tmp"), *home.batch.glob("scratch-*"), *_never_current(home)):
            shutil.rmtree(left)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def changing_parts(home: Home) -> Iterator[None]:
    """Wait for, then hold, the right to change which parts the current generation has: for a moment only."""
    make_folder(home.generations)
    with locks.holding(home.generations / ".parts.lock", wait=True):
        yield


@dataclass(frozen=True, slots=True, order=True)
class StreamPart:
    """One part of the stream: the rows that the messages from `first_seq` to `last_seq` made in a view."""

    first_seq: int
    last_seq: int
    path: Path


def batch_part_name(next_seq: int) -> str:
    """The name, without its ending, of a build's part: of the messages before `next_seq` that no part before it has."""
    return f"batch-{next_seq:012d}"


def stream_part_name(first_seq: int, last_seq: int) -> str:
    """The file name of a stream's part."""
    return f"stream-{first_seq:012d}-{last_seq:012d}.parquet"


def stream_parts(generation: Path, view: str) -> list[StreamPart]:
    """The stream's parts of a view, in order; empty where there is none."""
    folder = generation / view
    named = ((_STREAM_PART.fullmatch(path.name), path) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(StreamPart(int(match[1]), int(match[2]), path) for match, path in named if match)


def current(home: Home) -> Path | None:
    """The folder of the current generation; None before the first build."""
    return home.offline.resolve() if home.offline.exists() else None


def manifest_of(generation: Path) -> Manifest:
    """What a generation holds; raises `UserError` where that cannot be read."""
    path = generation / MANIFEST
    try:
        return Manifest.from_json(path.read_bytes())
    except (FileNotFoundError, ValueError, TypeError, KeyError, UserError) as damaged:
        raise UserError(
            f"{path} is damaged ({damaged}): stop the stream if one runs, then run `velo build --whole`"
        ) from None


def refuse_damaged(generation: Path) -> None:
    """Raise `UserError` where a part of the batch is gone, or no longer what was published."""
    for name, (size, crc) in _sums(generation).items():
        part = generation / name
        if not part.exists():
            what = "is gone"
        elif part.stat().st_size != size or _crc_of(part) != crc:
            what = "is damaged (its checksum is not that of what was written)"
        else:
            continue
        raise UserError(f"{part} {what}: run `velo build --whole`, which makes all tables anew from the log")


def begin(home: Home, grown_from: Path | None = None) -> Path:
    """A new folder for the next generation, with the batch's parts of another one linked in where it grows from one."""
    finished = [int(path.name) for path in _finished(home)]
    folder = home.generations / f".{max(finished, default=0) + 1:06d}.tmp"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    if grown_from is not None:
        for part in sorted(grown_from.rglob("*.parquet")):
            if _STREAM_PART.fullmatch(part.name):
                continue
            linked = folder / part.relative_to(grown_from)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(part, linked)
    return folder


def publish(home: Home, folder: Path, manifest: Manifest) -> Path:
    """Make a begun generation the current one, in one step; the ones before the last are removed.

    What the stream wrote of later messages than the manifest's comes along.
    """
    sums = {}
    for part in sorted(folder.rglob("*.parquet")):
        sync_file(part)
        sums[str(part.relative_to(folder))] = (part.stat().st_size, _crc_of(part))
    write_atomically(folder / SUMS, json.dumps(sums).encode())
    with changing_parts(home):
        before = current(home)
        if before is not None:
            _bring_stream_parts(before, folder, manifest)
        for inner in folder.iterdir():
            if inner.is_dir():
                sync_folder(inner)
        write_atomically(folder / MANIFEST, manifest.to_json())
        generation = folder.with_name(folder.name.removeprefix(".").removesuffix(".tmp"))
        folder.rename(generation)
        sync_folder(home.generations)
        link = home.offline.with_name(".offline.tmp")
        link.unlink(missing_ok=True)
        link.symlink_to(generation.relative_to(home.root), target_is_directory=True)
        link.replace(home.offline)
        sync_folder(home.root)
    _prune(home)
    return generation


def rows_after(part: Path, after: datetime, target: Path) -> int:
    """Write the rows of a part later than an instant to another file; returns how many (no file where none)."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(part, partitioning=None)
    later = table.filter(pc.greater(table.column("event_timestamp"), after))
    if later.num_rows:
        pq.write_table(later, target, compression="lz4")
        sync_file(target)
    return int(later.num_rows)


def _bring_stream_parts(before: Path, folder: Path, manifest: Manifest) -> None:
    """Link the stream's parts of messages from `next_seq` on; one that begins before it is cut."""
    try:
        was = manifest_of(before)
    except UserError:
        # what the stream's parts were of cannot be told; the next build makes their rows from the log
        return
    if (was.log_generation, was.epoch) != (manifest.log_generation, manifest.epoch):
        return
    for view in manifest.rows:
        for part in stream_parts(before, view):
            if part.last_seq < manifest.next_seq:
                continue
            (folder / view).mkdir(exist_ok=True)
            if part.first_seq >= manifest.next_seq:
                os.link(part.path, folder / view / part.path.name)
            else:
                name = stream_part_name(manifest.next_seq, part.last_seq)
                rows_after(part.path, manifest.known_at, folder / view / name)


def _sums(generation: Path) -> Mapping[str, Any]:
    """The checksums of a generation; none of one that was published before they were kept, or by the stream alone."""
    try:
        written = json.loads((generation / SUMS).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as damaged:
        raise UserError(f"{generation / SUMS} is damaged ({damaged}): run `velo build --whole`") from None
    return written if isinstance(written, dict) else {}


def _crc_of(part: Path) -> int:
    crc = 0
    with part.open("rb", buffering=0) as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def _never_current(home: Home) -> list[Path]:
    """Generations that a build killed just before it swung the link left behind: nobody has ever read them.

    Kept, they would take the place of the one before the current, which readers may still have open.
    """
    serving = current(home)
    return [path for path in _finished(home) if serving is not None and path.name > serving.name]


def _finished(home: Home) -> list[Path]:
    return sorted(path for path in home.generations.iterdir() if path.name.isdigit())


def _prune(home: Home) -> None:
    serving = current(home)
    for stale in [path for path in _finished(home) if path != serving][: -(KEPT - 1)]:
        shutil.rmtree(stale)
