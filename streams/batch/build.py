"""`velo build`: compute every feature table from the log in SQL, and publish them in one step."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES, Family, own_measures
from velo.feature_repo.stores.fills import refuse_numberless_fills
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.storage import part_sums, table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log.format import generation as log_generation
from velo.storage.log.reader import LogEnd
from velo.storage.store import Home, Store
from velo.storage.table_versions import Manifest, ViewFormulas
from velo.streams.batch import render, staging
from velo.streams.batch.changed_rows import ChangedStarts
from velo.streams.batch.formulas import at_epochs, fingerprint, steps, view_formulas
from velo.streams.batch.measured_starts import WholeColumns, joined, read
from velo.streams.batch.newest_known import make_recents

if TYPE_CHECKING:
    from velo.streams.spark.engine import SparkEngine


MEMORY_LIMIT: Final = "3GB"
LEAST_BYTES: Final = 2**14
MERGED_BYTES: Final = 2**22
"""Parts of a view between these sizes differ in size; larger parts are not merged."""
ROW_GROUP: Final = 122_880
"""Rows of a row group, of which a point-in-time join reads those that it needs."""
BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)
Progress = Callable[[str, int, int], None]
"""Called with the step that begins, the number of steps done, and their total."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The outcome of a build: rows by view in the published generation, how many of them are new, and the views that were
    computed from the whole log."""

    rows: dict[str, int]
    added: dict[str, int]
    computed: tuple[str, ...]
    messages: int
    known_at: datetime
    epoch: int
    whole: bool
    generation: Path


def build(
    store: Store,
    now: datetime,
    *,
    whole: bool = False,
    wait: bool = False,
    families: tuple[Family, ...] = FAMILIES,
    progress: Progress = lambda step, done, steps: None,
    memory_limit: str = MEMORY_LIMIT,
    spark: "SparkEngine | None" = None,
    jurisdiction: Jurisdiction = DEFAULT,
) -> BuildReport:
    """Bring the offline tables up to the log's end and publish them.

    Only messages since the last build are computed, and all of the log for views whose formulas changed. If the log was
    replaced, or for `whole`, which uses nothing that an earlier build kept, everything is. The tables have the same values
    either way, and also if `spark` does the work. `now` becomes the rows' `created_timestamp`. Raises `UserError` for an
    empty log, a folder that cannot be written, a damaged file, or another build that runs, unless it is to `wait` for that.
    """
    home = store.home
    make_folder(home.root)
    with table_versions.sole_publisher(home, wait=wait):
        steps_in_all = len(families) + 3
        progress("measure starts", 0, steps_in_all)
        spread = spark.spread if spark else staging.on_threads
        columns: WholeColumns = {}
        log_end = staging.measure_new(
            home,
            memory_limit,
            spread,
            whole=whole,
            jurisdiction=jurisdiction,
            own=own_measures(families),
            columns=columns,
        )
        assert log_end.known_at is not None
        task = _task(home, log_end.next_seq, families, jurisdiction, whole=whole)
        before = task.continued
        if before and (before[1].next_seq, before[1].fingerprint) == (log_end.next_seq, task.fingerprint):
            return _nothing_new(*before)
        if task.published is not None and not whole:
            part_sums.refuse_changed(task.published[0])
        # a view that is unchanged needs no work but for new messages
        due = [
            family
            for family in families
            if before is None or family.view not in task.kept or before[1].next_seq < log_end.next_seq
        ]
        progress("lay out starts", 1, steps_in_all)
        folder = table_versions.begin(home, before[0] if before else None, task.kept)
        part = table_versions.batch_part_name(log_end.next_seq)
        span = BuildSpan(dict.fromkeys(task.kept, before[1].known_at) if before else {}, log_end.known_at, now)
        writes = _write(store, due, folder, part, span, spark, columns)
        added = dict.fromkeys((family.view for family in families), 0)
        for done, (view, count) in enumerate(writes, start=3):
            added[view] = count
            progress(view, done, steps_in_all)
        _link_staged(home, folder)
        manifest = _manifest(store, task, log_end, added)
        folder = table_versions.publish(home, folder, manifest)
        progress("done", steps_in_all, steps_in_all)
        computed = tuple(view for view in added if view not in task.kept)
        reached = manifest.next_seq, manifest.known_at, manifest.epoch
        return BuildReport(manifest.rows, added, computed, *reached, whole=before is None, generation=folder)


@dataclass(frozen=True, slots=True)
class _Task:
    """What a build starts from: the current generation, today's formulas, and the views that still have theirs.

    `continued` is the current generation where its unchanged views (`kept`) need only what is new, else None.
    """

    published: tuple[Path, Manifest] | None
    fingerprint: str
    views: dict[str, ViewFormulas]
    unchanged: set[str]
    continued: tuple[Path, Manifest] | None

    @property
    def kept(self) -> set[str]:
        """The views whose rows are taken over."""
        return self.unchanged if self.continued else set()


def _task(home: Home, next_seq: int, families: tuple[Family, ...], jurisdiction: Jurisdiction, *, whole: bool) -> _Task:
    published = _published(home, next_seq, whole=whole)
    mark, views = fingerprint(families, jurisdiction), view_formulas(families, jurisdiction)
    unchanged = published[1].unchanged(mark, views) if published else set()
    same_log = published is not None and published[1].log_generation == log_generation(home)
    # the empty tables that a stream begins with have nothing to continue from
    continued = published is not None and published[1].next_seq > 0 and same_log and unchanged and not whole
    return _Task(published, mark, views, unchanged, published if continued else None)


def _manifest(store: Store, task: _Task, log_end: LogEnd, added: dict[str, int]) -> Manifest:
    """Return the manifest of the tables to publish; a view whose formulas changed gets a new epoch."""
    before = task.published[1] if task.published else None
    if before is not None and before.fingerprint == task.fingerprint:
        epoch = before.epoch
    else:
        epoch = store.with_epoch_of(task.fingerprint)[1]
        refuse_numberless_fills(store.home, task.views.keys() - task.unchanged)
    held = task.continued[1].rows if task.continued else {}
    rows = {view: count + (held[view] if view in task.kept else 0) for view, count in added.items()}
    assert log_end.known_at is not None
    views = at_epochs(task.views, task.unchanged, before, epoch)
    reached = log_generation(store.home), log_end.next_seq, log_end.known_at
    return Manifest(*reached, task.fingerprint, epoch, rows, views)


def _nothing_new(folder: Path, manifest: Manifest) -> BuildReport:
    """Return the report of a build that found all of the log in the tables."""
    added = dict.fromkeys(manifest.rows, 0)
    reached = manifest.next_seq, manifest.known_at, manifest.epoch
    return BuildReport(manifest.rows, added, (), *reached, whole=False, generation=folder)


@dataclass(frozen=True, slots=True)
class BuildSpan:
    """The rows to write: `after` an instant, which differs by view (the beginning where none is given), up to `until`.

    `created` becomes their `created_timestamp`.
    """

    after: Mapping[str, datetime]
    until: datetime
    created: datetime

    def of(self, view: str) -> dict[str, datetime]:
        """The instants of a view's queries."""
        return {"$after": self.after.get(view, BEGINNING), "$until": self.until, "$created": self.created}


