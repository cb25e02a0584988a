"""Files of runner tables: any CSV or Parquet that holds the values is read, any other is reported in one line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest

from tests.support.builders import a_field, a_race, write_runner_table
from velo.errors import UserError
from velo.storage.store import Store
from velo.streams.importers.sources.runners import read_runner_tables


def _file(path: Path, content: bytes | None) -> Path:
    if content is not None:
        path.write_bytes(content)
    return path


HEADER = b"race_id,race_date,course,horse,status"


@pytest.mark.parametrize(
    ("content", "said"),
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
        (b"\x1f\x8b\x08\x00 and more", "is a gzip file, but a runner table is CSV or Parquet: unpack it first"),
        (HEADER + b",,\nR1,2024-05-01,Ascot,Arkle,NR,1,2\n", "has column without a name more than once"),
        (HEADER + b",off_time\nR1,2024-05-01,Ascot,Arkle,NR,14:30\n", "column off_time has '14:30' in row 1"),
        ("race_id,race_date,course,horse,status\nR1,2024-05-01,Ascot,Café,NR\n".encode("latin-1"), "UTF"),
    ],
)
def test_a_file_that_is_no_runner_table_is_reported_in_one_line(
    tmp_path: Path, store: Store, content: bytes | None, said: str
) -> None:
    path = _file(tmp_path / "a table.csv", content)
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")) as wrong:
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
        ("horse_id", pa.decimal128(30, 2)),
        ("status", pa.binary()),
        ("status", pa.dictionary(pa.int32(), pa.string())),
        ("weight_lbs", pa.int16()),
    ],
)
def test_a_column_may_be_of_any_type_that_holds_its_values(
    tmp_path: Path, store: Store, column: str, kind: pa.DataType
) -> None:
    """As data frames, spreadsheets and databases write them."""
    field = (row | {"horse_id": "7" + str(row["position"])} for row in a_field(2))
    rows = a_race(*field, known_at="2024-05-01 18:00")
    table = parquet.read_table(write_runner_table(tmp_path / "a.parquet", rows))
    at = table.column_names.index(column)
    if column == "horse_id":
        table = table.set_column(at, column, table[column].cast(pa.int64()))
    other = table.set_column(at, column, table[column].cast(kind))
    parquet.write_table(other, tmp_path / "b.parquet")
    parsed = [read_runner_tables([tmp_path / name], store).messages for name in ("a.parquet", "b.parquet")]
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) == 1


@pytest.mark.parametrize("kind", [pa.int8(), pa.float64(), pa.string()])
def test_a_truth_may_be_a_number(tmp_path: Path, store: Store, kind: pa.DataType) -> None:
    """A data frame makes 1.0 and 0.0 of truths where one is missing."""
    table = parquet.read_table(write_runner_table(tmp_path / "a.parquet", a_race(*a_field(2))))
    table = table.drop_columns([name for name in table.column_names if name == "handicap"])
    parquet.write_table(table.append_column("handicap", pa.array([1, None]).cast(kind)), tmp_path / "b.parquet")
    (message,) = read_runner_tables([tmp_path / "b.parquet"], store).messages
    assert message.race.handicap is True


AS_CSV = """race_id,race_date,course,horse,status,position,sp_decimal,handicap,off_time
007,2024-05-01,Longchamp,Épona,FINISHED,1,2.5,1,2024-05-01T13:00:00Z
007,2024-05-01,Longchamp,Bête,PU,,,1,2024-05-01T13:00:00Z
"""


@pytest.mark.parametrize(
    "written",
    [
        AS_CSV.replace("\n", "\r\n"),
        "\ufeff" + AS_CSV,
        "\n\n" + AS_CSV,
        AS_CSV.replace(",", ";"),
        AS_CSV.replace(",", "\t"),
        AS_CSV.replace("\n", ",,\n"),
        AS_CSV.replace(",", " , "),
        AS_CSV.replace("sp_decimal", "SP_Decimal"),
        AS_CSV.replace("PU,,,1", "PU,NA,NaN,1.0"),
        AS_CSV.replace("PU,,,1", "PU,-,–,yes"),
        AS_CSV.replace("2024-05-01,", "2024-05-01 00:00:00,"),
        AS_CSV.replace("T13:00:00Z", " 13:00:00 UTC"),
    ],
    ids=str.__repr__,
)
def test_a_csv_may_be_written_as_spreadsheets_and_databases_of_any_country_write_it(
    tmp_path: Path, store: Store, written: str
) -> None:
    """Other separators, headers and words for no value; `007` stays as it is."""
    for name, text in (("a.csv", AS_CSV), ("b.csv", written)):
        (tmp_path / name).write_bytes(text.encode())
    parsed = [read_runner_tables([tmp_path / name], store) for name in ("a.csv", "b.csv")]
    assert [each.messages[0].race_id for each in parsed] == ["007", "007"]
    assert parsed[0].messages == parsed[1].messages
    assert not parsed[1].refused


@pytest.mark.parametrize(
    ("column", "bad"),
    [("race_date", "6 July"), ("off_time", "soon"), ("known_at", "2024-05-01 at six"), ("draw", "high")],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_bad_cell_costs_its_race_and_not_its_file(
    kind: str, column: str, bad: str, tmp_path: Path, store: Store
) -> None:
    """Also the only cell of its column."""
    fields = {"race_date": "2024-05-01", "off_time": "2024-05-01T14:00:00Z", "known_at": "", "draw": ""}
    rows = [
        row | {"race_id": race_id} | fields | ({column: bad} if (race_id, row["horse"]) == spoilt else {})
        for spoilt in [("R1", a_field(2)[1]["horse"])]
        for race_id in ("R1", "R2", "R3")
        for row in a_race(*a_field(2))
    ]
    path = tmp_path / f"table.{kind}"
    table = pa.table({name: [str(row[name] or "") for row in rows] for name in rows[0]})
    if kind == "csv":
        arrow_csv.write_csv(table, path)
    else:
        parquet.write_table(table, path)
    parsed = read_runner_tables([path], store)
    assert [message.race_id for message in parsed.messages] == ["R2", "R3"]
    assert [(letter.race_id, letter.reason, len(letter.rows)) for letter in parsed.refused] == [("R1", "bad value", 2)]


def test_a_header_in_the_middle_of_a_runner_table_is_refused_and_the_races_go_in(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "table.csv"
    path.write_text(AS_CSV + AS_CSV.replace("007", "008"))
    parsed = read_runner_tables([path], store)
    assert [message.race_id for message in parsed.messages] == ["007", "008"]
    (letter,) = parsed.refused
    assert (letter.reason, dict(letter.rows[0])) == (
        "header in the middle of the file",
        {name: name for name in AS_CSV.splitlines()[0].split(",")},
    )
