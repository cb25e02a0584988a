"""The warehouse shows the published tables in SQL, and each day's values as they stood before its first result."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.builders import a_field, a_log, a_result, a_runner
from tests.support.logs import a_store, logged
from tests.support.stores import NOW, Row
from tests.support.streaming import streamed
from velo.errors import UserError
from velo.racing.messages import Result, from_record
from velo.serving.scoring.race_messages import messages_between
from velo.storage.store import Store
from velo.streams.batch.build import build, compact
from velo.streams.batch.warehouse import ask, make_warehouse

pytestmark = pytest.mark.slow


def race(race_id: str, on: str, off: str, known_at: str, *trainers: str, **columns: Any) -> Row:
    """One runner a trainer, Horse 1 the winner, a jockey who rides for nobody else."""
    runners = [runner | {"trainer": trainer} for runner, trainer in zip(a_field(len(trainers)), trainers, strict=True)]
    return a_result(*runners, race_id=race_id, race_date=on, off_time=f"{on} {off}", known_at=known_at, **columns)


MONDAY = race("R1", "2024-05-06", "14:00", "2024-05-06 14:15", "Dreaper", "McCain")
TUESDAY = [
    race("R2", "2024-05-07", "14:00", "2024-05-07 14:15", "McCain", "Dreaper"),
    race("R3", "2024-05-07", "15:00", "2024-05-07 15:15", "Dreaper", "Stoute"),
]
TUESDAY_TOLD_ON_FRIDAY = race("R4", "2024-05-07", "16:00", "2024-05-10 10:00", "Henderson", "Dreaper")
WEDNESDAY = race("R5", "2024-05-08", "14:00", "2024-05-08 14:15", "Dreaper", "Stoute")
SUNDAY_TOLD_ON_THURSDAY = race("R0", "2024-05-05", "14:00", "2024-05-09 10:00", "Dreaper", "Dreaper")


def a_built_store(home: Path, *records: Row) -> Store:
    store = a_store(home)
    logged(store, *(from_record(record) for record in a_log(*sorted(records, key=lambda record: record["known_at"]))))
    build(store, NOW)
    make_warehouse(store)
    return store


def asked(store: Store, query: str) -> list[tuple[Any, ...]]:
    return ask(store, query).rows


def daily(store: Store, trainer: str) -> list[tuple[Any, ...]]:
    return asked(
        store,
        "SELECT race_date, runs_14d, wins_14d, sr_14d FROM trainer_velocity_daily "
        f"WHERE trainer_id = '{trainer}' ORDER BY race_date",
    )


def test_a_daily_table_has_a_row_for_each_day_with_a_runner_with_the_values_before_its_first_result(
    tmp_path: Path,
) -> None:
    """Two races on one day are one row that knows neither; a key's first day has a row of nulls."""
    store = a_built_store(tmp_path, MONDAY, *TUESDAY, WEDNESDAY)
    assert daily(store, "dreaper") == [
        (date(2024, 5, 6), None, None, None),
        (date(2024, 5, 7), 1, 1, 1.0),
        (date(2024, 5, 8), 3, 2, 2 / 3),
    ]
    assert daily(store, "stoute") == [(date(2024, 5, 7), None, None, None), (date(2024, 5, 8), 1, 0, 0.0)]
    assert daily(store, "mccain") == [(date(2024, 5, 6), None, None, None), (date(2024, 5, 7), 1, 0, 0.0)]


def test_a_result_known_late_joins_its_day_and_no_value_of_the_days_before_it_was_known(tmp_path: Path) -> None:
    """Tuesday's race known on Friday: its trainer has a Tuesday row; Wednesday's values do not know of it."""
    store = a_built_store(tmp_path, MONDAY, *TUESDAY, WEDNESDAY, TUESDAY_TOLD_ON_FRIDAY)
    assert daily(store, "henderson") == [(date(2024, 5, 7), None, None, None)]
    assert daily(store, "dreaper")[1:] == [(date(2024, 5, 7), 1, 1, 1.0), (date(2024, 5, 8), 3, 2, 2 / 3)]


def test_a_day_known_wholly_late_has_the_values_it_ended_with(tmp_path: Path) -> None:
    """Sunday known on Thursday knows nothing of Monday to Wednesday, though these were known first."""
    store = a_built_store(tmp_path, MONDAY, *TUESDAY, WEDNESDAY, SUNDAY_TOLD_ON_THURSDAY)
    assert daily(store, "dreaper")[0] == (date(2024, 5, 5), None, None, None)
    assert [row[1] for row in daily(store, "dreaper")] == [None, None, 1, 3]


def test_every_daily_table_has_its_family_s_keys_the_day_and_its_features(tmp_path: Path) -> None:
    """Trainer, jockey, form and draw bias: one row a key and day each, as the seed report asked."""
    store = a_built_store(tmp_path, MONDAY, *TUESDAY, WEDNESDAY)
    for view, keys, feature in (
        ("trainer_velocity", "trainer_id", "sr_90d"),
        ("jockey_velocity", "jockey_id", "sr_30d"),
        ("horse_form", "horse_id", "prb_ewma"),
        ("draw_bias", "draw_cell", "iv_1095d"),
    ):
        rows = asked(store, f"SELECT {keys}, race_date, {feature} FROM {view}_daily")
        due = asked(store, f"SELECT DISTINCT {keys}, race_date FROM starts")
        assert sorted(row[:2] for row in rows) == sorted(due)
        assert any(row[2] is not None for row in rows)


