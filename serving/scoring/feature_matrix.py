"""The feature matrix of one race in a model's columns, and how it is made as of an instant from the offline history."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from velo.feature_repo.catalogue import columns, request_time
from velo.feature_repo.catalogue.families import FAMILIES
from velo.racing.cards import Declared
from velo.racing.race_values import days_since_1970
from velo.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

VIEWS: Final = tuple(family.view for family in FAMILIES)
COLUMNS_MARK: Final = blake2b("\0".join(columns.BASE).encode(), digest_size=4).hexdigest()
"""The identity of the columns that have digests, and of their order."""
_ODD: Final = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], dtype=np.uint64)
"""Odd numbers whose multiples spread bits over the 64."""


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """The features of the runners of one race, in the order of its card.

    `matrix` is (runners, `columns.COLUMNS`), NaN for null. `missing` and `stale` are (runners, `VIEWS`): the view has
    no row of the runner's key, or a row past its `valid_until`.
    """

    matrix: Floats
    missing: Flags
    stale: Flags

    def select(self, names: tuple[str, ...]) -> Floats:
        """The named columns; raises `UserError` for a name that the catalogue does not declare."""
        return self.matrix[:, _places(names)]

    def of(self, name: str) -> Floats:
        """One column."""
        return self.matrix[:, columns.COLUMNS.index(name)]


FIGURES: Final[dict[str, tuple[str, ...]]] = {
    "career": ("horse_form__starts", "horse_form__wins", "horse_form__places"),
    "course": ("horse_course__starts", "horse_course__wins", "horse_course__places"),
    "distance": ("horse_distance__starts", "horse_distance__wins", "horse_distance__places"),
    "going": ("horse_going__starts", "horse_going__wins", "horse_going__places"),
    "trainer_30d": ("trainer_velocity__runs_30d", "trainer_velocity__wins_30d"),
    "trainer_90d": ("trainer_velocity__runs_90d", "trainer_velocity__wins_90d"),
    "jockey_30d": ("jockey_velocity__runs_30d", "jockey_velocity__wins_30d"),
    "jockey_90d": ("jockey_velocity__runs_90d", "jockey_velocity__wins_90d"),
    "together_365d": ("partnership_velocity__runs_365d", "partnership_velocity__wins_365d"),
}
"""Records that a racecard prints beside a runner: starts or runs, wins, and places if there are three."""
columns.refuse_missing(chain(*FIGURES.values()), "velo/serving/scoring/feature_matrix.py")
Record = list[int] | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Starts, wins and places of a horse (in all, at the course, the distance, on the going); runs and wins of its people in some
    days; and changes since its last run. Null where nothing is known. A positive class change is an easier class.
    """

    career: Record
    course: Record
    distance: Record
    going: Record
    trainer_30d: Record
    trainer_90d: Record
    jockey_30d: Record
    jockey_90d: Record
    together_365d: Record
    days_since_last_run: float | None
    weight_change_lbs: float | None
    rating_change: float | None
    class_change: float | None
    distance_change_m: float | None


CHANGES: Final = tuple(field.name for field in fields(Figures) if field.name not in FIGURES)


def figures_of(matrix: FeatureMatrix) -> list[Figures]:
    """The records and changes of each runner: the features themselves, as of the same instant."""
    names = tuple(name for record in FIGURES.values() for name in record)
    names += tuple(f"{columns.ON_DEMAND}__{change}" for change in CHANGES)
    found = []
    for row in matrix.select(names).tolist():
        taken = iter(None if value != value else value for value in row)
        records: dict[str, Any] = {}
        for record, parts in FIGURES.items():
            counts = [int(count) for _ in parts if (count := next(taken)) is not None]
            records[record] = counts if len(counts) == len(parts) else None
        found.append(Figures(**records, **dict(zip(CHANGES, taken, strict=True))))
    return found


def column_digests(matrix: FeatureMatrix) -> str:
    """A digest of 16 bits of each column of `columns.BASE` over the runners in their order, in base64.

    A fingerprint shows that features differ, these show which. Equal values have equal digests on every machine.
    """
    return b64encode(_digests(matrix).astype("<u2").tobytes()).decode("ascii")


