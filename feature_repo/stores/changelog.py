"""A view's changelog, and DuckDB queries over its rows and the newest row of each key. Does not import Feast."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from velo.errors import UserError
from velo.storage import locks

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SQL_TYPES: Final = {
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "binary": "BLOB",
    "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
}
"""SQL type by Arrow's name of a type; any other type is text."""


BY_NAME: Final = "union_by_name = true"
"""The option of `scan` that reads parts with different columns; a column that a part lacks is null there."""
PART: Final = "__velo_part"
"""Column of every scan: the path of the row's part."""
SPILL_PREFIX: Final = "velo-spill-"
MOST_SPILL_BYTES: Final = 20 * 10**9
SPILL_SHARE_OF_FREE: Final = 0.5


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """A feature to fetch: its column in the table, its name in the result, its type if the table is empty."""

    source: str
    name: str
    kind: "pa.DataType"


@dataclass(frozen=True, slots=True)
class Table:
    """One view's changelog: finished Parquet parts, and the meaning of their columns.

    `keys` pairs each key column of the table with its column of the entity rows. A row older than `ttl` at an entity
    row's instant is ignored. Of several rows of one key and instant the one created last counts.
    """

    view: str
    parts: Sequence[str]
    keys: Sequence[tuple[str, str]]
    event: str
    created: str | None
    columns: Sequence[FeatureColumn]
    ttl: timedelta | None = None

    @property
    def scan(self) -> str:
        """SQL of the table's rows; empty, with types, if there are no parts."""
        if self.parts:
            return scan(self.parts, f"{BY_NAME}, filename = '{PART}'")
        empty = [f"NULL::VARCHAR AS {name(key)}" for key, _ in self.keys]
        empty += [f"NULL::TIMESTAMPTZ AS {name(column)}" for column in (self.event, self.created) if column]
        empty += [
            f"NULL::{SQL_TYPES.get(str(column.kind), 'VARCHAR')} AS {name(column.source)}" for column in self.columns
        ]
        return f"(SELECT {', '.join(empty)}, NULL::VARCHAR AS {PART} WHERE false)"


@contextmanager
def engine(memory_limit: str, threads: int | None = None) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Open a DuckDB in UTC that spills to a temporary folder, up to `spill_limit`."""
    import duckdb

    with spill_folder() as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "temp_directory": str(spill),
                "max_temp_directory_size": spill_limit(spill),
                "threads": threads or os.cpu_count() or 1,
            }
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        except duckdb.OutOfMemoryException as full:
            raise UserError(
                f"the query needs more than memory_limit {memory_limit!r} ({full}): raise it under offline_store in "
                "feature_store.yaml, or ask for fewer entity rows at a time"
            ) from None
        finally:
            connection.close()


@contextmanager
def spill_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for DuckDB to spill to: locked while in use, then removed. Folders of killed processes are removed first.

    `parent` is by default the system's temporary folder.
    """
    above = parent or Path(tempfile.gettempdir())
    _remove_abandoned(above)
    folder, lock = _new_spill_folder(above)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def spill_limit(folder: Path) -> str:
    """The limit of DuckDB's spill files in a folder: half of the free space, at most 20 GB."""
    return f"{int(min(MOST_SPILL_BYTES, SPILL_SHARE_OF_FREE * shutil.disk_usage(folder).free)) // 10**6}MB"


def _new_spill_folder(above: Path) -> tuple[Path, int]:
    """A new folder and its lock. Another process may remove the folder before it is locked: then the next is made."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SPILL_PREFIX, dir=above))
        try:
            return folder, locks.acquire(folder, wait=True, flags=os.O_RDONLY)
        except FileNotFoundError:
            continue


def _remove_abandoned(above: Path) -> None:
    """Remove the spill folders that no process has locked."""
    for folder in above.glob(f"{SPILL_PREFIX}*"):
        try:
            # the folder itself is locked: a lock file in it would vanish with it under a process that just opened it
            lock = locks.acquire(folder, flags=os.O_RDONLY | os.O_NOFOLLOW)
        except (locks.LockHeld, OSError):  # in use, removed meanwhile, or another user's
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def latest_sql(
    scan: str,
    keys: Sequence[str],
    columns: Sequence[str],
    event: str,
    created: str | None,
    touched: str = "true",
) -> str:
    """Return SQL for the newest row of each key up to $until, for keys with a row for which `touched` holds.

    Finds each key's latest instant in the key and time columns, then fetches the wide rows.
    """
    names = ", ".join(name(key) for key in keys)
    wanted = ", ".join(f"f.{name(column)}" for column in (*keys, *columns, event, *((created,) if created else ())))
    on = " AND ".join(f"f.{name(key)} = newest.{name(key)}" for key in keys)
    order = f"f.{name(created)} DESC NULLS LAST" if created else "1"
    partition = ", ".join(f"f.{name(key)}" for key in keys)
    return f"""
        WITH newest AS (
            SELECT {names}, max({name(event)}) AS __newest FROM {scan}
            WHERE {instant(event)} <= $until GROUP BY {names} HAVING bool_or({touched})
        )
        SELECT {wanted} FROM {scan} f JOIN newest ON {on} AND f.{name(event)} = newest.__newest
        QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY {order}) = 1
    """  # noqa: S608 names are quoted, values are bound


def scan(parts: Iterable[str | Path], options: str = "") -> str:
    """Return the SQL of the rows of Parquet files; `options` are more options of DuckDB's `read_parquet`.

    A folder whose name has an equals sign adds no column.
    """
    files = ", ".join(text(str(part)) for part in parts)
    return f"read_parquet([{files}], hive_partitioning = false{', ' if options else ''}{options})"


def within_sql(event: str, start: datetime | None, end: datetime | None) -> tuple[str, dict[str, datetime]]:
    """Return an SQL condition on the event time, and its values: from `start` through `end`; None is unbounded."""
    values = {key: value for key, value in (("since", start), ("until", end)) if value is not None}
    conditions = [f"{instant(event)} {'>=' if key == 'since' else '<='} ${key}" for key in values]
    return " AND ".join(conditions) or "true", values


def instant(column: str) -> str:
    """Return SQL that reads a column as an instant in µs, whatever its unit in the file."""
    return f"{name(column)}::TIMESTAMPTZ"


def name(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def text(literal: str) -> str:
    """Quote a string literal for SQL."""
    return "'" + literal.replace("'", "''") + "'"
