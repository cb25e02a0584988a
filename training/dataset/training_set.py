"""The training set: every start with what was known at its race's decision time, and its outcome (contract 8).

Features come from one point-in-time retrieval through Feast; labels come from version 1 of the results and are separate
columns that begin with `label__`. A set is a function of its inputs (the log's position, the formulas, the lead, the period),
so it is cached under the home and not joined again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from velo.drift import CONDITIONS, Conditions, Profile
from velo.errors import UserError
from velo.feature_repo.catalogue import columns
from velo.feature_repo.catalogue.columns import COLUMNS
from velo.feature_repo.point_in_time import base_of, joined_at, numbers
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.clock import from_text
from velo.storage import table_versions
from velo.storage.atomic_files import sole_writer
from velo.storage.store import Store
from velo.training.dataset.by_race import Floats
from velo.training.dataset.entity_rows import Period, declared, outcomes

Progress = Callable[[str, int, int], None]
"""Called with the step that begins, the number of steps done, and their total."""

FORMAT: Final = 2
"""The version of the rows: it changes when the same log gives other rows."""
KEPT: Final = 4
"""The number of sets that stay in the cache, those used last; older ones are deleted."""
LEAD: Final = timedelta(minutes=5)
FEATURE: Final = "feature__"
LABEL: Final = "label__"
LABELS: Final = ("status", "started", "starters", "position", "win_share", "sp_decimal", "market_pi")
IDENTITY: Final = (
    "race_id", "race_date", "off_time", "decision_time", "source", "runner_no", "draw",
    "trainer_id", "jockey_id", "horse_id", "course", "distance_band", "going_group", "draw_cell",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Provenance:
    """The inputs of a training set: the tables' formulas and position in the log, and the lead before the off.

    `manifest` is the SHA-256 of the tables' manifest: equal if they were not written since. `views` and `features` have the
    fingerprints of each view's and each stored feature's formulas, none in tables of an earlier version.
    """

    catalogue: str
    next_seq: int
    known_at: datetime
    lead: timedelta
    timezone: str
    manifest: str
    views: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)

    @property
    def formulas(self) -> table_versions.Formulas:
        """The formulas of the tables."""
        return table_versions.Formulas(self.catalogue, self.views, self.features)

    def to_json(self) -> str:
        """As stored in the Parquet file."""
        return json.dumps(
            {
                "catalogue": self.catalogue,
                "next_seq": self.next_seq,
                "known_at": self.known_at.isoformat(),
                "lead_s": self.lead.total_seconds(),
                "timezone": self.timezone,
                "manifest": self.manifest,
                "views": dict(self.views),
                "features": dict(self.features),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Provenance":
        """As read from the Parquet file."""
        stored = json.loads(text)
        lead = timedelta(seconds=stored["lead_s"])
        known_at = from_text(stored["known_at"])
        tables = stored["timezone"], stored["manifest"], stored.get("views", {}), stored.get("features", {})
        return cls(stored["catalogue"], stored["next_seq"], known_at, lead, *tables)


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One row per declared runner of each race with a first result, by race day, race and horse.

    `identity` has the columns of `IDENTITY`, instants UTC. `features` has those of `columns.COLUMNS`, float64 (rows,
    columns), NaN for null. `labels` has those of `LABELS` (`label__…`): null, but for `started` and `starters`, where
    a declared runner did not start; `win_share` is 1/m in an m-way dead heat; `market_pi` is the inverse starting
    price over the sum of the starters', null for a race in which any has none.
    """

    identity: pa.Table
    features: Floats
    labels: pa.Table
    provenance: Provenance
    races: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        codes = self.identity.column("race_id").combine_chunks().dictionary_encode().indices
        object.__setattr__(self, "races", codes.to_numpy(zero_copy_only=False).astype(np.int64))

    @property
    def rows(self) -> int:
        """Declared runners."""
        return int(self.identity.num_rows)

    def days(self) -> NDArray[np.datetime64]:
        """Local race date of each row."""
        return np.asarray(self.identity.column("race_date").to_numpy(), dtype="datetime64[D]")

    def label(self, name: str) -> Floats:
        """A numeric label as doubles, NaN for null."""
        return numbers(self.labels.column(LABEL + name))

    def started(self) -> NDArray[np.bool_]:
        """Whether each row's runner started, (rows,)."""
        return np.asarray(self.labels.column(f"{LABEL}started").to_numpy(), dtype=np.bool_)

    def matrix(self, names: Sequence[str]) -> Floats:
        """The named feature columns; raises `UserError` for a name that the catalogue does not declare."""
        columns.refuse_unknown(names)
        place = {name: at for at, name in enumerate(columns.COLUMNS)}
        return self.features[:, [place[name] for name in names]]

    def profile(self, names: Sequence[str]) -> Profile:
        """The profile of the named columns, with which served values are compared; raises as `matrix` does."""
        return Profile.of(names, self.matrix(names), self.days(), self.conditions())

    def conditions(self) -> Conditions:
        """The conditions of each row's race, (rows, `velo.drift.CONDITIONS`)."""
        return np.array([self.identity.column(name).to_pylist() for name in CONDITIONS], dtype=np.str_).T

    def to_arrow(self) -> pa.Table:
        """Identity, features and labels side by side; NaN features are null."""
        table = self.identity
        for place, name in enumerate(columns.COLUMNS):
            table = table.append_column(FEATURE + name, pa.array(self.features[:, place], from_pandas=True))
        for name in self.labels.column_names:
            table = table.append_column(name, self.labels.column(name))
        return table.replace_schema_metadata({"velo": self.provenance.to_json()})

    def write(self, path: Path) -> Path:
        """Write as Parquet, whole or not at all."""
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        pq.write_table(self.to_arrow(), aside, compression="zstd", write_page_checksum=True)
        aside.replace(path)
        return path

    @classmethod
    def read(cls, path: Path) -> "TrainingSet":
        """Read what `write` wrote, to the last bit. Raises `ValueError` for a damaged file or one with other columns."""
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            made_from = Provenance.from_json(table.schema.metadata[b"velo"])
            features = np.empty((table.num_rows, len(columns.COLUMNS)), dtype=np.float64)
            for place, name in enumerate(columns.COLUMNS):
                features[:, place] = numbers(table.column(FEATURE + name))
            labels = table.select([LABEL + name for name in LABELS])
            return cls(table.select(IDENTITY).replace_schema_metadata(None), features, labels, made_from)
        except (OSError, KeyError, TypeError, pa.ArrowException) as damaged:
            raise ValueError(f"{path} is not a training set of this catalogue ({damaged})") from damaged


