"""Generations of the offline tables: a reader sees one complete generation, whatever is published meanwhile.

`$VELO_HOME/offline` is a link to one folder of `generations/`. A new generation is made beside it (it hard-links the parts of
the one before, so it costs only the new rows), then the link is replaced in one step. The generation before stays, for
readers that have just followed the link, and the last one of other formulas, for a rollback.

Each row is in one part: rows up to the manifest's `next_seq` in the batch's parts, later ones in the stream's
(`stream-FIRST-LAST.parquet`, by seq, both included). Publishing a generation drops the stream's parts that the batch now
covers and links the later ones, so build and stream may run at the same time.

The checksums of the batch's parts are in `part_sums`.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.racing.clock import from_text, to_text
from velo.storage import locks, part_sums
from velo.storage.atomic_files import make_folder, sync_file, sync_folder, write_atomically
from velo.storage.store import Home

MANIFEST: Final = "manifest.json"
SYNCS_AT_ONCE: Final = 8
KEPT: Final = 2
"""The number of generations kept for readers: the current one and the one before."""
NOTHING_KNOWN: Final = datetime(1000, 1, 1, tzinfo=UTC)
"""`known_at` of a generation without batch rows: before any race."""
_STREAM_PART: Final = re.compile(r"stream-(\d{12})-(\d{12})\.parquet")


@dataclass(frozen=True, slots=True)
class ViewFormulas:
    """The formulas of one view: their fingerprint, the epoch that its rows have, and the fingerprint of each feature."""

    fingerprint: str
    epoch: int
    features: dict[str, str]


@dataclass(frozen=True, slots=True)
class Formulas:
    """The fingerprint of all formulas, that of each view, and that of each feature (`view__feature`).

    The last two are empty for tables of an earlier version.
    """

    fingerprint: str
    views: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fingerprint: str, views: Mapping[str, ViewFormulas]) -> "Formulas":
        """Those of some views; `fingerprint` is that of all."""
        features = {f"{view}__{name}": mark for view, of in views.items() for name, mark in of.features.items()}
        return cls(fingerprint, {view: of.fingerprint for view, of in views.items()}, features)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a generation: all rows of the log before `next_seq`, of one catalogue and epoch of formulas.

    `views` has the formulas of each view; it is empty in a generation of an earlier version.
    """

    log_generation: int
    next_seq: int
    known_at: datetime
    fingerprint: str
    epoch: int
    rows: dict[str, int]
    views: dict[str, ViewFormulas] = field(default_factory=dict)

    @property
    def formulas(self) -> Formulas:
        """The formulas of the rows."""
        return Formulas.of(self.fingerprint, self.views)

    def epoch_of(self, view: str) -> int:
        """The epoch of a view's rows: that of the generation in which its formulas last changed."""
        return self.views[view].epoch if view in self.views else self.epoch

    def unchanged(self, fingerprint: str, views: Mapping[str, ViewFormulas]) -> set[str]:
        """Which of some views are in this generation by the same formulas; `fingerprint` is that of them all."""
        if self.fingerprint == fingerprint:
            return self.rows.keys() & views.keys()
        same = {
            view
            for view, formulas in views.items()
            if view in self.views and self.views[view].fingerprint == formulas.fingerprint
        }
        return self.rows.keys() & same

    def to_json(self) -> bytes:
        """As written in the generation's folder."""
        return json.dumps(asdict(self) | {"known_at": to_text(self.known_at)}, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> "Manifest":
        """As read from the generation's folder."""
        written = json.loads(text)
        views = {view: ViewFormulas(**formulas) for view, formulas in written.get("views", {}).items()}
        return cls(**(written | {"known_at": from_text(written["known_at"]), "views": views}))


@contextmanager
def sole_publisher(home: Home, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock for publishing; leftovers of killed builds are removed first.

    Raises `UserError` where another build holds it, unless `wait`.
    """
    make_folder(home.generations)
    try:
        descriptor = locks.acquire(home.generations / ".lock", wait=wait)
    except locks.LockHeld:
        raise UserError(
            f"another build is writing to {home.root}: wait for it to end, then run this one again"
        ) from None
    try:
        for leftover in (*home.generations.glob(".*.tmp"), *home.batch.glob("scratch-*"), *_never_current(home)):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        _prune(home)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def changing_parts(home: Home) -> Iterator[None]:
    """Wait for and hold the lock on the parts of the current generation; hold it briefly, as build and stream both need it."""
    make_folder(home.generations)
    with locks.holding(home.generations / ".parts.lock", wait=True):
        yield


@dataclass(frozen=True, slots=True, order=True)
class StreamPart:
    """One part of the stream: the rows of a view made by the messages from `first_seq` to `last_seq`."""

    first_seq: int
    last_seq: int
    path: Path


def batch_part_name(next_seq: int) -> str:
    """The name, without suffix, of a build's part: its messages are before `next_seq` and in no earlier part."""
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


def current_formulas(home: Home) -> Formulas | None:
    """The formulas of the current tables; None before the first build. Raises `UserError` for a damaged manifest."""
    folder = current(home)
    return None if folder is None else manifest_of(folder).formulas


def manifest_of(generation: Path) -> Manifest:
    """The manifest of a generation; raises `UserError` where it cannot be read."""
    path = generation / MANIFEST
    try:
        return _parsed(path.read_bytes())
    except (FileNotFoundError, ValueError, TypeError, KeyError, UserError) as damaged:
        raise UserError(
            f"{path} is damaged ({damaged}): stop the stream if one runs, then run `velo build --whole`"
        ) from None


@lru_cache(maxsize=4)
def _parsed(text: bytes) -> Manifest:
    # each score reads the manifest, which seldom changes
    return Manifest.from_json(text)


def link_current(generation: Path, other: Home) -> None:
    """Make a generation's rows up to its manifest the first generation of another home, which has none; links its files."""
    linked = other.generations / generation.name
    parts = sorted(part for part in generation.rglob("*.parquet") if not _STREAM_PART.fullmatch(part.name))
    for part in (*parts, generation / part_sums.SUMS, generation / MANIFEST):
        if part.name == part_sums.SUMS and not part.exists():
            continue
        target = linked / part.relative_to(generation)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(part, target)
    for folder in (*(path for path in linked.iterdir() if path.is_dir()), linked):
        sync_folder(folder)
    other.offline.symlink_to(linked.relative_to(other.root), target_is_directory=True)


def begin(home: Home, grown_from: Path | None = None, views: Collection[str] | None = None) -> Path:
    """A new folder for the next generation; with `grown_from` it links the batch's parts of that generation.

    Only those of `views`, where given.
    """
    finished = [int(path.name) for path in _finished(home)]
    folder = home.generations / f".{max(finished, default=0) + 1:06d}.tmp"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    if grown_from is not None:
        for part in sorted(grown_from.rglob("*.parquet")):
            inner = part.relative_to(grown_from)
            if _STREAM_PART.fullmatch(part.name) or (views is not None and inner.parts[0] not in views):
                continue
            linked = folder / inner
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(part, linked)
    return folder


def publish(home: Home, folder: Path, manifest: Manifest, *, restored: Path | None = None) -> Path:
    """Make a begun generation the current one, in one step; then all are removed but those that `kept` names.

    The stream's rows of messages after the manifest's are linked in: those of `restored`, where that generation becomes
    current again, else those of the current one that have the same formulas.
    """
    before = restored or current(home)
    published = part_sums.published(before) if before is not None else {}
    parts = {str(part.relative_to(folder)): part for part in sorted(folder.rglob("*.parquet"))}
    sums = {name: published.get((name, part.stat().st_ino)) for name, part in parts.items()}
    new = [name for name, known in sums.items() if known is None]
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        sums |= zip(new, pool.map(lambda name: part_sums.synced(parts[name]), new), strict=True)
        # the folders' names must be on disk before the generation gets its own
        for _ in pool.map(sync_folder, {part.parent for part in parts.values()}):
            pass
    write_atomically(folder / part_sums.SUMS, json.dumps(sums).encode())
    with changing_parts(home):
        if before is not None:
            for view in _bring_stream_parts(before, folder, manifest, whole=restored is not None):
                sync_folder(folder / view)
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
    """Write the rows of a part later than an instant to another file; returns their number (no file for 0)."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(part, partitioning=None)
    later = table.filter(pc.greater(table.column("event_timestamp"), after))
    if later.num_rows:
        pq.write_table(later, target, compression="lz4")
        sync_file(target)
    return int(later.num_rows)


def kept(home: Home) -> set[Path]:
    """The generations to keep: the current one, the one before, which readers may have open, and that of a rollback."""
    serving, target = current(home), rollback_target(home)
    # by name: the home may be below a link
    now = None if serving is None else home.generations / serving.name
    before = [path for path in _finished(home) if path != now][-(KEPT - 1) :]
    return {*before, *(path for path in (now, target) if path is not None)}


def rollback_target(home: Home) -> Path | None:
    """The newest generation before the current one that has other formulas of the same log; None where none is kept."""
    serving = current(home)
    if serving is None:
        return None
    with suppress(UserError):
        manifest = manifest_of(serving)
        for path in reversed([path for path in _finished(home) if path.name < serving.name]):
            with suppress(UserError):
                other = manifest_of(path)
                if other.log_generation == manifest.log_generation and other.fingerprint != manifest.fingerprint:
                    return path
    return None


def _bring_stream_parts(before: Path, folder: Path, manifest: Manifest, *, whole: bool) -> set[str]:
    """Link the stream's parts of messages from `next_seq` on; a part that begins before it is copied without the earlier rows.

    Returns their views. Of views whose formulas changed only where the generation before is restored as a `whole`.
    """
    try:
        manifest_before = manifest_of(before)
    except UserError:
        # the log and formulas of the stream's parts are unknown; the next build makes their rows from the log
        return set()
    brought: set[str] = set()
    if manifest_before.log_generation != manifest.log_generation:
        return brought
    for view in manifest.rows:
        if not whole and (
            view not in manifest_before.rows or manifest_before.epoch_of(view) != manifest.epoch_of(view)
        ):
            continue
        for part in stream_parts(before, view):
            if part.last_seq < manifest.next_seq:
                continue
            (folder / view).mkdir(exist_ok=True)
            if part.first_seq >= manifest.next_seq:
                os.link(part.path, folder / view / part.path.name)
            else:
                name = stream_part_name(manifest.next_seq, part.last_seq)
                rows_after(part.path, manifest.known_at, folder / view / name)
            brought.add(view)
    return brought


def _never_current(home: Home) -> list[Path]:
    """Generations of builds that were killed just before they replaced the link: nobody has read them.

    `_prune` would keep them in place of the one before the current, which readers may still have open.
    """
    serving = current(home)
    return [path for path in _finished(home) if serving is not None and path.name > serving.name]


def _finished(home: Home) -> list[Path]:
    return sorted(path for path in home.generations.iterdir() if path.name.isdigit())


def _prune(home: Home) -> None:
    staying = kept(home)
    for path in _finished(home):
        if path not in staying:
            shutil.rmtree(path)