def test_the_views_show_a_new_generation_without_being_made_again(tmp_path: Path) -> None:
    """Features, starts, results and daily tables alike, after an incremental build, a compaction and a whole build."""
    store = a_built_store(tmp_path, MONDAY, *TUESDAY)
    logged(store, from_record(WEDNESDAY))
    for publish in (
        lambda: build(store, NOW),
        lambda: compact(store),
        lambda: build(store, NOW, whole=True),
    ):
        publish()
        assert daily(store, "dreaper")[-1] == (date(2024, 5, 8), 3, 2, 2 / 3)
        assert asked(store, "SELECT count(*) FROM results") == [(4,)]
        assert asked(store, "SELECT count(*), max(known_at) FROM starts") == [
            (8, datetime(2024, 5, 8, 14, 15, tzinfo=UTC))
        ]
        assert asked(store, "SELECT count(*) FROM runners") == [(8,)]


def test_starts_are_those_of_the_latest_version_and_runners_those_of_every_version(tmp_path: Path) -> None:
    """An amended race counts once among the starts; a voided one does not; both stay as sent."""
    amended = race("R1", "2024-05-06", "14:00", "2024-05-07 10:00", "McCain", "Dreaper", result_version=2)
    void = a_result(
        a_runner("Horse 1", status="VOID"),
        race_id="R5",
        race_date="2024-05-08",
        off_time="2024-05-08 14:00",
        known_at="2024-05-09 10:00",
        result_version=2,
    )
    store = a_built_store(tmp_path, MONDAY, amended, WEDNESDAY, void)
    won = asked(store, "SELECT race_id, trainer_id FROM starts WHERE win = 1")
    assert won == [("R1", "mccain")]
    assert asked(store, "SELECT count(*) FROM runners") == [(7,)]


def test_a_folder_with_an_equals_sign_in_its_name_changes_no_column(tmp_path: Path) -> None:
    """DuckDB reads `course=York` in a path as a column of every file below it, unless that is switched off."""
    store = a_built_store(tmp_path / "course=York" / "trainer_id=nobody", MONDAY)
    assert asked(store, "SELECT DISTINCT course FROM runners") == [(MONDAY["course"],)]
    assert asked(store, "SELECT DISTINCT course FROM horse_course") == [(MONDAY["course"],)]
    assert asked(store, "SELECT trainer_id FROM starts ORDER BY 1") == [("dreaper",), ("mccain",)]
    [race_messages] = messages_between(store.home, date(2024, 5, 6), date(2024, 5, 6))
    assert isinstance(race_messages[0], Result)
    assert race_messages[0].race.course == MONDAY["course"]
    assert {runner.trainer_id for runner in race_messages[0].runners} == {"dreaper", "mccain"}


def test_the_warehouse_can_be_read_and_not_written(tmp_path: Path) -> None:
    """A query that would change something, and one that means nothing, are refused in a line."""
    store = a_built_store(tmp_path, MONDAY)
    for query in ("DROP VIEW starts", "SELECT nothing FROM nowhere"):
        with pytest.raises(UserError, match="refused the query") as refused:
            ask(store, query)
        assert "\n" not in str(refused.value)


def test_without_a_build_there_is_no_warehouse_and_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `velo build` first"):
        ask(a_store(tmp_path), "SELECT 1")


def test_a_store_that_only_the_stream_made_is_asked_in_sql_too(tmp_path: Path) -> None:
    """Its feature views, as the build has them; of what wants a build it says so. A view without a row has its columns."""
    records = sorted([MONDAY, *TUESDAY, WEDNESDAY], key=lambda each: each["known_at"])
    messages = [from_record(record) for record in a_log(*records)]
    streaming = a_store(tmp_path / "streamed")
    logged(streaming, *messages)
    streamed(streaming)
    built = a_built_store(tmp_path / "built", *records)
    for view in ("trainer_velocity", "horse_form"):
        query = f"SELECT * EXCLUDE (created_timestamp) FROM {view} ORDER BY ALL"
        assert ask(streaming, query) == ask(built, query)
    with pytest.raises(UserError, match="`velo build` adds the messages and the daily views"):
        ask(streaming, "SELECT * FROM starts")
    build(streaming, NOW)
    make_warehouse(streaming)
    query = "SELECT horse_id FROM starts ORDER BY ALL"
    assert ask(streaming, query) == ask(built, query)


def test_a_stream_leaves_a_file_in_every_view_as_a_build_does(tmp_path: Path) -> None:
    """Also of no rows, and in a store whose stream left folders without one."""
    store = a_store(tmp_path / "new")
    streamed(store)
    folder = store.home.offline / "draw_bias"
    (part,) = folder.glob("*.parquet")
    assert pq.read_table(part).num_rows == 0
    part.unlink()
    streamed(store)
    built = a_built_store(tmp_path / "built", MONDAY)
    (like,) = (built.home.offline / "draw_bias").glob("*.parquet")
    (part,) = folder.glob("*.parquet")
    assert pq.read_schema(part).names == pq.read_schema(like).names
    query = "SELECT count(*) FROM draw_bias"
    assert ask(store, query).rows == [(0,)]
