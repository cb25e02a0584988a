"""`velo build`: compute every feature table from the log in SQL, and publish them in one step."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from velo.errors import UserError
from velo.feature_repo.catalogue import request_time
from velo.feature_repo.catalogue.families import FAMILIES, Family, own_measures
from velo.racing.jurisdiction import DEFAULT, Jurisdiction
from velo.storage import table_versions
from velo.storage.atomic_files import make_folder
from velo.storage.log.format import generation as log_generation
from velo.storage.store import Home, Store
from velo.storage.table_versions import Manifest
from velo.streams.batch import render, staging

if TYPE_CHECKING:
    from velo.streams.spark.engine import SparkEngine


MEMORY_LIMIT: Final = "3GB"
BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)
Progress = Callable[[str, int, int], None]
"""Called with the step that begins, the number of steps done, and their total."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The outcome of a build: rows by view in the published generation, and how many of them are new."""

    rows: dict[str, int]
    added: dict[str, int]
    messages: int
    known_at: datetime
    epoch: int
    whole: bool
    generation: Path


def fingerprint(families: tuple[Family, ...] = FAMILIES, jurisdiction: Jurisdiction = DEFAULT) -> str:
    """Return the identity of the formulas: a hash of the queries that make every table, and of those that measure a start.

    A user's own request-time formulas count too, though no table has them: models are trained on their values.
    """
    queries = staging.formulas(jurisdiction, own_measures(families)) + "".join(
        text for family in families for text in _queries(family)
    )
    queries += "".join(view.definition for view in request_time.OWN_VIEWS)
    return blake2b(queries.encode(), digest_size=16).hexdigest()


def build(
    store: Store,
    now: datetime,
    *,
    whole: bool = False,
    families: tuple[Family, ...] = FAMILIES,
    progress: Progress = lambda step, done, steps: None,
    memory_limit: str = MEMORY_LIMIT,
    spark: "SparkEngine | None" = None,
    jurisdiction: Jurisdiction = DEFAULT,
) -> BuildReport:
    """Bring the offline tables up to the log's end and publish them.

    Only messages since the last build are computed, unless the formulas or the log changed, or `whole`, which uses nothing
    that an earlier build kept. The tables have the same values either way, and also if `spark` does the work. `now` becomes
    the rows' `created_timestamp`. Raises `UserError` for an empty log, a folder that cannot be written, a damaged file, or
    another build that runs.
    """
    home = store.home
    make_folder(home.root)
    with table_versions.sole_publisher(home), staging.scratch_connection(home, memory_limit) as connection:
        steps = len(families) + 3
        progress("measure starts", 0, steps)
        spread = spark.spread if spark else staging.on_threads
        log_end = staging.measure_new(
            home, memory_limit, spread, whole=whole, jurisdiction=jurisdiction, own=own_measures(families)
        )
        until = log_end.known_at
        assert until is not None
        if not whole:
            _refuse_shorter_log(home, log_end.next_seq)
        store, epoch = store.with_epoch_of(fingerprint(families, jurisdiction))
        before = None if whole else _continued(home, epoch, log_end.next_seq)
        if before is not None and before[1].next_seq == log_end.next_seq:
            return _nothing_new(*before)
        published = None if whole else table_versions.current(home)
        if published is not None:
            table_versions.refuse_damaged(published)
        progress("lay out starts", 1, steps)
        if spark:
            spark.lay_out(home, store.timezone, families)
        else:
            staging.lay_out(connection, home, store.timezone, families)
        folder = table_versions.begin(home, before[0] if before else None)
        part = table_versions.batch_part_name(log_end.next_seq)
        bound = {"$after": before[1].known_at if before else BEGINNING, "$until": until, "$created": now}
        engine = spark or connection
        added = _write_all(families, folder, part, bound, engine, lambda view, done: progress(view, done, steps))
        _link_staged(home, folder)
        rows = {view: count + (before[1].rows.get(view, 0) if before else 0) for view, count in added.items()}
        manifest = Manifest(log_generation(home), log_end.next_seq, until, store.epochs[-1], epoch, rows)
        folder = table_versions.publish(home, folder, manifest)
        progress("done", steps, steps)
        return BuildReport(rows, added, log_end.next_seq, until, epoch, whole=before is None, generation=folder)


