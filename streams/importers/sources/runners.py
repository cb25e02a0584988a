"""The runner table, the neutral form of results: CSV or Parquet, one row for each declared runner (contract 3)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from velo.errors import Refused, UserError
from velo.storage.store import Store
from velo.streams.importers.columns import COLUMNS, REQUIRED, WANTED, Bad, one_by_one, typed
from velo.streams.importers.dead_letters import BAD, PART, Row
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.results import RUNNER_TABLE, Parsed, checked_results
from velo.streams.importers.tables import read_table, runner_table

FRAME: Final = "the frame"
"""The name of a table without a file in errors."""
_HEADER: Final[dict[str, object]] = {
    "row": Refused("header in the middle of the file", "it is no runner: leave it out")
}


def read_runner_tables(sources: Sequence[Path | pa.Table], store: Store) -> Parsed:
    """Read the results in some files or tables as one load.

    A value of the wrong kind refuses its race. Raises `UserError` for a file that is not a runner table, or has a column
    without one value of the right kind.
    """
    if not sources:
        raise UserError("no file is named: name one or more runner tables")
    return checked_results(typed_rows(sources), store, RUNNER_TABLE)


def parse_rows(rows: Iterable[Row], store: Store) -> Parsed:
    """Read the results in rows of dead letters or of a CSV: values may be text."""
    return checked_results(typed_one_by_one(rows), store, RUNNER_TABLE)


def typed_rows(
    sources: Sequence[Path | pa.Table], required: Sequence[str] = REQUIRED, kinds: Mapping[str, str] = COLUMNS
) -> Iterator[Row]:
    """Yield the rows of runner tables, typed by the kind of each column; `PART` is the number of the row's file or table."""
    for part, source in enumerate(sources):
        shown = str(source) if isinstance(source, Path) else FRAME
        table = read_table(source, required) if isinstance(source, Path) else runner_table(source, FRAME, required)
        names: list[str] = []
        columns: list[list[Any]] = []
        bad: dict[int, dict[str, object]] = {}
        for name in table.column_names:
            if table[name].null_count == table.num_rows:
                continue
            names.append(name)
            if name not in kinds:
                columns.append(table[name].to_pylist())
                continue
            values, wrong = typed(table[name], kinds[name])
            _refuse_column(f"{shown}: column {name}", kinds[name], table[name], wrong)
            columns.append(values)
            for row, value in wrong.items():
                bad.setdefault(row, {})[name] = value
        names.append(PART)
        columns.append([part] * table.num_rows)
        del table
        for number, cells in enumerate(zip(*columns, strict=True)):
            typed_row = dict(zip(names, cells, strict=True))
            if number in bad:
                typed_row[BAD] = _HEADER | bad[number] if _repeats_header(typed_row, bad[number]) else bad[number]
            yield typed_row


def _repeats_header(row: Row, bad: Mapping[str, object]) -> bool:
    """Whether a row repeats the header: every cell is its column's name."""
    cells = {name: value for name, value in {**row, **bad}.items() if name in REQUIRED}
    return bool(cells) and all(str(value).strip().casefold() == name for name, value in cells.items())


def _refuse_column(label: str, kind: str, column: pa.ChunkedArray, wrong: Bad) -> None:
    """Raise `UserError` where no value of a column is of its kind: it is another column with this name.

    In a column that is blank in most rows they are taken for slips, which refuse only their races.
    """
    if wrong and len(wrong) == len(column) - column.null_count and 2 * len(wrong) >= len(column):
        row, value = next(iter(wrong.items()))
        raise UserError(
            f"{label} has {value!r} in row {row + 1} and no value that is {WANTED[kind]}: "
            "correct the column, or rename it if it is another"
        )


def typed_one_by_one(rows: Iterable[Row], kinds: Mapping[str, str] = COLUMNS) -> Iterator[Row]:
    """Yield rows of dead letters or of a CSV, whose values may be text, typed by the kind of each column."""
    for untyped in rows:
        row: dict[str, Any] = {}
        bad: dict[str, object] = {}
        for name, value in untyped.items():
            if name not in kinds:
                row[name] = value if value != "" else None
                continue
            (row[name],), wrong = one_by_one([value], kinds[name])
            if wrong:
                bad[name] = value
        if bad:
            row[BAD] = bad
        yield row


IMPORTER: Final = ResultsImporter(
    RUNNER_TABLE,
    "Load results from runner tables: CSV or Parquet, one row for each declared runner.",
    read_runner_tables,
    parse_rows,
)
