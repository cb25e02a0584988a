"""Features as of an instant: the stock stores' values, every entity row in its place, one generation a query."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage

from tests.support.changelogs import START, Size, publish
from tests.support.feast_homes import (
    REQUEST,
    MadeUp,
    entity_rows,
    made_up_feast,
    on_demand_refs,
    same_values,
    stock_feast,
)
from tests.support.feast_homes import stored_refs as refs_of
from velo.errors import UserError
from velo.feature_repo.stores import changelog
from velo.feature_repo.stores.parts import Snapshot

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


def test_an_answer_is_kept_as_a_data_set_and_not_over_another(made: MadeUp, tmp_path: Path) -> None:
    rows = entity_rows(made.tables, 10)
    job = made.feast.get_historical_features(rows, ["horse_form:sr"])
    storage = SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet"))
    made.feast.create_saved_dataset(from_=job, name="kept", storage=storage)
    assert pq.read_table(tmp_path / "kept.parquet").num_rows == 10
    with pytest.raises(UserError, match="allow_overwrite"):
        job.persist(storage)
    again = made.feast.get_saved_dataset("kept").to_df()
    pd.testing.assert_frame_equal(again, job.to_df()[again.columns], check_like=True)


def test_what_is_not_supported_is_refused_with_a_remedy(made: MadeUp) -> None:
    with pytest.raises(UserError, match="give entity_df"):
        made.feast.get_historical_features(features=["horse_form:sr"], start_date=START, end_date=AT)
    rows = entity_rows(made.tables, 2)
    with pytest.raises(ValueError, match="Use either entity_df"):
        made.feast.get_historical_features(rows, ["horse_form:sr"], start_date=START)
    job = made.feast.get_historical_features(rows, ["horse_form:sr"])
    with pytest.raises(UserError, match=r"to_sql\(\) is not supported .* use to_arrow"):
        job.to_sql()
    with pytest.raises(UserError, match="remote storage is not supported"):
        job.to_remote_storage()
    assert not job.supports_remote_storage_export()
    with pytest.raises(
        UserError, match="event_timestamp already is the instant at which a value became known: leave it"
    ):
        made.feast.get_historical_features(rows, ["horse_form:sr"], filter_by_created_timestamp=True)


def test_a_key_of_another_type_or_left_out_is_reported_with_its_view(made: MadeUp) -> None:
    rows = pd.DataFrame({"horse_id": [1, 2], "event_timestamp": [AT, AT]})
    with pytest.raises(UserError, match=r"horse_id is int64 .* string in horse_form: cast it"):
        made.feast.get_historical_features(rows, ["horse_form:sr"]).to_df()
    with pytest.raises(UserError, match="no column 'horse_id', a key of horse_form"):
        made.feast.get_historical_features(rows.drop(columns="horse_id"), ["horse_form:sr"]).to_df()


def test_a_store_never_built_says_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `velo build` first"):
        Snapshot().parts(tmp_path / "offline" / "horse_form")


def test_too_little_memory_is_reported_with_the_setting_to_raise() -> None:
    with pytest.raises(UserError, match="raise it under offline_store"), changelog.engine("1MB") as connection:
        connection.execute("SELECT count(*) FROM (SELECT DISTINCT hash(i) FROM range(5000000) t(i))").fetchall()
