"""The plan of a stream: its options, its checks of the store, and its recovery store."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from bytewax.recovery import init_db_dir

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log import reader
from velo.storage.log.format import generation as log_generation
from velo.storage.log.tail import cut_back
from velo.storage.store import Home, Store
from velo.storage.table_versions import NOTHING_KNOWN, Manifest
from velo.streams.batch.formulas import at_epochs, differing_views, fingerprint, view_formulas
from velo.streams.dataflow.arrow_rows import schema_of
from velo.streams.dataflow.log_source import BATCH_RECORDS
from velo.streams.dataflow.metrics import position, sealed_into
from velo.streams.dataflow.retry import StartAgain

SNAPSHOT_EVERY: Final = timedelta(seconds=10)
RECOVERY_PARTS: Final = 2
"""Databases of the recovery store: fixed, since the stores of earlier versions have two."""
FAR_BEHIND: Final = 5000
"""Messages. A stream that is further behind builds what it missed; one whose checkpoint is further behind the tables begins at
their end. `velo bench stream` measures both ways."""
LITTLE_ROOM: Final = 2**20
"""Free bytes on a disk below which a failure of the engine's recovery store means that the disk is full."""


class TablesReplaced(StartAgain):
    """The current tables are of another log or of other formulas than the stream: its next start goes on with those."""


@dataclass(frozen=True, slots=True)
class TableVersion:
    """The log and formulas that rows are made from: they go only into tables of the same. `epochs` is by view."""

    log_generation: int
    fingerprint: str
    epoch: int
    epochs: Mapping[str, int]

    @classmethod
    def of(cls, manifest: Manifest) -> "TableVersion":
        """That of some tables."""
        epochs = {view: manifest.epoch_of(view) for view in manifest.rows}
        return cls(manifest.log_generation, manifest.fingerprint, manifest.epoch, epochs)

    def refuse_others(self, manifest: Manifest) -> None:
        """Raise `TablesReplaced` where tables have another log or other formulas."""
        if (manifest.log_generation, manifest.epoch) != (self.log_generation, self.epoch):
            raise TablesReplaced(
                "the tables were rebuilt from another log or with other formulas while the stream ran: start the stream again"
            )

    def refuse_replaced(self, home: Home) -> None:
        """Raise `TablesReplaced` where the current tables have another log or other formulas."""
        folder = table_versions.current(home)
        if folder is not None:
            self.refuse_others(table_versions.manifest_of(folder))


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The start of a stream without a checkpoint: record `begin` of the log; and its recovery store."""

    store: Store
    formulas: TableVersion
    begin: int
    recovery: Path


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options of a stream: it runs to the log's end (`once`) or until stopped, and which stores it writes.

    `catch_up` is the number of messages behind from which it catches up by batch; 0 for never.
    """

    once: bool = False
    snapshot_every: timedelta = SNAPSHOT_EVERY
    online: bool = True
    offline: bool = True
    batch: int = BATCH_RECORDS
    catch_up: int = 0


def plan(store: Store, far_behind: int = FAR_BEHIND) -> StreamPlan:
    """Check the store and prepare it; empty tables are published where there are none.

    A checkpoint more than `far_behind` messages behind the tables is dropped: the stream begins at their end.
    Raises `UserError` where the tables have another log or other formulas, or more messages than the log: a stream cannot
    correct earlier rows.
    """
    home = store.home
    mark, generation = fingerprint(), log_generation(home)
    folder = table_versions.current(home)
    if folder is not None:
        manifest = table_versions.manifest_of(folder)
        if manifest.log_generation != generation:
            raise UserError(
                f"the tables at {home.offline} are of a log since replaced: run `velo build`, then start the stream"
            )
        if manifest.fingerprint != mark:
            # a process has the formulas of today's catalogue alone: those of the tables cannot go on
            raise UserError(
                f"the tables at {home.offline} have other formulas than the catalogue ({differing_views(manifest)}): "
                "run `velo apply`, or take the edit back, then start the stream"
            )
    streamed, log_end = position(home), reader.end(home).next_seq
    if streamed is not None and streamed.log_generation == generation and streamed.sealed_seq > log_end:
        raise cut_back(home, log_end, streamed.sealed_seq)
    store = store.save()
    if folder is None:
        with table_versions.sole_publisher(home):
            store, epoch = store.with_epoch_of(mark)
            views = at_epochs(view_formulas(), set(), None, epoch)
            rows = {family.view: 0 for family in FAMILIES}
            manifest = Manifest(generation, 0, NOTHING_KNOWN, mark, epoch, rows, views)
            begun = table_versions.begin(home)
            add_empty_parts(begun)
            folder = table_versions.publish(home, begun, manifest)
    else:
        with table_versions.changing_parts(home):
            add_empty_parts(folder)
    manifest = table_versions.manifest_of(folder)
    # from a checkpoint far behind the tables, the stream would make again what a build has made
    superseded = manifest.next_seq - sealed_into(home, manifest) > far_behind
    recovery = _recovery(home, f"log{generation}-epoch{manifest.epoch}", new=superseded)
    return StreamPlan(store, TableVersion.of(manifest), manifest.next_seq, recovery)


def add_empty_parts(generation: Path) -> None:
    """Add a part without rows to each view that has no part, as a build does: readers find the columns in it."""
    import pyarrow.parquet as pq

    for family in FAMILIES:
        folder = generation / family.view
        folder.mkdir(exist_ok=True)
        if not any(folder.glob("*.parquet")):
            part = folder / f"{table_versions.batch_part_name(0)}.parquet"
            aside = part.with_name(f".{part.name}.tmp")
            pq.write_table(schema_of(family).empty_table(), aside, compression="lz4")
            aside.replace(part)


def _recovery(home: Home, name: str, *, new: bool) -> Path:
    """Return the recovery store of a log and epoch, created where missing or to be `new`; those of others are removed."""
    folder = make_folder(home.recovery) / name
    for other in home.recovery.iterdir():
        if new or other != folder:
            shutil.rmtree(other)
    if not folder.exists():
        aside = home.recovery / f".{name}.tmp"
        aside.mkdir()
        with error_if_full(home):
            init_db_dir(aside, RECOVERY_PARTS)
        aside.rename(folder)
    return folder


@contextmanager
def error_if_full(home: Home) -> Iterator[None]:
    """Turn the engine's panic over a full disk, which is not an Exception, or its RuntimeError over it, into a `UserError`."""
    try:
        yield
    except BaseException as failed:
        panicked = type(failed).__name__ == "PanicException"
        little = panicked and shutil.disk_usage(home.root).free < LITTLE_ROOM
        if not little and "DiskFull" not in str(failed):
            raise
        raise UserError(
            f"cannot write to {home.recovery} (No space left on device): make room, then start the stream again; it "
            "resumes from its last snapshot"
        ) from None
