"""The Parquet parts of a feature table: found all at once, added one whole file at a time. Knows nothing of Feast.

`$VELO_HOME/offline` links to the current generation, a folder that holds a folder a view. A reader that follows the
link once stays within one generation, whatever is published meanwhile.
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
    """One look at the feature tables: every view asked for comes from the same generation.

    Make one a query; it remembers where each link led when it was first followed.
    """

    def __init__(self) -> None:
        self._led_to: dict[Path, Path] = {}

    def folder(self, table: Path) -> Path:
        """A view's folder without links, or a single file; the link above it is followed once a snapshot."""
        above = self._led_to.get(table.parent)
        if above is None:
            above = self._led_to[table.parent] = Path(os.path.realpath(table.parent))
        return above / table.name

    def parts(self, table: Path) -> list[str]:
        """The finished parts of a view, sorted; empty for a view without rows.

        Raises `UserError` where no feature tables were ever built, or by a catalogue without this view.
        """
        folder = self.folder(table)
        if folder.is_file():
            return [str(folder)]
        if not folder.parent.is_dir():
            raise UserError(f"there are no feature tables at {table.parent}: run `velo build` first")
        if not folder.is_dir():
            raise UserError(
                f"the feature tables at {table.parent} have no {table.name}: run `velo build` to have it added"
            )
        return sorted(
            str(part)
            for part in folder.glob("**/*.parquet")
            if not any(name.startswith((".", "_")) for name in part.relative_to(folder).parts)
        )


def add_part(table: Path, rows: "pa.Table") -> Path:
    """Add rows to a view as one new part, which readers see whole or not at all; returns the part.

    The next full build makes a new generation from the log alone, without it.
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
