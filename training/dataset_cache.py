"""A cache of training sets under the home, by their inputs: the log's position, the formulas, the lead and the period.

A set is a function of those inputs, so a cached one is not joined again. A damaged file, or one that names other inputs, is
replaced.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from velo.feature_repo.catalogue.columns import COLUMNS
from velo.feature_repo.stores.parts import Snapshot
from velo.storage.atomic_files import sole_writer
from velo.storage.store import Store
from velo.training.dataset import LEAD, Provenance, TrainingSet, provenance, training_set
from velo.training.entity_rows import Period

Progress = Callable[[str, int, int], None]

FORMAT: Final = 2
"""The version of the rows: it changes when the same log gives other rows."""
KEPT: Final = 4
"""The number of sets that stay in the cache, those used last; older ones are deleted."""


def kept_training_set(
    store: Store,
    *,
    lead: timedelta = LEAD,
    period: Period = Period(),  # noqa: B008 frozen
    progress: Progress = lambda step, done, steps: None,
) -> TrainingSet:
    """As `training_set`, read from the cache if it is there, else made and cached."""
    made_from = _now(store, lead)
    path = store.home.datasets / f"{key_of(made_from, period)}.parquet" if made_from else None
    if made_from and path and path.is_file():
        progress("read the training set", 0, 1)
        found = _read(path, made_from)
        if found is not None:
            path.touch()
            progress("read the training set", 1, 1)
            return found
    rows = training_set(store, lead=lead, period=period, progress=progress)
    with sole_writer(store.home.datasets):
        # named by the inputs it was made from, because the tables may have changed meanwhile
        rows.write(store.home.datasets / f"{key_of(rows.provenance, period)}.parquet")
        _delete_old(store.home.datasets)
    return rows


def key_of(made_from: Provenance, period: Period) -> str:
    """SHA-256 of every input of a training set."""
    inputs = {
        "format": FORMAT,
        "made_from": made_from.to_json(),
        "since": period.since.isoformat(),
        "until": period.until.isoformat(),
        "columns": COLUMNS,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _now(store: Store, lead: timedelta) -> Provenance | None:
    """The inputs of a set made now; None without tables, an error that making the set explains."""
    try:
        return provenance(store, lead, Snapshot())
    except FileNotFoundError:
        return None


def _read(path: Path, made_from: Provenance) -> TrainingSet | None:
    try:
        found = TrainingSet.read(path)
    except ValueError:
        return None
    return found if found.provenance == made_from else None


def _delete_old(folder: Path) -> None:
    by_use = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_use[KEPT:]:
        path.unlink(missing_ok=True)
