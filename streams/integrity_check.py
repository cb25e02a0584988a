"""Find damage in a store after a command failed with an unexpected error, to report the remedy instead of a traceback.

The log has checks of its own (`reader.check`, and every reader's), and so have model bundles.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.feature_repo.catalogue.families import FAMILIES
from velo.storage import part_sums, table_versions
from velo.storage.store import Home
from velo.streams.batch import staging

LITTLE_ROOM: Final = 2**20
"""Free bytes below which nothing can be expected to work."""


def found(home: Home) -> str | None:
    """Return the first damage of a store with its remedy, in one line; None where all files that can be checked are intact."""
    for check in _CHECKS:
        try:
            check(home)
        except UserError as damage:
            return str(damage)
    return None


def _refuse_full_disk(home: Home) -> None:
    if home.root.is_dir() and shutil.disk_usage(home.root).free < LITTLE_ROOM:
        raise UserError(f"{home.root} is on a disk without room: make room there, then repeat the command")


def refuse_unreadable_recovery(home: Home) -> None:
    """Raise `UserError` where the stream's recovery store is damaged or incomplete."""
    for folder in sorted(home.recovery.glob("[!.]*")):
        parts = sorted(folder.glob("*.sqlite3"))
        for part in parts:
            try:
                with closing(sqlite3.connect(f"{part.as_uri()}?mode=ro", uri=True)) as connection:
                    report = [str(line) for (line,) in connection.execute("PRAGMA quick_check")]
            except sqlite3.OperationalError:
                # it cannot be opened now, as on a full disk: that is not damage
                continue
            except sqlite3.Error as unreadable:
                report = [str(unreadable)]
            if report != ["ok"]:
                raise _unrecoverable(part, f"is damaged ({report[0]})")
        if not parts or _part_count(parts[0]) not in (None, len(parts)):
            raise _unrecoverable(folder, "has lost a part")


def _part_count(part: Path) -> int | None:
    """Return the number of parts that a recovery store was made with; None if unreadable."""
    try:
        with closing(sqlite3.connect(f"{part.as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT part_count FROM parts").fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else int(row[0])


def _unrecoverable(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}: remove {path.parent if path.is_file() else path}, then start the stream again; it computes its "
        "state from the log"
    )


def _refuse_unreadable_tables(home: Home) -> None:
    folder = table_versions.current(home)
    if folder is None:
        return
    table_versions.manifest_of(folder)
    part_sums.refuse_damaged(folder)
    for family in FAMILIES:
        for part in sorted((folder / family.view).glob("*.parquet")):
            _refuse_unreadable(part)


def _refuse_unreadable_batch(home: Home) -> None:
    for kind in staging.KINDS:
        for part in staging.parts_of(home, kind):
            _refuse_unreadable(part)


def _refuse_unreadable(part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError) as unreadable:
        line = str(unreadable).partition("\n")[0]
        raise UserError(
            f"{part} cannot be read ({line}): run `velo build --whole`, which computes all tables from the log"
        ) from None


_CHECKS: Final[tuple[Callable[[Home], None], ...]] = (
    _refuse_full_disk,
    refuse_unreadable_recovery,
    _refuse_unreadable_tables,
    _refuse_unreadable_batch,
)
