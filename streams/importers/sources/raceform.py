"""Results as raceform and rpscrape write them: CSV, one row for each runner, with the columns that the exporter chose.

Source: the result pages of a British racing paper. The files leave open what this importer decides:

- `off` is London time for every meeting worldwide, without a zone: by the 24-hour clock since rpscrape's release of
  2025-09-24, before by the 12-hour clock without am or pm. `velo.streams.importers.off_clock` decides which, and what a 12-hour
  off means at its course; where it cannot, each runner of the race is marked `off_inferred`.
- `date` is London's. `race_date` is the date at the course, or of the store's zone where that is behind.
- Columns of older releases get today's names (`velo.streams.importers.raceform_words`).
- Surface and going are what the row's words say (`velo.streams.importers.raceform_words`), else unknown.
- Keys are names unless the store's are ids: a horse is `name (country)` with the country of its suffix, GB without
  one, so that racecards of the same source have the same key; jockeys and trainers are their names. With ids, a missing id is
  the name. Ids that are not keys are kept as `source_horse_id` and so on.
- A race without an id, or with the id of another race of the load, gets one made of date, course and off.
- Ratings after the race (`rpr`, `ts`), prize, comment and every other column that the runner table lacks are
  kept with the runner, where no feature reads them.
- A date or an off that cannot be read refuses its race. A header in the middle of a file is left out and counted.
- Any other unreadable cell is unknown, counted, and kept as text: sources change their formats, and a race is worth
  more than one odd weight in it.
- `ran` that differs from the number of runners means missing rows (or too many): that is reported, not corrected.
  The rules of the runner table refuse a race without its winner.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from velo.errors import Refused, UserError
from velo.storage.store import Store
from velo.streams.importers.csv_files import CsvRow, csv_rows
from velo.streams.importers.dead_letters import BAD, PART, RAW, Row
from velo.streams.importers.importer import ResultsImporter, cells_of
from velo.streams.importers.raceform_load import Notes, Survey
from velo.streams.importers.raceform_row import DECISIVE, parse_row
from velo.streams.importers.raceform_words import todays_names
from velo.streams.importers.results import Parsed, checked_results

SOURCE: Final = "raceform"
WHAT: Final = "a raceform results file"
REQUIRED: Final = ("date", "course", "off", "horse", "pos")


def read_raceform(paths: Sequence[Path], store: Store) -> Parsed:
    """Read the results in some files as one load, checked by the rules of the runner table.

    A file may hold many days, and a race may continue in the next file. Warnings count what was decided or left unknown.
    Raises `UserError` for a file of another kind, or with a measured column in which no value can be read.
    """
    if not paths:
        raise UserError("no file is named: name one or more raceform results files")
    # two readings: the whole load decides how an off is read and which race keeps a shared id
    notes = Notes(Survey.of(_csv_rows(paths)))
    return notes.added_to(checked_results(_rows(_csv_rows(paths), store, notes), store, SOURCE))


def parse_rows(rows: Sequence[Row], store: Store) -> Parsed:
    """Read the results in the rows of dead letters: cells by column name."""
    cells = [*cells_of(rows)]
    notes = Notes(Survey.of(cells))
    return notes.added_to(checked_results(_rows(cells, store, notes), store, SOURCE))


def _rows(rows: Iterable[CsvRow], store: Store, notes: Notes) -> Iterator[Row]:
    for csv_row in rows:
        if csv_row.repeats_header:
            notes.headers += 1
            continue
        as_read = {PART: csv_row.path, RAW: csv_row.cells}
        try:
            row = parse_row(csv_row.cells, store.timezone, notes.survey.offs, csv_row.path)
        except Refused as why:
            yield notes.without_instant(csv_row) | {BAD: {"date or off": why}} | as_read
            continue
        bad = {column: row["unreadable"][column] for column in DECISIVE if column in row.get("unreadable", {})}
        yield notes.noted(row, csv_row) | as_read | ({BAD: bad} if bad else {})
    notes.refuse_columns()


def _csv_rows(paths: Iterable[Path]) -> Iterator[CsvRow]:
    for path in paths:
        yield from csv_rows(path, REQUIRED, WHAT, todays_names)


IMPORTER: Final = ResultsImporter(
    SOURCE, "Load results from raceform or rpscrape CSV files (off times in London time).", read_raceform, parse_rows
)