def _nothing_new(folder: Path, manifest: Manifest) -> BuildReport:
    """Return the report of a build that found all of the log in the tables."""
    added = dict.fromkeys(manifest.rows, 0)
    reached = manifest.next_seq, manifest.known_at, manifest.epoch
    return BuildReport(manifest.rows, added, *reached, whole=False, generation=folder)


def _write_all(
    families: tuple[Family, ...],
    folder: Path,
    part: str,
    bound: dict[str, datetime],
    engine: "SparkEngine | duckdb.DuckDBPyConnection",
    wrote: Callable[[str, int], None],
) -> dict[str, int]:
    """Write each family's rows in the span `bound` into a part of its view's folder, on all cores; returns rows by view.

    Spark divides one family between the cores itself; DuckDB gets several families at a time.
    """

    def write(family: Family) -> int:
        view = folder / family.view
        view.mkdir(exist_ok=True)
        if not isinstance(engine, duckdb.DuckDBPyConnection):
            return engine.write(family, view, part, bound)
        with engine.cursor() as own:
            own.execute("SET TimeZone = 'UTC'")
            return write_family(own, family, view / f"{part}.parquet", bound)

    at_once = staging.cores() if isinstance(engine, duckdb.DuckDBPyConnection) else 1
    added = {}
    with ThreadPoolExecutor(at_once) as pool:
        for done, (family, count) in enumerate(zip(families, pool.map(write, families), strict=True), start=3):
            added[family.view] = count
            wrote(family.view, done)
    return added


def _refuse_shorter_log(home: Home, next_seq: int) -> None:
    """Raise `UserError` where the log lost records that the tables have: rebuilt tables would hide the loss."""
    folder = table_versions.current(home)
    if folder is None:
        return
    manifest = table_versions.manifest_of(folder)
    if manifest.log_generation == log_generation(home) and manifest.next_seq > next_seq:
        raise UserError(
            f"the log at {home.log} ends before record {next_seq}, but the tables hold all before {manifest.next_seq}: "
            "load again what it lost or restore the log from a backup, or run `velo build --whole` to do without"
        )


def _link_staged(home: Home, folder: Path) -> None:
    """Link the staged messages and measured starts beside the features, and remove older ones."""
    for kind in staging.KINDS:
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
        for part in staging.parts_of(home, kind):
            os.link(part, folder / kind / part.name)


def _continued(home: Home, epoch: int, next_seq: int) -> tuple[Path, Manifest] | None:
    """Return the current generation if it has the same log and formulas and does not reach beyond the log's end."""
    folder = table_versions.current(home)
    if folder is None:
        return None
    manifest = table_versions.manifest_of(folder)
    same = (manifest.log_generation, manifest.epoch) == (log_generation(home), epoch)
    return (folder, manifest) if same and manifest.next_seq <= next_seq else None


def _queries(family: Family) -> list[str]:
    """Return the queries of a family in the order in which they run; the last one makes its table."""
    return [text for _, text in _steps(family)] + [render.table(family)]


def _steps(family: Family) -> list[tuple[str, str]]:
    steps = [
        ("keys", render.key_ids(family)),
        ("days_out_of_order", render.days_out_of_order(family)),
        ("moments", render.moments(family)),
        ("touched", render.touched(family)),
        ("deltas", render.deltas(family)),
        ("changes", render.changes(family)),
    ]
    if family.windows:
        steps.append(("late_losses", render.late_losses(family)))
    if family.recent:
        steps.append(("recents", render.recents(family)))
    return steps


def write_family(connection: duckdb.DuckDBPyConnection, family: Family, part: Path, bound: dict[str, datetime]) -> int:
    """Write a family's rows after `$after`, up to `$until`; returns their number."""
    for table, text in _steps(family):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {_bind(text, bound)}")
        if table == "touched":
            # the later steps then compute only the keys that the new messages change
            connection.execute("DELETE FROM keys WHERE key_id NOT IN (FROM touched)")
            connection.execute("DELETE FROM moments WHERE key_id NOT IN (FROM touched)")
    target = str(part).replace("'", "''")
    written = connection.execute(
        f"COPY ({_bind(render.table(family), bound)}) TO '{target}' (FORMAT parquet, COMPRESSION lz4)"
    ).fetchall()
    for table, _ in _steps(family):
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
        table_versions.refuse_damaged(before)
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