def _write(
    store: Store,
    families: Sequence[Family],
    folder: Path,
    part: str,
    span: BuildSpan,
    spark: "SparkEngine | None",
    columns: WholeColumns,
) -> Iterator[tuple[str, int]]:
    """Write each family's rows in the `span` into a part of its view's folder; yields views with their new rows.

    Spark divides one family between the cores; arrays compute several families at a time.
    """
    for family in families:
        (folder / family.view).mkdir(exist_ok=True)
    if spark:
        spark.lay_out(store.home, store.timezone, families)
        for family in families:
            yield family.view, spark.write(family, folder / family.view, part, span.of(family.view))
        return
    continued = [family for family in families if family.view in span.after]
    fresh = [family for family in families if family not in continued]
    try:
        if continued:
            changed = ChangedStarts(store.home, store.timezone, span.after[continued[0].view], span.until, columns)

            def write(family: Family, tables: Iterator[pa.Table]) -> tuple[str, int]:
                rows = write_rows(tables, folder / family.view / f"{part}.parquet")
                _merge_last(folder / family.view, family)
                return family.view, rows

            with ThreadPoolExecutor(staging.cores()) as pool:
                written = deque[Future[tuple[str, int]]]()
                # the starts of a view are read while the rows of others are computed, and no further ahead
                for of_family in changed.tables(continued, span.created):
                    written.append(pool.submit(write, *of_family))
                    if len(written) > staging.cores():
                        yield written.popleft().result()
                yield from (each.result() for each in written)
        if fresh:
            yield from _write_all(store, fresh, folder, part, span)
    except (OSError, pa.ArrowInvalid) as failed:
        raise UserError(staging.unreadable(store.home, failed)) from failed


def _write_all(
    store: Store, families: Sequence[Family], folder: Path, part: str, span: BuildSpan
) -> Iterator[tuple[str, int]]:
    """As `_write`, of all starts: a family on each core."""
    every = ChangedStarts(store.home, store.timezone, None, span.until)
    keys = every.all_keys(families)

    def write(family: Family) -> tuple[str, int]:
        tables = every.all_tables(family, keys, span.created)
        return family.view, write_rows(tables, folder / family.view / f"{part}.parquet", even_empty=True)

    with ThreadPoolExecutor(staging.cores()) as pool:
        yield from pool.map(write, families)


