"""What a view of one's own answers, small enough to see through: keys under other names, fields mapped, a life, ties."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Float64, Int32, String

from tests.support.changelogs import START, Size
from tests.support.feast_homes import made_up_feast
from velo.errors import UserError
from velo.feature_repo.objects import entities
from velo.feature_repo.stores.parts import add_part


@pytest.fixture
def small(tmp_path: Path) -> tuple[FeatureStore, Path]:
    made = made_up_feast(tmp_path / "home", Size(values=3, rows_a_key=2))
    folder = tmp_path / "runs"
    source = FileSource(
        name="runs_source",
        path=str(folder),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        field_mapping={"stored_as": "speed"},
    )
    view = FeatureView(
        name="runs",
        entities=[entities()["horse_id"]],
        ttl=timedelta(days=10),
        schema=[
            Field(name="horse_id", dtype=String),
            Field(name="speed", dtype=Float64),
            Field(name="runs", dtype=Int32),
        ],
        source=source,
    )
    made.feast.apply([view])
    return made.feast, folder


def runs(*rows: tuple[str, int, int, float | None]) -> pa.Table:
    """Rows of (horse, day, created day, speed)."""
    return pa.table(
        {
            "horse_id": pa.array([row[0] for row in rows], pa.string()),
            "stored_as": pa.array([row[3] for row in rows], pa.float64()),
            "runs": pa.array([row[1] for row in rows], pa.int32()),
            "event_timestamp": pa.array([START + timedelta(days=row[1]) for row in rows], pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array([START + timedelta(days=row[2]) for row in rows], pa.timestamp("us", "UTC")),
        }
    )


def speeds(feast: FeatureStore, *asked: tuple[str, float]) -> list[float | None]:
    rows = pd.DataFrame(
        {
            "horse_id": [horse for horse, _ in asked],
            "event_timestamp": [START + timedelta(days=day) for _, day in asked],
        }
    )
    found: list[float | None] = (
        feast.get_historical_features(rows, ["runs:speed"]).to_arrow().column("speed").to_pylist()
    )
    return found


def test_of_two_rows_of_one_instant_the_one_created_last_counts(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 5, 1.0), ("a", 1, 7, 2.0), ("b", 1, 9, 3.0), ("b", 1, 2, 4.0), ("c", 1, 1, 5.0)))
    assert speeds(feast, ("a", 2), ("b", 2), ("c", 2)) == [2.0, 3.0, 5.0]


def test_a_row_at_the_very_instant_counts_and_one_a_microsecond_later_does_not(
    small: tuple[FeatureStore, Path],
) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("a", 2, 2, 2.0)))
    micro = 1 / 86_400 / 1e6
    assert speeds(feast, ("a", 2), ("a", 2 - 2 * micro)) == [2.0, 1.0]


def test_a_row_older_than_its_life_is_none_and_no_older_one_stands_in(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("a", 2, 2, 2.0)))
    assert speeds(feast, ("a", 12), ("a", 12.001)) == [2.0, None]


def test_a_null_in_the_latest_row_is_null_and_not_the_value_before(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("a", 2, 2, None)))
    assert speeds(feast, ("a", 3)) == [None]


def test_a_view_asked_under_other_names_answers_under_them(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("sire", 1, 1, 9.0)))
    view = feast.get_feature_view("runs").with_name("sire_runs").with_join_key_map({"horse_id": "sire_id"})
    rows = pd.DataFrame({"horse_id": ["a"], "sire_id": ["sire"], "event_timestamp": [START + timedelta(days=2)]})
    own = feast.get_feature_view("runs").with_name("own_runs")
    service = FeatureService(name="pedigree", features=[view[["speed"]], own[["speed"]]])
    feast.apply([service])
    answer = feast.get_historical_features(rows, service, full_feature_names=True).to_arrow()
    assert answer.column("sire_runs__speed").to_pylist() == [9.0]
    assert answer.column("own_runs__speed").to_pylist() == [1.0]


def test_a_view_without_a_part_is_all_null(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    folder.mkdir(parents=True)
    assert speeds(feast, ("a", 1)) == [None]


def test_a_view_that_the_tables_were_built_without_is_refused(small: tuple[FeatureStore, Path]) -> None:
    """Tables of an older catalogue: nulls in silence would train a model on nothing."""
    feast, _ = small
    with pytest.raises(UserError, match=r"have no runs: run `velo build`"):
        speeds(feast, ("a", 1))


def test_rows_written_through_feast_are_a_part_of_their_own(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("b", 1, 1, 3.0)))  # Feast looks up the columns in what is there
    frame = runs(("a", 1, 1, 1.0)).to_pandas()
    feast.write_to_offline_store("runs", frame)
    feast.write_to_offline_store("runs", frame.assign(event_timestamp=START, stored_as=5.0))
    assert len(list(folder.glob("*.parquet"))) == 3
    assert speeds(feast, ("a", 2), ("a", 0.5), ("b", 2)) == [1.0, 5.0, 3.0]


def test_rows_of_other_columns_are_refused(small: tuple[FeatureStore, Path]) -> None:
    feast, _ = small
    provider: Any = feast._get_provider()
    with pytest.raises(UserError, match="need exactly"):
        provider.offline_write_batch(feast.config, feast.get_feature_view("runs"), pa.table({"horse_id": ["a"]}), None)


def pulled(feast: FeatureStore, how: str, start: float, end: float) -> list[tuple[str, float]]:
    store = feast._get_provider().offline_store
    table = getattr(store, how)(
        feast.config,
        feast.get_feature_view("runs").batch_source,
        ["horse_id"],
        ["stored_as", "runs"],
        "event_timestamp",
        "created_timestamp",
        start_date=START + timedelta(days=start),
        end_date=START + timedelta(days=end),
    ).to_arrow()
    return sorted(zip(table.column("horse_id").to_pylist(), table.column("stored_as").to_pylist(), strict=True))


def test_pulling_the_latest_and_all_rows_of_a_span_takes_both_its_ends(small: tuple[FeatureStore, Path]) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("a", 2, 5, 2.0), ("a", 2, 9, 3.0), ("a", 3, 9, 4.0), ("b", 1, 1, 5.0)))
    assert pulled(feast, "pull_latest_from_table_or_query", 1, 2) == [("a", 3.0), ("b", 5.0)]
    assert pulled(feast, "pull_latest_from_table_or_query", 2, 2) == [("a", 3.0)]
    assert pulled(feast, "pull_all_from_table_or_query", 2, 3) == [("a", 2.0), ("a", 3.0), ("a", 4.0)]


def test_a_row_written_since_but_that_fell_before_is_pulled_as_its_keys_newest(
    small: tuple[FeatureStore, Path],
) -> None:
    feast, folder = small
    add_part(folder, runs(("a", 1, 1, 1.0), ("a", 4, 4, 2.0), ("b", 1, 1, 5.0)))
    add_part(folder, runs(("a", 2, 6, 7.0), ("b", 2, 6, 8.0)))
    assert pulled(feast, "pull_touched", 5, 9) == [("a", 2.0), ("b", 8.0)]
    assert pulled(feast, "pull_touched", 7, 9) == []
