"""Generations of the offline tables: a reader sees one whole, whatever is published meanwhile.

`$VELO_HOME/offline` is a link to one folder of `generations/`; a new generation is made aside (parts of the one before
it are hard links, so it costs only what is new) and the link is swung over in one step. The generation before stays,
for readers that have just resolved the link.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final

from velo.errors import UserError
from velo.files import make_folder, sync_folder, write_atomically
from velo.racing.clock import from_text, to_text
from velo.store import Home

MANIFEST: Final = "manifest.json"
KEPT: Final = 2
"""How many generations stay: the current one and the one before."""


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
    with (home.generations / ".lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another build is writing to {home.root}: wait for it to end, then run this one again"
            ) from None
        for left in (*home.generations.glob(".*.tmp"), *home.batch.glob("scratch-*")):
            shutil.rmtree(left)
        yield


def current(home: Home) -> Path | None:
    """The folder of the current generation; None before the first build."""
    return home.offline.resolve() if home.offline.exists() else None


def manifest_of(generation: Path) -> Manifest:
    """What a generation holds."""
    return Manifest.from_json((generation / MANIFEST).read_bytes())


def begin(home: Home, grown_from: Path | None = None) -> Path:
    """A new folder for the next generation, with the parts of another one linked in where it grows from one."""
    finished = [int(path.name) for path in home.generations.iterdir() if path.name.isdigit()]
    folder = home.generations / f".{max(finished, default=0) + 1:06d}.tmp"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    if grown_from is not None:
        for part in sorted(grown_from.rglob("*.parquet")):
            linked = folder / part.relative_to(grown_from)
            linked.parent.mkdir(parents=True, exist_ok=True)
            os.link(part, linked)
    return folder


def publish(home: Home, folder: Path, manifest: Manifest) -> Path:
    """Make a begun generation the current one, in one step; the ones before the last are removed."""
    for part in folder.rglob("*.parquet"):
        with part.open("rb") as written:
            os.fsync(written.fileno())
    for inner in folder.iterdir():
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


def _prune(home: Home) -> None:
    serving = current(home)
    finished = sorted(path for path in home.generations.iterdir() if path.name.isdigit())
    for stale in [path for path in finished if path != serving][: -(KEPT - 1)]:
        shutil.rmtree(stale)