def write_rows(tables: Iterable[pa.Table], part: Path, *, even_empty: bool = False) -> int:
    """Write tables to a part, and return the number of their rows; without rows there is no part, unless `even_empty`."""
    rows = 0
    with ExitStack() as open_part:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            if writer is None and (table.num_rows or even_empty):
                # a dictionary of doubles takes longest of all, and the columns of keys must be read as texts
                repeating = [
                    name for name in table.schema.names if not pa.types.is_float64(table.schema.field(name).type)
                ]
                options = {"compression": "lz4", "use_dictionary": repeating, "store_schema": False}
                writer = open_part.enter_context(pq.ParquetWriter(part, table.schema, **options))
            if writer is not None:
                writer.write_table(table, row_group_size=ROW_GROUP)
            rows += table.num_rows
    return rows


def _merge_last(folder: Path, family: Family) -> None:
    """Merge the last parts of a view where `staging.MERGED_AT_ONCE` are of a size, and again after that.

    So a store that is built daily for years links a few dozen parts of a view, not thousands.
    """
    while True:
        parts = sorted(folder.glob("batch-*.parquet"))[-staging.MERGED_AT_ONCE :]
        if not staging.of_a_size([part.stat().st_size for part in parts], LEAST_BYTES, MERGED_BYTES):
            return
        rows = joined(map(read, parts))
        order = [(name, "ascending") for name in (*family.keys, "event_timestamp")]
        aside = parts[-1].with_name(f".{parts[-1].name}")
        pq.write_table(rows.take(pc.sort_indices(rows, order)), aside, compression="lz4")
        for part in parts[:-1]:
            part.unlink()
        aside.replace(parts[-1])


def _published(home: Home, next_seq: int, *, whole: bool) -> tuple[Path, Manifest] | None:
    """Return the current generation; None where there is none, or a `whole` build finds it damaged.

    Raises `UserError` where the log lost records that the tables have: rebuilt tables would hide the loss.
    """
    folder = table_versions.current(home)
    if folder is None:
        return None
    try:
        manifest = table_versions.manifest_of(folder)
    except UserError:
        if whole:
            return None
        raise
    if not whole and manifest.log_generation == log_generation(home) and manifest.next_seq > next_seq:
        raise UserError(
            f"the log at {home.log} ends before record {next_seq}, but the tables hold all before {manifest.next_seq}: "
            "load again what it lost or restore the log from a backup, or run `velo build --whole` to do without"
        )
    return folder, manifest


def _link_staged(home: Home, folder: Path) -> None:
    """Link the staged messages and measured starts beside the features, and remove older ones."""
    for kind in staging.KINDS:
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
        for part in staging.parts_of(home, kind):
            os.link(part, folder / kind / part.name)


def write_family(connection: duckdb.DuckDBPyConnection, family: Family, part: Path, bound: dict[str, datetime]) -> int:
    """Write a family's rows after `$after`, up to `$until`, from the table `starts`; returns their number."""
    for table, text in steps(family):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {_bind(text, bound)}")
    if family.recent:
        make_recents(connection, family)
    target = str(part).replace("'", "''")
    written = connection.execute(
        f"COPY ({_bind(render.table(family), bound)}) TO '{target}' (FORMAT parquet, COMPRESSION lz4)"
    ).fetchall()
    for table in (*(table for table, _ in steps(family)), *(["recents"] if family.recent else [])):
        connection.execute(f"DROP TABLE {table}")
    return int(written[0][0])


def _bind(text: str, values: dict[str, datetime]) -> str:
    """Return the query with its instants as literals, since CREATE TABLE takes no parameters."""
    for name, instant in values.items():
        text = text.replace(name, f"TIMESTAMPTZ '{instant.astimezone(UTC).isoformat()}'")
    return text


def compact(
    store: Store, *, progress: Callable[[str, int, int], None] = lambda step, done, steps: None
) -> dict[str, int]:
    """Merge the parts of every view, in order of key and time; returns the former number of parts by view.

    The rows stay the same to the bit. Raises `UserError` before the first build.
    """
    home = store.home
    with table_versions.sole_publisher(home), staging.scratch_connection(home, MEMORY_LIMIT) as connection:
        before = table_versions.current(home)
        if before is None:
            raise UserError(f"there are no tables at {home.offline}: run `velo build` first")
        part_sums.refuse_damaged(before)
        folder = table_versions.begin(home, before)
        merged = {}
        manifest = table_versions.manifest_of(before)
        for done, family in enumerate(FAMILIES):
            progress(f"compact {family.view}", done, len(FAMILIES))
            parts = sorted((folder / family.view).rglob("*.parquet"))
            merged[family.view] = len(parts)
            if len(parts) > 1:
                target = folder / family.view / f"compact-{manifest.next_seq:012d}.parquet"
                order = ", ".join((*family.keys, "event_timestamp"))
                ordered = f"SELECT * FROM {staging.parquet(parts)} ORDER BY {order}"  # noqa: S608 our own names
                staging.keep(connection, ordered, target)
                for part in parts:
                    # a part compacted before at the same position has the new part's name
                    if part != target:
                        part.unlink()
        table_versions.publish(home, folder, manifest)
        return merged
