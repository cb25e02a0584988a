"""List the Parquet parts of a feature table, and add a part. Does not import Feast.

`$VELO_HOME/offline` links to the current generation, a folder with one folder per view. A reader that resolves the link
once stays within one generation, whatever is published meanwhile.
"""

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from velo.errors import UserError
from velo.storage.atomic_files import make_folder, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa


class Snapshot:
    """Reads several views from the same generation: resolves each link once. Make one snapshot per query."""

    def __init__(self) -> None:
        self._resolved: dict[Path, Path] = {}

    def folder(self, table: Path) -> Path:
        """A view's folder, or single file, with the link above it resolved."""
        above = self._resolved.get(table.parent)
        if above is None:
            above = self._resolved[table.parent] = Path(os.path.realpath(table.parent))
        return above / table.name

    def parts(self, table: Path) -> list[str]:
        """The complete parts of a view, sorted; empty for a view without rows.

        Raises `UserError` if no tables were built, or if the catalogue they were built from lacked this view.
        """
        folder = self.folder(table)
        if folder.is_file():
            return [str(folder)]
        if not folder.parent.is_dir():
            raise UserError(f"there are no feature tables at {table.parent}: run `velo build` first")
        if not folder.is_dir():
            raise UserError(f"the feature tables at {table.parent} have no {table.name}: run `velo build` to add it")
        return sorted(
            str(part)
            for part in folder.glob("**/*.parquet")
            if not any(name.startswith((".", "_")) for name in part.relative_to(folder).parts)
        )


def add_part(table: Path, rows: "pa.Table") -> Path:
    """Add rows to a view as one new part and return its path. Readers see the whole part or nothing of it.

    The next full build rebuilds the tables from the log and drops the part.
    """
    import pyarrow.parquet as pq

    folder = make_folder(Snapshot().folder(table))
    part = folder / f"part-{uuid.uuid4().hex}.parquet"
    aside = part.with_name(f".{part.name}.tmp")
    pq.write_table(rows, aside, compression="zstd")
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(part)
    sync_folder(folder)
    return part