def differing_columns(digests: str, others: str) -> tuple[str, ...]:
    """The columns of `columns.BASE` in which two strings of `column_digests` differ; both have a digest of each."""
    one, other = (np.frombuffer(b64decode(text), dtype="<u2") for text in (digests, others))
    return tuple(columns.BASE[at] for at in np.flatnonzero(one != other))


def has_digest_of_each(digests: str) -> bool:
    """Whether a string of `column_digests` has as many digests as the catalogue has columns."""
    return len(b64decode(digests)) == 2 * len(columns.BASE)


def _digests(matrix: FeatureMatrix) -> NDArray[np.uint16]:
    values = matrix.matrix[:, : len(columns.BASE)]
    # as in a fingerprint, all NaNs are equal, and −0 is 0
    bits = np.where(np.isnan(values), np.nan, values + 0.0).view(np.uint64)
    bits = (bits ^ (bits >> np.uint64(29))) * _ODD[0]
    factors = _ODD[1] * (2 * np.arange(len(bits), dtype=np.uint64)[:, None] + 1)
    mixed = ((bits ^ (bits >> np.uint64(32))) * factors).sum(axis=0, dtype=np.uint64)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) * _ODD[0] >> np.uint64(48), dtype=np.uint16)


@lru_cache(maxsize=8)
def _places(names: tuple[str, ...]) -> NDArray[np.intp]:
    return np.array(columns.places(names), dtype=np.intp)


def offline(store: Store, race: Declared, feast: "FeatureStore | None" = None) -> FeatureMatrix:
    """The rows of one race as of its card's instant, from the offline history through Feast."""
    return offline_races(store, [race], feast)[0]


def offline_races(store: Store, races: Sequence[Declared], feast: "FeatureStore | None" = None) -> list[FeatureMatrix]:
    """The rows of each race as of its card's instant, in one read of the offline history through Feast."""
    import pyarrow as pa

    from velo.feature_repo.point_in_time import base_of, joined_at

    joined = joined_at(store, pa.concat_tables([entity_rows(race) for race in races]), feast)
    base = base_of(joined)
    sizes = [len(race.runners) for race in races]
    matrix = columns.matrix(base, np.repeat(np.arange(len(races)), sizes))
    missing = np.stack([np.isnan(base[columns.marker_of(view)]) for view in VIEWS], axis=1)
    instants = [race.instant for race in races for _ in race.runners]
    untils = [joined.column(f"{view}__valid_until").to_pylist() for view in VIEWS]
    past = [
        [until is not None and _aware(until) <= instant for until, instant in zip(column, instants, strict=True)]
        for column in untils
    ]
    stale = np.array(past, dtype=np.bool_).T
    ends = np.cumsum(sizes)[:-1]
    parts = zip(np.split(matrix, ends), np.split(missing, ends), np.split(stale, ends), strict=True)
    return [FeatureMatrix(*rows) for rows in parts]


def entity_rows(race: Declared) -> "pa.Table":
    """The entity rows of Feast's request, one per runner, as in training (`point_in_time.ENTITY_COLUMNS`)."""
    import pyarrow as pa

    keys = race.entity_keys()
    table = {name: pa.array([of[name] for of in keys], pa.string()) for name in keys[0]}
    kinds = {"int": pa.int64(), "float": pa.float64()}
    asked = asked_of(race)
    for column in request_time.REQUEST:
        table[column.name] = pa.array(asked[column.name], kinds[column.kind], from_pandas=True)
    table["draw"] = pa.array(asked["draw"], pa.int64(), from_pandas=True)
    table["body_weight_lbs"] = pa.array(asked["body_weight_lbs"], pa.float64(), from_pandas=True)
    table["event_timestamp"] = pa.array([race.instant] * len(keys), pa.timestamp("us", "UTC"))
    return pa.table(table)


def asked_of(race: Declared) -> dict[str, Any]:
    """The request columns of each runner, NaN for null."""
    of = race.race
    rows = [
        (of.race_class, of.distance_m, each.weight_lbs, each.official_rating, each.draw or None, each.body_weight_lbs)
        for each in race.runners
    ]
    table = np.array(rows, dtype=np.float64).reshape(len(race.runners), len(columns.ASKED))
    named = dict(zip(columns.ASKED, table.T, strict=True))
    return named | {"race_day": np.full(len(race.runners), float(days_since_1970(of.race_date)))}


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
