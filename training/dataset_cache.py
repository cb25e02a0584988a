"""Training sets kept under the home by what they were made from: the log's place, the formulas, the lead and the period.

A set is a function of those, so one that is kept need not be joined again. A file that is damaged, or says of itself that it
was made from something else, is made anew.
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
"""Of the rows themselves: another number where the same log makes other rows."""
KEPT: Final = 4
"""So many of the sets used last are kept; older ones are taken away."""


def kept_training_set(
    store: Store,
    *,
    lead: timedelta = LEAD,
    period: Period = Period(),  # noqa: B008 frozen
    progress: Progress = lambda step, done, steps: None,
) -> TrainingSet:
    """As `training_set`, from the file where there is one; otherwise it is made and kept."""
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
        # Named by what it was made from, should the tables have moved on meanwhile.
        rows.write(store.home.datasets / f"{key_of(rows.provenance, period)}.parquet")
        _take_away_old(store.home.datasets)
    return rows


def key_of(made_from: Provenance, period: Period) -> str:
    """SHA-256 of everything that a training set is a function of."""
    told = {
        "format": FORMAT,
        "made_from": made_from.to_json(),
        "since": period.since.isoformat(),
        "until": period.until.isoformat(),
        "columns": COLUMNS,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _now(store: Store, lead: timedelta) -> Provenance | None:
    """What a set would be made from now; None where there are no tables, which the making of one explains."""
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


def _take_away_old(folder: Path) -> None:
    by_use = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_use[KEPT:]:
        path.unlink(missing_ok=True)