def training_set(
    store: Store,
    *,
    lead: timedelta = LEAD,
    period: Period = Period(),  # noqa: B008 frozen
    progress: Progress = lambda step, done, steps: None,
) -> TrainingSet:
    """Join every start of a period with what was known `lead` before its off, through one retrieval of Feast.

    Raises `UserError` if no tables were built, or they have no result of the period.
    """
    snapshot = Snapshot()
    progress("find the declared runners", 0, 3)
    rows = declared(store.home, lead, period, snapshot)
    if rows.num_rows == 0:
        raise UserError(
            f"{store.home.offline} holds no result between {period.since} and {period.until}: load results with "
            "`velo ingest runners FILE` and run `velo build`, or ask for another period"
        )
    progress("join what was known", 1, 3)
    joined = joined_at(store, rows)
    progress("compare within races", 2, 3)
    races = rows.column("race_id").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    features = columns.matrix(base_of(joined), races)
    made_from = provenance(store, lead, snapshot)
    return TrainingSet(rows.select(IDENTITY), features, _labels(rows, outcomes(store.home, snapshot)), made_from)


def _labels(rows: pa.Table, became: pa.Table) -> pa.Table:
    """The labels of each row, in row order; a runner that the first result does not name did not start."""
    ordered = rows.select(["result_seq", "horse_id"]).append_column("row", pa.array(np.arange(rows.num_rows)))
    joined = ordered.join(became, ["result_seq", "horse_id"], join_type="left outer").sort_by("row")
    started = pc.fill_null(joined.column("started"), False)  # noqa: FBT003 pyarrow's own
    labels = {LABEL + name: joined.column(name) for name in LABELS}
    return pa.table(labels | {f"{LABEL}started": started})


def provenance(store: Store, lead: timedelta, snapshot: Snapshot) -> Provenance:
    """The inputs of a training set made now; raises `FileNotFoundError` if no tables were built."""
    written = (snapshot.folder(store.home.offline / "runners").parent / table_versions.MANIFEST).read_bytes()
    manifest = table_versions.Manifest.from_json(written)
    return Provenance(
        manifest.fingerprint,
        manifest.next_seq,
        manifest.known_at,
        lead,
        store.timezone.key,
        hashlib.sha256(written).hexdigest(),
        manifest.formulas.views,
        manifest.formulas.features,
    )


def kept_training_set(
    store: Store,
    *,
    lead: timedelta = LEAD,
    period: Period = Period(),  # noqa: B008 frozen
    progress: Progress = lambda step, done, steps: None,
) -> TrainingSet:
    """As `training_set`, read from the cache if it is there, else made and cached."""
    made_from = _inputs_now(store, lead)
    path = store.home.datasets / f"{key_of(made_from, period)}.parquet" if made_from else None
    if made_from and path and path.is_file():
        progress("read the training set", 0, 1)
        found = _cached(path, made_from)
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


def _inputs_now(store: Store, lead: timedelta) -> Provenance | None:
    """The inputs of a set made now; None without tables, an error that making the set explains."""
    try:
        return provenance(store, lead, Snapshot())
    except FileNotFoundError:
        return None


def _cached(path: Path, made_from: Provenance) -> TrainingSet | None:
    try:
        found = TrainingSet.read(path)
    except ValueError:
        return None
    return found if found.provenance == made_from else None


def _delete_old(folder: Path) -> None:
    by_use = sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_use[KEPT:]:
        path.unlink(missing_ok=True)
