"""Frames of every library go in as Arrow and come back as what they were."""

from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from velo.api.frames import in_library, like, tables, to_arrow
from velo.api.values import day, files, instant, refuse_library
from velo.errors import UserError

AT = datetime(2024, 5, 1, 13, 55, tzinfo=UTC)
COLUMNS: dict[str, list[Any]] = {"horse": ["Arkle", None], "draw": [3, 4], "at": [AT, AT]}


class Streams:
    """Some other library's frame: all that is known of it is its Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.table(COLUMNS).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("frame", [pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS), Streams()])
def test_a_frame_of_any_library_has_the_same_values_in_arrow(frame: object) -> None:
    table = to_arrow(frame)
    assert table.to_pydict() == COLUMNS
    assert table.schema.field("horse").type == pa.string()


def test_a_relation_of_duckdb_goes_in_by_its_arrow_stream() -> None:
    relation = duckdb.sql("SELECT 'Arkle' AS horse, 3 AS draw")
    assert to_arrow(relation).to_pydict() == {"horse": ["Arkle"], "draw": [3]}


def test_categories_become_their_text() -> None:
    pandas = pd.DataFrame({"going": pd.Categorical(["Good", "Soft", "Good"])})
    polars = pl.DataFrame({"going": pl.Series(["Good", "Soft", "Good"], dtype=pl.Categorical)})
    for frame in (pandas, polars, pa.table({"going": pa.array(["Good", "Soft", "Good"]).dictionary_encode()})):
        table = to_arrow(frame)
        assert table.schema.field("going").type == pa.string()
        assert table["going"].to_pylist() == ["Good", "Soft", "Good"]


def test_a_column_of_mixed_types_becomes_text_and_missing_values_stay_missing() -> None:
    frame = pd.DataFrame({"draw": [3, "x", None, 4.5, float("nan")]}, dtype=object)
    assert to_arrow(frame)["draw"].to_pylist() == ["3", "x", None, "4.5", None]


def test_an_index_of_pandas_is_no_column_and_comes_back() -> None:
    frame = pd.DataFrame(COLUMNS, index=pd.Index([7, 3], name="my row"))
    table = to_arrow(frame)
    assert table.column_names == ["horse", "draw", "at"]
    back = like(table, frame)
    assert isinstance(back, pd.DataFrame)
    assert back.index.tolist() == [7, 3]
    assert back["draw"].tolist() == [3, 4]


@pytest.mark.parametrize(("frame", "kind"), [(pl.DataFrame(COLUMNS), pl.DataFrame), (Streams(), pa.Table)])
def test_rows_come_back_in_the_callers_library(frame: object, kind: type) -> None:
    assert isinstance(like(pa.table(COLUMNS), frame), kind)


def test_a_library_by_name_gives_its_frames() -> None:
    table = pa.table(COLUMNS)
    assert in_library(table, "pyarrow") is table
    assert isinstance(in_library(table, "pandas"), pd.DataFrame)
    assert in_library(table, "polars")["draw"].to_list() == [3, 4]
    with pytest.raises(UserError, match="frames is 'spark', but frames are of pandas, polars, pyarrow: name one"):
        refuse_library("spark")


@pytest.mark.parametrize("bad", [3, {"horse": ["Arkle"]}, pl.LazyFrame(COLUMNS), pd.Series([1])])
def test_what_is_no_frame_is_refused_in_one_line(bad: object) -> None:
    with pytest.raises(
        UserError, match=f"^a {type(bad).__name__} is not a data frame: give a frame of pandas or polars"
    ):
        to_arrow(bad)


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="the frame has two columns of one name"):
        to_arrow(pd.DataFrame([[1, 2]], columns=["draw", "draw"]))


def test_instants_have_an_offset_and_dates_have_none() -> None:
    assert instant("2024-05-01T14:55:00+01:00") == instant(AT) == AT
    assert instant(None) is None
    for bad in ("yesterday", "2024-05-01T13:55:00", datetime(2024, 5, 1)):  # noqa: DTZ001 what is refused
        with pytest.raises(UserError, match="is not a timestamp with a UTC offset: write it like"):
            instant(bad)
    assert day("2024-05-01") == day(date(2024, 5, 1)) == date(2024, 5, 1)
    assert day(None) is None
    for wrong in ("soon", AT):
        with pytest.raises(UserError, match="is not a date: write it like 2025-06-21"):
            day(wrong)


def test_a_source_is_a_frame_a_file_or_a_list_of_files() -> None:
    assert [str(path) for path in tables("a.csv")] == ["a.csv"]
    assert [str(path) for path in tables(["a.csv", "b.csv"])] == ["a.csv", "b.csv"]
    assert tables(pd.DataFrame(COLUMNS))[0].to_pydict() == COLUMNS  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a DataFrame is not a file: name one or more files"):
        files(pd.DataFrame(COLUMNS))
