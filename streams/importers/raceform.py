"""Results as raceform and rpscrape write them: CSV, one row a runner, columns by choice of whoever exported them.

Source: the result pages of a British racing paper. What this importer settles, because the files do not say it:

- `off` is London time for every meeting on earth, without a zone: by the 24-hour clock since rpscrape's release of
  2025-09-24, by the 12-hour one without am or pm before. `velo.streams.importers.off_clock` tells which, and what a 12-hour
  off means at its course; where it cannot, each runner of the race is marked `off_inferred`.
- `race_date` is the date at the course (of the store's zone where that is behind): `date` is London's.
- Columns of older releases have today's names (`velo.streams.importers.raceform_columns`).
- Surface and going are what the row's words say (`velo.streams.importers.raceform_words`), else unknown.
- Keys. By name unless the store says by id: a horse is `name (country)` with the country of its suffix, GB without
  one, so that racecards of the same source meet it; jockeys and trainers are their names. By id, ids are used where
  given, names elsewhere. Ids not used as keys are kept as `source_horse_id` and so on.
- A race without an id, or whose id another race of the load has already, gets one made of date, course and off.
- Ratings after the race (`rpr`, `ts`), prize, comment and every other column without a place in the runner table are
  kept with the runner, where no feature reaches them.
- A date or an off that cannot be read refuses its race; a header again in the middle of a file is left out and counted.
- Any other cell with something unreadable is unknown, counted, and kept as text: pages change their ways, and a race is worth
  more than one odd weight in it.
- `ran` that differs from the runners given says that rows are missing (or that several are too many): told, not
  mended. A race whose winner is missing is refused by the rules of the runner table.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.storage.store import Store
from velo.streams.importers.csv_files import CsvRow, csv_rows
from velo.streams.importers.raceform_columns import todays_names
from velo.streams.importers.raceform_load import Notes, Survey
from velo.streams.importers.raceform_row import parse_row
from velo.streams.importers.results import BAD, PART, RAW, Parsed, Row, checked_results

__all__ = ["SOURCE", "parse_row", "parse_rows", "read_raceform"]

SOURCE: Final = "raceform"
WHAT: Final = "a raceform results file"
REQUIRED: Final = ("date", "course", "off", "horse", "pos")
DECISIVE: Final = ("result_version", "known_at")
"""Columns in which something unreadable refuses the race: taken as unknown, it would change what was known when."""


def read_raceform(paths: Iterable[Path], store: Store) -> Parsed:
    """The results in some files, as one load: checked by the rules of the runner table, refused races apart.

    Files may hold many days, and a race may continue in the next file. What was settled or left unknown on the way is
    counted among the warnings. Raises `UserError` for a file that is none, or has a measured column of which not one
    value can be read.
    """
    files = tuple(paths)
    if not files:
        raise UserError("no file is named: name one or more raceform results files")
    notes = Notes(Survey.of(_given(files)))
    return notes.told(checked_results(_rows(_given(files), store, notes), store, SOURCE))


def parse_rows(rows: Iterable[Mapping[str, Any]], store: Store) -> Parsed:
    """The results of rows as a dead letter has them: cells by column name, in one part."""
    given = [
        CsvRow(Path("dead letter"), number, {name: str(cell) for name, cell in row.items() if cell is not None})
        for number, row in enumerate(rows, 1)
    ]
    notes = Notes(Survey.of(given))
    return notes.told(checked_results(_rows(given, store, notes), store, SOURCE))


def _rows(rows: Iterable[CsvRow], store: Store, notes: Notes) -> Iterator[Row]:
    for given in rows:
        if given.repeats_header:
            notes.headers += 1
            continue
        read = {PART: given.path, RAW: given.cells}
        try:
            row = parse_row(given.cells, store.timezone, notes.survey.offs, given.path)
        except Refused as why:
            yield notes.without_instant(given) | {BAD: {"date or off": why}} | read
            continue
        bad = {column: row["unreadable"][column] for column in DECISIVE if column in row.get("unreadable", {})}
        yield notes.taken(row, given) | read | ({BAD: bad} if bad else {})
    notes.refuse_columns()


def _given(files: Iterable[Path]) -> Iterator[CsvRow]:
    for path in files:
        yield from csv_rows(path, REQUIRED, WHAT, todays_names)
