"""Built stores for tests: loaded from the conformance files, or from any log; and their tables as plain values."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tests.support.engine import reading
from tests.support.logs import a_store
from tests.support.runner_table_oracle import load
from tests.support.shared import shared_file
from velo.feature_repo.catalogue.families import FAMILIES, Family
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.messages import Message, from_record
from velo.simulator import SeasonSpec, in_running, simulate
from velo.storage.store import Home, Store
from velo.storage.table_versions import Formulas, current_formulas
from velo.streams.batch.build import BuildReport, build
from velo.streams.importers.ingest import IngestReport, ingest
from velo.streams.importers.sources.runners import read_runner_tables

if TYPE_CHECKING:
    from feast import FeatureStore

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""When the tests' loads and builds happen, for what is outside every equality."""
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


def formulas_of(home: Home) -> Formulas:
    """The formulas of a built store's tables."""
    formulas = current_formulas(home)
    assert formulas is not None
    return formulas


@dataclass(frozen=True)
class Case:
    """A file of results with probes, and the zone it is local in."""

    name: str
    timezone: str
    runners: str

    @property
    def probes(self) -> Path:
        """(view, entity JSON, as_of, features JSON or null for no row)."""
        return shared_file(f"conformance/{self.name}_probes.parquet")

    @property
    def refused(self) -> Path:
        """[race_id, result_version, reason] of each dead letter."""
        return shared_file(f"conformance/{self.name}_refused.json")


CASES = {
    case.name: case
    for case in (
        Case("hk", "Asia/Hong_Kong", "data/hk/runners.parquet"),
        Case("hk_amended", "Asia/Hong_Kong", "conformance/hk_amended.parquet"),
        Case("london", "Europe/London", "conformance/london.parquet"),
    )
}


@dataclass(frozen=True)
class Built:
    """A case in a store of its own, loaded and built; tests read it and leave it as it is."""

    case: Case
    store: Store
    ingested: IngestReport
    report: BuildReport


Conformance = Callable[[str], Built]
"""What the fixture `conformance` is: a case by name, loaded and built once a run."""


def load_and_build(case: Case, home: Path) -> Built:
    """A case through the importer, the log and the build, as `velo ingest runners` and `velo build` do it."""
    runners = shared_file(case.runners)
    store = a_store(home, case.timezone)
    ingested = ingest(store, read_runner_tables([runners], store), clock=lambda: NOW)
    store = a_store(home, case.timezone)
    return Built(case, store, ingested, build(store, NOW))


def a_season(days: int = 120, seed: int = 5, races_per_year: int = 2500, horses: int = 300) -> list[Message]:
    """A small simulated season's results in log order, with in-running data, some amended: many rows, not real ones."""
    spec = SeasonSpec(seed=seed, days=days, races_per_year=races_per_year, courses=4, horses=horses, amended_share=0.1)
    rows = in_running(simulate(spec), seed).to_pylist()
    return [from_record(record) for record in load([rows], spec.timezone).records]


def twin_of(store: Store, home: Path) -> Store:
    """Another store with the same log and nothing built."""
    shutil.copytree(store.home.log, Home(home).log)
    return a_store(home, store.timezone.key)


def columns_of(family: Family) -> tuple[str, ...]:
    """A view's columns but `created_timestamp`, which is outside every equality."""
    return (*family.keys, "event_timestamp", "valid_until", *(feature.name for feature in family.features))


def rows_of(store: Store, family: Family) -> list[tuple[Any, ...]]:
    """A view's rows in order of key and time; a stream makes no part where there is no row."""
    if not _parts(store, family):
        return []
    order = ", ".join((*family.keys, "event_timestamp"))
    with reading() as connection:
        query = f"SELECT {', '.join(columns_of(family))} FROM read_parquet($parts) ORDER BY {order}"
        return connection.execute(query, {"parts": _parts(store, family)}).fetchall()


def tables_of(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every view's rows, by view."""
    return {family.view: rows_of(store, family) for family in FAMILIES}


def rows_apart(each: Store, other: Store, *, until: datetime | None = None) -> list[Any]:
    """(view, which store, row) of some rows that only one of two stores has, up to an instant if given; counts count."""
    apart: list[Any] = []
    with reading() as connection:
        for family in FAMILIES:
            found = f"SELECT {', '.join(columns_of(family))} FROM read_parquet(%s) WHERE event_timestamp <= $until"
            bound = {"one": _parts(each, family), "other": _parts(other, family), "until": until or FOREVER}
            for here, there in (("one", "other"), ("other", "one")):
                query = f"{found % f'${here}'} EXCEPT ALL {found % f'${there}'} LIMIT 3"
                apart += [(family.view, here, row) for row in connection.execute(query, bound).fetchall()]
    return apart


def _parts(store: Store, family: Family) -> list[str]:
    return Snapshot().parts(store.home.offline / family.view)


def changelogs_of(store: Store, family: Family) -> dict[tuple[str, ...], list[Row]]:
    """A view's rows by key, in order of time."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for values in rows_of(store, family):
        found.setdefault(values[: len(family.keys)], []).append(dict(zip(columns_of(family), values, strict=True)))
    return found


def materialize(feast: "FeatureStore", until: datetime) -> None:
    """`feast materialize` of everything up to an instant."""
    feast.materialize(start_date=datetime(1970, 1, 2, tzinfo=UTC), end_date=until)


def online(feast: "FeatureStore", family: Family, entities: Sequence[Mapping[str, str]]) -> list[Row]:
    """A view's values through Feast's online retrieval, in order of the entities."""
    names = [*(feature.name for feature in family.features), "valid_until"]
    answer = feast.get_online_features(
        features=[f"{family.view}:{name}" for name in names], entity_rows=[dict(entity) for entity in entities]
    ).to_dict()
    return [dict(zip(names, values, strict=True)) for values in zip(*(answer[name] for name in names), strict=True)]


def historical(
    feast: "FeatureStore", family: Family, entities: Sequence[Mapping[str, str]], at: Sequence[datetime]
) -> list[Row]:
    """A view's values through Feast's point-in-time join in one call, in order of the entities."""
    names = [*(feature.name for feature in family.features), "valid_until"]
    asked = pa.table(
        {key: pa.array([entity[key] for entity in entities], pa.string()) for key in family.keys}
        | {"event_timestamp": pa.array(at, pa.timestamp("us", "UTC"))}
    ).to_pandas()
    answer = feast.get_historical_features(entity_df=asked, features=[f"{family.view}:{name}" for name in names])
    return [{name: row[name] for name in names} for row in answer.to_arrow().to_pylist()]
