"""The interface of importers, and constructors for results, for racecards and for CSV files of results."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from velo.errors import Refused, UserError
from velo.storage.log.writer import Clock, Progress
from velo.storage.store import Store
from velo.streams.importers.columns import COLUMNS, REQUIRED, value_of
from velo.streams.importers.csv_files import HEADER_AGAIN, CsvRow, csv_rows
from velo.streams.importers.dead_letters import BAD, PART, RAW, Row
from velo.streams.importers.declare import ParsedCards, declare
from velo.streams.importers.ingest import ingest
from velo.streams.importers.results import Parsed, checked_results

Reader = Callable[[str | None], Any]
"""Reads one cell; raises ValueError for a cell that it cannot read."""
Complete = Callable[[dict[str, Any], Mapping[str, str], Store], None]
"""Sets columns of a row that depend on several cells; raises `Refused` where they contradict each other."""


class Report(Protocol):
    """The report of a load: a dataclass whose fields `--json` prints."""

    def facts(self) -> list[tuple[str, Any]]:
        """Names and numbers to show, in order."""

    def notes(self) -> list[str]:
        """Lines to show below them: what was refused or corrected."""


class Importer(Protocol):
    """One kind of file. `source` is its name in dead letters, `help` what its command says of itself."""

    @property
    def source(self) -> str:
        """Its name in dead letters and reports."""

    @property
    def help(self) -> str:
        """One sentence: what the command loads."""

    def load(self, store: Store, files: Sequence[Path], *, late: bool, clock: Clock, progress: Progress) -> Report:
        """Append what the files say to the log, and what is refused to the dead letters; both are synced on return.

        `late` accepts messages older than the log's end, known from now on. Raises `UserError` for a file of another kind.
        """


@dataclass(frozen=True, slots=True)
class ResultsImporter:
    """An importer of results.

    `read` checks the results of files. `read_rows` does the same for the rows of dead letters, so that they can be replayed.
    `sources` are the columns of the source, each by its names, from which a column of the runner table is read.
    """

    source: str
    help: str
    read: Callable[[Sequence[Path], Store], Parsed]
    read_rows: Callable[[Sequence[Row], Store], Parsed]
    sources: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    def load(self, store: Store, files: Sequence[Path], *, late: bool, clock: Clock, progress: Progress) -> Report:
        """Append the results (see `Importer.load`)."""
        return ingest(store, self.read(files, store), late=late, clock=clock, progress=progress)


@dataclass(frozen=True, slots=True)
class CardsImporter:
    """An importer of racecards."""

    source: str
    help: str
    read: Callable[[Sequence[Path], Store], ParsedCards]

    def load(self, store: Store, files: Sequence[Path], *, late: bool, clock: Clock, progress: Progress) -> Report:
        """Append the cards (see `Importer.load`)."""
        return declare(store, self.read(files, store), clock=clock, late=late)


def csv_importer(
    source: str,
    help: str,  # noqa: A002 the interface's own word
    columns: Mapping[str, str | tuple[str, Reader]],
    complete: Complete = lambda row, cells, store: None,
    required: Sequence[str] = (),
) -> ResultsImporter:
    """Return an importer of CSV files with one row for each runner.

    `columns` maps columns of the runner table to those of the file (casefolded): a name, or a name and a reader. Without
    a reader the cell is read as the runner table's column is. `complete` sets the rest. A file without one of the
    `required` columns, or of those that the runner table requires and `columns` maps, is refused whole. A value that
    cannot be read refuses its race. Columns that are not mapped are kept with the runner, where no feature reads them.
    """
    unknown = sorted(columns.keys() - COLUMNS)
    if unknown:
        raise ValueError(f"{source} maps {', '.join(unknown)}, which the runner table does not have")
    mapped = {name: (given, None) if isinstance(given, str) else given for name, given in columns.items()}
    needed = {*required, *(mapped[name][0] for name in REQUIRED if name in mapped)}
    what = f"a {source} file"

    def read(paths: Sequence[Path], store: Store) -> Parsed:
        if not paths:
            raise UserError(f"no file is named: name one or more {source} files")
        return _checked((row for path in paths for row in csv_rows(path, needed, what)), store)

    def read_rows(rows: Sequence[Row], store: Store) -> Parsed:
        return _checked(cells_of(rows), store)

    def _checked(rows: Iterable[CsvRow], store: Store) -> Parsed:
        reading = _CsvReading(mapped, complete, store)
        parsed = checked_results(reading.runners(rows), store, source)
        if reading.headers:
            parsed.warnings[HEADER_AGAIN] += reading.headers
        return parsed

    return ResultsImporter(source, help, read, read_rows, {name: ((given,),) for name, (given, _) in mapped.items()})


def cells_of(rows: Iterable[Row]) -> Iterator[CsvRow]:
    """Yield the rows of dead letters as rows of a CSV file: cells as text, numbered from 1."""
    for number, row in enumerate(rows, 1):
        cells = {name: str(cell) for name, cell in row.items() if cell is not None}
        yield CsvRow(Path("dead letter"), number, cells)


@dataclass(slots=True)
class _CsvReading:
    """One reading of rows by a mapping; `headers` counts the rows that repeat the header."""

    columns: Mapping[str, tuple[str, Reader | None]]
    complete: Complete
    store: Store
    headers: int = field(default=0)

    def runners(self, rows: Iterable[CsvRow]) -> Iterator[Row]:
        """Yield a row of the runner table for each row of the file."""
        placed = {name for name, _ in self.columns.values()}
        for given in rows:
            if given.repeats_header:
                self.headers += 1
                continue
            row: dict[str, Any] = {}
            bad: dict[str, object] = {}
            for column, (name, reader) in self.columns.items():
                self._read(row, bad, column, given.cells.get(name), reader)
            try:
                self.complete(row, given.cells, self.store)
            except Refused as why:
                bad["row"] = why
            for name, cell in given.cells.items():
                if name not in placed and cell:
                    row[f"source_{name}" if name in COLUMNS else name] = cell
            yield row | {PART: given.path, RAW: given.cells} | ({BAD: bad} if bad else {})

    def _read(
        self, row: dict[str, Any], bad: dict[str, object], column: str, cell: str | None, reader: Reader | None
    ) -> None:
        if cell is None:
            return
        try:
            row[column] = value_of(cell if reader is None else reader(cell), COLUMNS[column])
        except (ValueError, TypeError, OverflowError):
            bad[column] = cell
