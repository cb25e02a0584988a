"""The runner table, the neutral form in which results come in: CSV or Parquet, one row a declared runner (contract 3)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from velo.errors import Refused, UserError
from velo.storage.store import Store
from velo.streams.importers.columns import COLUMNS, REQUIRED, WANTED, Bad, one_by_one, typed
from velo.streams.importers.results import BAD, PART, RUNNER_TABLE, Parsed, Row, checked_results
from velo.streams.importers.tables import read_table

__all__ = ["RUNNER_TABLE", "Parsed", "checked_results", "parse_rows", "read_runner_tables"]


_HEADER: Final[dict[str, object]] = {
    "row": Refused("header in the middle of the file", "it is no runner: leave it out")
}


def read_runner_tables(paths: Sequence[Path], store: Store) -> Parsed:
    """The results in some files, as one load.

    A value that is not of its column's kind refuses its race. Raises `UserError` for a file that is no runner table,
    or has a column in which not one value is of its kind.
    """
    if not paths:
        raise UserError("no file is named: name one or more runner tables")
    return checked_results(typed_rows(paths), store, RUNNER_TABLE)


def parse_rows(rows: Iterable[Row], store: Store) -> Parsed:
    """The results of rows as a dead letter or a CSV has them: values may be text."""
    return checked_results(_typed_one_by_one(rows), store, RUNNER_TABLE)


def typed_rows(paths: Sequence[Path], required: Sequence[str] = REQUIRED) -> Iterator[Row]:
    """The rows of runner tables, typed by column; `PART` says which file a row is of."""
    for part, path in enumerate(paths):
        table = read_table(path, required)
        given: list[str] = []
        columns: list[list[Any]] = []
        bad: dict[int, dict[str, object]] = {}
        for name in table.column_names:
            if table[name].null_count == table.num_rows:
                continue
            given.append(name)
            if name not in COLUMNS:
                columns.append(table[name].to_pylist())
                continue
            values, wrong = typed(table[name], COLUMNS[name])
            _refuse_column(path, name, table[name], wrong)
            columns.append(values)
            for row, value in wrong.items():
                bad.setdefault(row, {})[name] = value
        given.append(PART)
        columns.append([part] * table.num_rows)
        del table
        for number, cells in enumerate(zip(*columns, strict=True)):
            typed_row = dict(zip(given, cells, strict=True))
            if number in bad:
                typed_row[BAD] = _HEADER | bad[number] if _repeats_header(typed_row, bad[number]) else bad[number]
            yield typed_row


def _repeats_header(row: Row, bad: Mapping[str, object]) -> bool:
    """Whether a row is the header again: every cell its column's name."""
    names = {name: value for name, value in {**row, **bad}.items() if name in REQUIRED}
    return bool(names) and all(str(value).strip().casefold() == name for name, value in names.items())


def _refuse_column(path: Path, name: str, column: pa.ChunkedArray, wrong: Bad) -> None:
    """Raise `UserError` where none of a column's values is of its kind: then it is another column by this name.

    In a column that is blank in most rows they may as well be slips, and cost their races alone.
    """
    if wrong and len(wrong) == len(column) - column.null_count and 2 * len(wrong) >= len(column):
        row, value = next(iter(wrong.items()))
        raise UserError(
            f"{path}: column {name} has {value!r} in row {row + 1} and no value that is {WANTED[COLUMNS[name]]}: "
            "correct the column, or rename it if it is another"
        )


def _typed_one_by_one(rows: Iterable[Row]) -> Iterator[Row]:
    for given in rows:
        row: dict[str, Any] = {}
        bad: dict[str, object] = {}
        for name, value in given.items():
            if name not in COLUMNS:
                row[name] = value if value != "" else None
                continue
            (row[name],), wrong = one_by_one([value], COLUMNS[name])
            if wrong:
                bad[name] = value
        if bad:
            row[BAD] = bad
        yield row
