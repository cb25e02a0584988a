"""Files of runner tables: any CSV or Parquet that holds the values is read, any other is told in one line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from streams.importers.runners import read_runner_tables
from tests.builders import a_field, a_race, write_runner_table
from tests.logs import a_store
from velo.errors import UserError
from velo.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path / "home")


def _file(path: Path, content: bytes | None) -> Path:
    if content is not None:
        path.write_bytes(content)
    return path


HEADER = b"race_id,race_date,course,horse,status"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read .* (No such file or directory)"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (HEADER + b"\n", "has no rows"),
        (
            HEADER.replace(b"horse", b"horse_name") + b"\nR1,2024-05-01,Ascot,Arkle,NR\n",
            "no column horse: rename column horse_name",
        ),
        (HEADER.replace(b",status", b"") + b"\nR1,2024-05-01,Ascot,Arkle\n", "no column status: add it"),
        (HEADER + b",horse\nR1,2024-05-01,Ascot,Arkle,NR,Arkle\n", "has column horse more than once"),
        (
            HEADER + b",position\nR1,2024-05-01,Ascot,Arkle,NR,first\n",
            "column position has 'first' in row 1 .* a whole number",
        ),
        (HEADER + b"\nR1,2024-05-01,Ascot,Arkle,NR\nR1,2024\n", "Expected 5 columns, got 2"),
        (b"\x7fELF\x00\x00\x01", "neither CSV nor Parquet"),
        (b"PAR1 and no more", "cannot be read"),
        ("race_id,race_date,course,horse,status\nR1,2024-05-01,Ascot,Café,NR\n".encode("latin-1"), "UTF"),
    ],
)
def test_a_file_that_is_no_runner_table_is_told_in_one_line(
    tmp_path: Path, store: Store, content: bytes | None, told: str
) -> None:
    path = _file(tmp_path / "a table.csv", content)
    with pytest.raises(UserError, match=told.replace("(", r"\(").replace(")", r"\)")) as wrong:
        read_runner_tables([path], store)
    assert str(path) in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_folder_is_no_runner_table(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_runner_tables([tmp_path], store)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("position", pa.int64()),
        ("position", pa.float64()),
        ("position", pa.string()),
        ("race_date", pa.string()),
        ("race_date", pa.timestamp("ns")),
        ("known_at", pa.string()),
        ("known_at", pa.timestamp("ns", "Asia/Tokyo")),
        ("known_at", pa.timestamp("ms")),
        ("horse_id", pa.int32()),
        ("horse_id", pa.float64()),
        ("status", pa.dictionary(pa.int32(), pa.string())),
        ("weight_lbs", pa.int16()),
    ],
)
def test_a_column_may_be_of_any_type_that_holds_its_values(
    tmp_path: Path, store: Store, column: str, kind: pa.DataType
) -> None:
    """As data frames, spreadsheets and databases write them."""
    rows = a_race(*(row | {"horse_id": "7" + str(row["position"])} for row in a_field(2)), known_at="2024-05-01 18:00")
    table = parquet.read_table(write_runner_table(tmp_path / "a.parquet", rows))
    at = table.column_names.index(column)
    if column == "horse_id":
        table = table.set_column(at, column, table[column].cast(pa.int64()))
    other = table.set_column(at, column, table[column].cast(kind))
    parquet.write_table(other, tmp_path / "b.parquet")
    parsed = [read_runner_tables([tmp_path / name], store).messages for name in ("a.parquet", "b.parquet")]
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) == 1
