"""Read runner tables into Arrow: CSV or Parquet, recognised by content."""

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from velo.errors import UserError
from velo.streams.importers.columns import COLUMNS, REQUIRED
from velo.streams.importers.file_kinds import PARQUET, file_kind, refuse_other_kind

_SEPARATORS: Final = ",;\t|"
_SAMPLE_BYTES: Final = 2**16
_LONGEST_HEADER: Final = 2**20
_MOST_ROWS: Final = 50_000_000
"""More runners than all recorded racing has: a few kilobytes of Parquet can claim any number of rows."""
_LONGEST_CELL: Final = 2**20
"""As long as a CSV's cell may be: a few kilobytes of Parquet can unpack to a gigabyte of one letter."""
_MOST_TEXT: Final = 2**33
_LONGEST_COLUMN: Final = 2**26
_LONGEST_CELL_MEAN: Final = 2**10
"""A column of one row group may unpack to `_LONGEST_COLUMN` bytes, plus this for each row."""


def read_table(path: Path, required: Sequence[str] = REQUIRED) -> pa.Table:
    """Return a file as a table; columns of a CSV are text, blanks null. Raises `UserError` for a file that is not a runner table."""
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
    except OSError as refused:
        raise UserError(f"cannot read {path} ({refused.strerror}): name a CSV or Parquet file") from None
    if not sample.strip():
        raise UserError(f"{path} is empty: export it again, or leave it out")
    refuse_other_kind(path, sample, "a runner table is CSV or Parquet", PARQUET)
    try:
        table = parquet_table(path) if file_kind(sample) is PARQUET else _csv(path, sample, required)
    except (pa.ArrowException, OSError, csv.Error) as broken:
        first_line = " ".join(str(broken).split())[:200]
        raise UserError(f"{path} cannot be read ({first_line}): export it again") from None
    return runner_table(table, str(path), required)


def runner_table(table: pa.Table, source: str, required: Sequence[str] = REQUIRED) -> pa.Table:
    """Return a table with the runner table's own column names. Raises `UserError`, which names `source`, for another table."""
    table = table.rename_columns(_named(table.column_names))
    nameless = [at for at, name in enumerate(table.column_names) if not name]
    if len(nameless) > 1:  # commas that a spreadsheet adds after the last column
        blank = {at for at in nameless if table.column(at).null_count == table.num_rows}
        table = table.select([at for at in range(table.num_columns) if at not in blank])
    _check_columns(source, table.column_names, required)
    if not table.num_rows:
        raise UserError(f"{source} has no rows: export it again, or leave it out")
    return table


def parquet_table(path: Path) -> pa.Table:
    """Return a Parquet file as a table, texts as plain strings. Raises `UserError` for one of excessive size."""
    with parquet.ParquetFile(path) as file:  # read_table would import pyarrow.dataset, and with it pandas
        if file.metadata.num_rows > _MOST_ROWS:
            raise UserError(
                f"{path} has {file.metadata.num_rows:,} rows, but a runner table has {_MOST_ROWS:,} at most: split it"
            )
        texts = _texts(path, file.metadata)
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        table = file.read()
    _refuse_long_texts(path, table)
    plain = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain))


def _texts(path: Path, metadata: parquet.FileMetaData) -> list[str]:
    """Return the columns of text, to be read as dictionaries. Raises `UserError` for a column of excessive size."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > _LONGEST_COLUMN + _LONGEST_CELL_MEAN * group.num_rows:
                raise UserError(
                    f"{path} has {column.total_uncompressed_size:,} bytes in the column {column.path_in_schema} of "
                    f"{group.num_rows:,} rows, but a runner table holds names and numbers: leave that column out"
                )
    schema = metadata.schema
    return [column.path for column in map(schema.column, range(len(schema))) if column.physical_type == "BYTE_ARRAY"]


def _refuse_long_texts(path: Path, table: pa.Table) -> None:
    """Raise `UserError` for excessive texts: one that is stored once may be the value of every row."""
    whole = 0
    for name, column in zip(table.column_names, table.columns, strict=True):
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            lengths = compute.binary_length(chunk.dictionary)
            if (longest := compute.max(lengths).as_py() or 0) > _LONGEST_CELL:
                raise UserError(
                    f"{path} has a text of {longest:,} bytes in the column {name}, but a field has {_LONGEST_CELL:,} at "
                    "most: leave that column out"
                )
            whole += compute.sum(compute.cast(lengths.take(chunk.indices), pa.int64())).as_py() or 0
            if whole > _MOST_TEXT:
                raise UserError(
                    f"{path} unpacks to more than {_MOST_TEXT:,} bytes of text, most of it in the column {name}: leave that "
                    "column out, or split the file"
                )


def _named(given: Sequence[str]) -> list[str]:
    """Return column names trimmed, and in the runner table's spelling where only the case differs."""
    trimmed = [name.strip() for name in given]
    return [
        name.casefold() if name.casefold() in COLUMNS and name.casefold() not in trimmed else name for name in trimmed
    ]


def _csv(path: Path, sample: bytes, required: Sequence[str]) -> pa.Table:
    if b"\0" in sample:
        raise UserError(f"{path} is neither CSV nor Parquet but another binary file: export it as one of these")
    headers = {separator: _header(path, separator) for separator in _SEPARATORS}
    # the separator with which the header has the most required columns
    separator = max(headers, key=lambda each: len(set(required).intersection(_named(headers[each]))))
    header = headers[separator]
    options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    # on one thread: an error then names its row
    return arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=options,
    )


def _header(path: Path, separator: str) -> list[str]:
    """Return the cells of the first line that is not blank."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            lines = csv.reader(iter(lambda: file.readline(_LONGEST_HEADER), ""), delimiter=separator)
            return next((cells for cells in lines if cells), [])
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text: save it as CSV in UTF-8, or as Parquet") from None


def _check_columns(source: str, names: Sequence[str], required: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{source} has column {twice[0] or 'without a name'} more than once: leave one of them")
    for missing in (name for name in required if name not in names):
        others = [name for name in names if name not in COLUMNS]
        alike = get_close_matches(missing, others, 1)
        hint = f"rename column {alike[0]}" if alike else f"add it (required are {', '.join(required)})"
        raise UserError(f"{source} has no column {missing}: {hint}")
