"""The batch path gives every value of the conformance files: in Parquet, and through Feast, offline and online.

Counts exactly; ratios to 1e-12; EWMA, slope and variance to 1e-9; `valid_until` to the microsecond (contract 7).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from tests.support.engine import reading
from tests.support.stores import CASES, Built, Conformance, historical, materialize, online
from velo.feature_repo.catalogue.families import BY_VIEW, Family
from velo.feature_repo.catalogue.recent_aggregates import Ewma, Slope, Variance
from velo.feature_repo.feast_store import apply
from velo.feature_repo.stores.parts import Snapshot
from velo.racing.clock import EPOCH, MICROSECOND

if TYPE_CHECKING:
    from feast import FeatureStore

pytestmark = pytest.mark.slow

VIEWS_PROBED = 8
"""The contract's own views; those beyond it are held against the oracle (`test_batch_build`, `test_fold`)."""


@dataclass(frozen=True)
class Probe:
    """What a view holds for an entity at an instant; `expected` is None where the key has no row yet."""

    entity: Mapping[str, str]
    as_of: datetime
    expected: Mapping[str, Any] | None


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, conformance: Conformance) -> Built:
    return conformance(request.param)


@pytest.fixture(scope="module")
def feast(built: Built) -> "FeatureStore":
    return apply(built.store)


def test_every_probe_agrees_in_the_parquet(built: Built) -> None:
    """The latest row at or before the instant, by one ASOF join a view."""
    wrong = []
    for family, probes in _probes(built):
        got = [row for row, _ in _asof(built, family, probes)]
        wrong += _disagreements(family, probes, got)
    assert wrong == []


def test_every_probe_agrees_through_feast_s_historical_retrieval(built: Built, feast: "FeatureStore") -> None:
    """All probes of a view in one call; a key without a row is null throughout."""
    wrong = []
    for family, probes in _probes(built):
        got = historical(feast, family, [probe.entity for probe in probes], [probe.as_of for probe in probes])
        assert len(got) == len(probes)
        wrong += _disagreements(family, probes, got)
    assert wrong == []


@pytest.mark.parametrize("built", [pytest.param("hk", marks=pytest.mark.prove), "hk_amended", "london"], indirect=True)
def test_the_online_store_holds_each_probed_entity_s_last_value(built: Built, feast: "FeatureStore") -> None:
    """After a materialisation: the last offline row to the bit, and each probe whose value still holds at the end."""
    materialize(feast, built.report.known_at)
    wrong = []
    still_true = 0
    for family, probes in _probes(built):
        now = online(feast, family, [probe.entity for probe in probes])
        at_end = [Probe(probe.entity, built.report.known_at, None) for probe in probes]
        last = [row for row, _ in _asof(built, family, at_end)]
        wrong += [
            (family.view, probe.entity) for probe, mine, its in zip(probes, now, last, strict=True) if mine != its
        ]
        holding = [place for place, (_, holds) in enumerate(_asof(built, family, probes)) if holds]
        still_true += len(holding)
        wrong += _disagreements(family, [probes[place] for place in holding], [now[place] for place in holding])
    assert wrong == []
    assert still_true > 100


def _probes(built: Built) -> list[tuple[Family, list[Probe]]]:
    found: dict[str, list[Probe]] = {}
    for each in pq.read_table(built.case.probes).to_pylist():
        expected = None if each["features"] is None else json.loads(each["features"])
        found.setdefault(each["view"], []).append(Probe(json.loads(each["entity"]), each["as_of"], expected))
    assert len(found) == VIEWS_PROBED
    return [(BY_VIEW[view], probes) for view, probes in found.items()]


def _asof(built: Built, family: Family, probes: Sequence[Probe]) -> list[tuple[dict[str, Any], bool]]:
    """The row that holds for each probe, and whether it is its key's last; all null where there is none."""
    import pyarrow as pa

    names = [*(feature.name for feature in family.features), "valid_until"]
    columns = {key: pa.array([probe.entity[key] for probe in probes], pa.string()) for key in family.keys}
    columns["as_of"] = pa.array([probe.as_of for probe in probes], pa.timestamp("us", "UTC"))
    asked = pa.table(columns | {"place": pa.array(range(len(probes)), pa.int64())})
    keys = ", ".join(family.keys)
    same = " AND ".join(f"asked.{key} = held.{key}" for key in family.keys)
    with reading() as connection:
        connection.register("asked", asked)
        rows = connection.execute(
            f"""WITH held AS (
                SELECT *, lead(event_timestamp) OVER (PARTITION BY {keys} ORDER BY event_timestamp) IS NULL AS last
                FROM read_parquet($parts, union_by_name = true))
            SELECT {", ".join(f"held.{name}" for name in names)}, coalesce(held.last, false)
            FROM asked ASOF LEFT JOIN held ON {same} AND asked.as_of >= held.event_timestamp
            ORDER BY asked.place""",
            {"parts": Snapshot().parts(built.store.home.offline / family.view)},
        ).fetchall()
    return [(dict(zip(names, row, strict=False)), row[-1]) for row in rows]


def _disagreements(family: Family, probes: Sequence[Probe], got: Sequence[Mapping[str, Any]]) -> list[Any]:
    """(view, entity, instant, feature, got, expected) of each value that is not the probe's."""
    by_name = {feature.name: feature.kind for feature in family.features}
    loose = {aggregate.name for aggregate in family.recent if isinstance(aggregate, Ewma | Slope | Variance)}
    wrong: list[Any] = []
    for probe, row in zip(probes, got, strict=True):
        expected = probe.expected if probe.expected is not None else dict.fromkeys((*by_name, "valid_until"))
        if expected.keys() != row.keys():
            wrong.append((family.view, probe.entity, probe.as_of, sorted(expected.keys() ^ row.keys())))
        for name, value in expected.items():
            mine = _micros(row.get(name))
            if mine is None or value is None or by_name.get(name) != "float":
                same = mine == value
            else:
                same = math.isclose(mine, value, rel_tol=1e-9 if name in loose else 1e-12, abs_tol=1e-12)
            if not same:
                wrong.append((family.view, probe.entity, probe.as_of, name, mine, value))
    return wrong


def _micros(value: Any) -> Any:
    return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value
