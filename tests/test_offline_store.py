"""Features as of an instant: the stock stores' values, every entity row in its place, one generation a query."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.types import Float64, Int32, String

from feature_repo.objects import entities
from feature_repo.stores import changelog
from feature_repo.stores.parts import Snapshot, add_part
from tests.changelogs import START, Size, publish
from tests.feast_homes import REQUEST, MadeUp, entity_rows, made_up_feast, on_demand_refs, same_values, stock_feast
from tests.feast_homes import stored_refs as refs_of
from velo.errors import UserError

AT = datetime(2025, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return made_up_feast(tmp_path_factory.mktemp("offline") / "with a space")


@pytest.fixture(scope="module")
def joined(made: MadeUp) -> pd.DataFrame:
    rows = entity_rows(made.tables, 300)
    return made.feast.get_historical_features(rows, refs_of(), full_feature_names=True).to_df()


def names(refs: list[str]) -> list[str]:
    return [ref.replace(":", "__") for ref in refs]


def test_every_value_is_the_stock_duckdb_stores(made: MadeUp, joined: pd.DataFrame, tmp_path: Path) -> None:
    stock = stock_feast(made, tmp_path, offline_store={"type": "duckdb"}, online_store=None)
    _read_all_parts(stock)
    rows = entity_rows(made.tables, 300)
    theirs = stock.get_historical_features(rows.copy(), refs_of(), full_feature_names=True).to_df()
    order = ["event_timestamp", *(column for column in rows.columns if column != "event_timestamp")]
    # The stock store returns rows in an order of its own; a row's keys and instant say which it is.
    ours = joined.sort_values(order).reset_index(drop=True)
    same_values(ours, theirs.sort_values(order).reset_index(drop=True), names(refs_of()))


def _read_all_parts(feast: FeatureStore) -> None:
    """The stock duckdb store reads one file or a glob, not a folder of folders."""
    for view in feast.list_feature_views():
        source = view.batch_source
        assert isinstance(source, FileSource)
        source.file_options.uri = f"{source.path}/**/*.parquet"
        feast.apply([source, view])


def test_every_value_is_that_of_a_walk_through_the_history(made: MadeUp, joined: pd.DataFrame) -> None:
    """The plain twin: for each row, the last one of its key not after its instant, found by looking at all."""
    table = made.tables["horse_course"].to_pandas()
    rows = entity_rows(made.tables, 300)
    known = 0
    for at, (_, row) in enumerate(rows.iterrows()):
        past = table[
            (table.horse_id == row.horse_id)
            & (table.course == row.course)
            & (table.event_timestamp <= row.event_timestamp)
        ].sort_values("event_timestamp")
        met = joined.iloc[at]
        if past.empty:
            assert met[names(refs_of(["horse_course"]))].isna().all()
            continue
        known += 1
        for feature in ("starts", "wins", "sr", "prb"):
            np.testing.assert_array_equal(met[f"horse_course__{feature}"], past.iloc[-1][feature])
    assert known > 30


def test_entity_rows_keep_their_order_and_their_columns(made: MadeUp, joined: pd.DataFrame) -> None:
    rows = entity_rows(made.tables, 300)
    same_values(joined, rows, list(rows.columns))


def test_a_row_said_twice_is_answered_twice(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 20)
    twice = pd.concat([rows, rows], ignore_index=True)
    answer = made.feast.get_historical_features(twice, refs_of(), full_feature_names=True).to_df()
    same_values(answer.iloc[:20].reset_index(drop=True), answer.iloc[20:].reset_index(drop=True), names(refs_of()))


def test_null_and_unknown_keys_and_instants_give_nulls_and_drop_no_row(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 4)
    rows["trainer_id"] = [None, "never heard of", "trainer_id:1", "trainer_id:1"]
    rows["event_timestamp"] = pd.to_datetime(pd.Series([AT, AT, None, AT]), utc=True)
    answer = made.feast.get_historical_features(rows, refs_of(["trainer_velocity"])).to_df()
    assert len(answer) == 4
    assert answer.loc[[0, 1, 2], ["runs_14d", "sr_14d", "valid_until"]].isna().all(axis=None)
    assert answer.loc[3].notna().sum() > 10


def test_a_key_column_of_nulls_alone_is_no_error(made: MadeUp) -> None:
    rows = pd.DataFrame({"trainer_id": [None, None], "event_timestamp": [AT, AT]})
    assert made.feast.get_historical_features(rows, ["trainer_velocity:sr_14d"]).to_df()["sr_14d"].isna().all()


def test_whole_numbers_stay_whole(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 5)
    answer = made.feast.get_historical_features(rows, ["horse_form:starts", "horse_form:valid_until"]).to_arrow()
    assert answer.schema.field("starts").type == pa.int32()
    assert answer.schema.field("valid_until").type == pa.timestamp("us", "UTC")


def test_instants_without_a_zone_and_as_text_are_utc(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 30)
    expected = made.feast.get_historical_features(rows, ["horse_form:sr"]).to_df()["sr"]
    plain = rows.assign(event_timestamp=rows.event_timestamp.dt.tz_localize(None))
    written = rows.assign(event_timestamp=rows.event_timestamp.dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    for other in (plain, written):
        pd.testing.assert_series_equal(
            made.feast.get_historical_features(other, ["horse_form:sr"]).to_df()["sr"], expected
        )


def test_entity_rows_may_be_arrow_or_sql_over_the_views(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 30)
    expected = made.feast.get_historical_features(rows, ["horse_form:sr"]).to_df()["sr"]
    arrow = made.feast.get_historical_features(pa.Table.from_pandas(rows), ["horse_form:sr"])
    pd.testing.assert_series_equal(arrow.to_df()["sr"], expected)
    sql = "SELECT horse_id, max(event_timestamp) AS event_timestamp FROM horse_form GROUP BY horse_id ORDER BY horse_id"
    answer = made.feast.get_historical_features(sql, ["horse_form:starts"]).to_df()
    newest = made.tables["horse_form"].to_pandas().sort_values("event_timestamp").groupby("horse_id").tail(1)
    expected_starts = newest.sort_values("horse_id").starts.reset_index(drop=True)
    pd.testing.assert_series_equal(answer.starts, expected_starts, check_dtype=False)


def test_categories_are_their_text(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 30)[["horse_id", "event_timestamp"]]
    expected = made.feast.get_historical_features(rows, ["horse_form:sr"]).to_df()["sr"]
    answer = made.feast.get_historical_features(rows.astype({"horse_id": "category"}), ["horse_form:sr"]).to_df()
    pd.testing.assert_series_equal(answer["sr"], expected)


def test_on_demand_features_come_with_and_without_full_names(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 50).assign(**REQUEST)
    short = made.feast.get_historical_features(rows, on_demand_refs()).to_df()
    full = made.feast.get_historical_features(rows, on_demand_refs(), full_feature_names=True).to_df()
    for ref in on_demand_refs():
        name = ref.split(":")[1]
        pd.testing.assert_series_equal(short[name], full[ref.replace(":", "__")], check_names=False)
    stored = made.feast.get_historical_features(rows, ["horse_form:last_class"]).to_df()
    pd.testing.assert_series_equal(
        short["class_change"], 3.0 - stored["last_class"], check_names=False, check_dtype=False
    )
    assert "debut" in set(short["layoff_band"])
    assert "race_name" not in short


def test_the_service_asks_for_every_feature_of_the_catalogue(made: MadeUp) -> None:
    rows = entity_rows(made.tables, 10).assign(**REQUEST)
    service = made.feast.get_feature_service("velo_v1")
    answer = made.feast.get_historical_features(rows, service, full_feature_names=True).to_df()
    assert set(names(refs_of())) | set(names(on_demand_refs())) <= set(answer.columns)


def test_a_query_sees_one_generation_whatever_is_published_meanwhile(tmp_path: Path) -> None:
    made = made_up_feast(tmp_path / "home", Size(values=5, rows_a_key=3))
    look = Snapshot()
    first = look.parts(made.home.offline / "horse_form")
    publish(made.home, made.tables, generation=2)
    assert len(first) == 3
    assert all("000001" in part for part in (*first, *look.parts(made.home.offline / "horse_course")))
    assert all("000002" in part for part in Snapshot().parts(made.home.offline / "horse_course"))


def test_a_half_written_part_is_not_read(made: MadeUp) -> None:
    folder = Snapshot().folder(made.home.offline / "horse_form")
    hidden = folder / ".part-9.parquet.tmp"
    hidden.write_bytes(b"half")
    (folder / ".part-9.parquet").write_bytes(b"half")
    try:
        assert not any("part-9" in part for part in Snapshot().parts(made.home.offline / "horse_form"))
    finally:
        hidden.unlink()
        (folder / ".part-9.parquet").unlink()


# A view of its own, small enough to see through: join keys under other names, fields mapped, a life, ties.


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


def test_an_answer_is_kept_as_a_data_set_and_not_over_another(made: MadeUp, tmp_path: Path) -> None:
    rows = entity_rows(made.tables, 10)
    job = made.feast.get_historical_features(rows, ["horse_form:sr"])
    storage = SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet"))
    made.feast.create_saved_dataset(from_=job, name="kept", storage=storage)
    assert pq.read_table(tmp_path / "kept.parquet").num_rows == 10
    with pytest.raises(UserError, match="allow_overwrite"):
        job.persist(storage)


def test_what_is_not_supported_is_refused_with_a_remedy(made: MadeUp) -> None:
    with pytest.raises(UserError, match="give entity_df"):
        made.feast.get_historical_features(features=["horse_form:sr"], start_date=START, end_date=AT)
    rows = entity_rows(made.tables, 2)
    with pytest.raises(NotImplementedError, match="filter_by_created_timestamp"):
        made.feast.get_historical_features(rows, ["horse_form:sr"], filter_by_created_timestamp=True)


def test_a_key_of_another_type_or_left_out_is_told_with_its_view(made: MadeUp) -> None:
    rows = pd.DataFrame({"horse_id": [1, 2], "event_timestamp": [AT, AT]})
    with pytest.raises(UserError, match=r"horse_id is int64 .* string in horse_form: cast it"):
        made.feast.get_historical_features(rows, ["horse_form:sr"]).to_df()
    with pytest.raises(UserError, match="no column 'horse_id', which horse_form is keyed by"):
        made.feast.get_historical_features(rows.drop(columns="horse_id"), ["horse_form:sr"]).to_df()


def test_a_store_never_built_says_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `velo build` first"):
        Snapshot().parts(tmp_path / "offline" / "horse_form")


def test_too_little_memory_is_told_with_the_setting_to_raise() -> None:
    with pytest.raises(UserError, match="raise it under offline_store"), changelog.engine("1MB") as connection:
        connection.execute("SELECT count(*) FROM (SELECT DISTINCT hash(i) FROM range(5000000) t(i))").fetchall()
