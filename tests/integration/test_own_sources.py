"""A user's own Parquet beside ours: nanoseconds, text and other types, through both stores and plain materialisation."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Bool, Float32, Float64, Int64, String, UnixTimestamp

from tests.support.changelogs import Size
from tests.support.feast_homes import MadeUp, made_up_feast
from velo.feature_repo.objects import entities
from velo.feature_repo.stores import embedded_redis

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOON_NS = int(NOON.timestamp()) * 10**9
FEATURES = ("stable", "gelded", "rating", "weight", "seen_at", "runs")


def sightings(*rows: tuple[str, int, str | None], zone: str | None = "UTC") -> pa.Table:
    """Rows of (horse, nanoseconds after noon, stable), the other features made of them."""
    at = [NOON_NS + nanos for _, nanos, _ in rows]
    return pa.table(
        {
            "horse_id": pa.array([horse for horse, _, _ in rows], pa.large_string()),
            "event_timestamp": pa.array(at, pa.timestamp("ns", zone)),
            "stable": pa.array([stable for _, _, stable in rows], pa.string()),
            "gelded": pa.array([stable is not None for _, _, stable in rows], pa.bool_()),
            "rating": pa.array([float(nanos) for _, nanos, _ in rows], pa.float32()),
            "weight": pa.array([nanos / 3 for _, nanos, _ in rows], pa.float64()),
            "seen_at": pa.array(at, pa.timestamp("ns", zone)),
            "runs": pa.array([2**60 + nanos for _, nanos, _ in rows], pa.int64()),
        }
    )


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[MadeUp, Path]]:
    made = made_up_feast(tmp_path / "home", Size(values=3, rows_a_key=2))
    path = tmp_path / "sightings.parquet"
    view = FeatureView(
        name="sightings",
        entities=[entities()["horse_id"]],
        ttl=timedelta(days=36_500),
        schema=[
            Field(name="horse_id", dtype=String),
            Field(name="stable", dtype=String),
            Field(name="gelded", dtype=Bool),
            Field(name="rating", dtype=Float32),
            Field(name="weight", dtype=Float64),
            Field(name="seen_at", dtype=UnixTimestamp),
            Field(name="runs", dtype=Int64),
        ],
        source=FileSource(name="sightings_file", path=str(path), timestamp_field="event_timestamp"),
    )
    made.feast.apply([view])
    yield made, path
    embedded_redis.down(made.home)


def stables_at(feast: FeatureStore, *asked: tuple[str, int]) -> list[Any]:
    rows = pd.DataFrame(
        {
            "horse_id": [horse for horse, _ in asked],
            "event_timestamp": pd.to_datetime([NOON_NS + nanos for _, nanos in asked], utc=True),
        }
    )
    refs = ["sightings:stable", "horse_form:starts"]
    found: list[Any] = feast.get_historical_features(rows, refs).to_df()["stable"].tolist()
    return [None if each is None or each != each else each for each in found]


def online(feast: FeatureStore, horse: str) -> dict[str, Any]:
    refs = [f"sightings:{name}" for name in FEATURES]
    answer = feast.get_online_features(refs, [{"horse_id": horse}]).to_dict()
    return {name: answer[name][0] for name in FEATURES}


@pytest.mark.parametrize("zone", ["UTC", None])
def test_a_row_of_nanoseconds_holds_from_its_very_instant(own: tuple[MadeUp, Path], zone: str | None) -> None:
    """An instant between two microseconds is not seen a microsecond early, and of two in one the later holds."""
    made, path = own
    pq.write_table(sightings(("a", 500, "first"), ("a", 900, "second"), ("b", 0, "noon"), zone=zone), path)
    asked = ("a", 0), ("a", 1000), ("b", -1000), ("b", 0), ("nobody", 0)
    assert stables_at(made.feast, *asked) == [None, "second", None, "noon", None]


def test_features_of_every_type_are_read_online_as_they_were_written(own: tuple[MadeUp, Path]) -> None:
    made, path = own
    pq.write_table(sightings(("a", 0, "old"), ("a", 3_000_000, "Ballydoyle, Éire"), ("b", 6, None)), path)
    made.feast.materialize_incremental(NOON + timedelta(days=1))
    assert online(made.feast, "a") == {
        "stable": "Ballydoyle, Éire",
        "gelded": True,
        "rating": 3_000_000.0,
        "weight": 1_000_000.0,
        "seen_at": NOON,
        "runs": 2**60 + 3_000_000,
    }
    assert online(made.feast, "b")["stable"] is None
    assert online(made.feast, "nobody") == dict.fromkeys(FEATURES)
    # ours beside it, from the same call
    answer = made.feast.get_online_features(["horse_form:starts", "sightings:stable"], [{"horse_id": "a"}]).to_dict()
    assert answer["stable"] == ["Ballydoyle, Éire"]


def test_a_newer_row_replaces_an_older_and_never_the_reverse(own: tuple[MadeUp, Path]) -> None:
    """Within one second too, which stock Feast counts in; a null takes the value of before away."""
    made, path = own
    pq.write_table(sightings(("a", 2_000, "second")), path)
    made.feast.materialize_incremental(NOON + timedelta(days=1))
    pq.write_table(sightings(("a", 1_000, "first")), path)
    made.feast.materialize_incremental(NOON + timedelta(days=2))
    assert online(made.feast, "a")["stable"] == "second"
    pq.write_table(sightings(("a", 1_000, "first"), ("a", 3_000, None)), path)
    made.feast.materialize_incremental(NOON + timedelta(days=3))
    assert online(made.feast, "a")["stable"] is None
    assert online(made.feast, "a")["runs"] == 2**60 + 3_000


def test_rows_pushed_through_feast_and_taken_down_are_those_of_the_view(own: tuple[MadeUp, Path]) -> None:
    made, path = own
    pq.write_table(sightings(("a", 0, "file")), path)
    frame = sightings(("a", 5_000, "pushed")).to_pandas()
    made.feast.write_to_online_store("sightings", frame)
    assert online(made.feast, "a")["stable"] == "pushed"
    made.feast.materialize(NOON - timedelta(days=1), NOON + timedelta(days=1))
    assert online(made.feast, "a")["stable"] == "pushed"
    made.feast.delete_feature_view("sightings")
    assert np.all([family.name != "sightings" for family in made.feast.list_feature_views()])
