"""Results as raceform and rpscrape write them: CSV, one row a runner, columns by choice of whoever exported them.

Source: the result pages of a British racing paper. What this importer settles, because the files do not say it:

- `off` is naive, by the 12-hour clock without am or pm (`streams.importers.cells.off`), and local: British and Irish
  offs are Europe/London, whatever the store's time zone. A foreign meeting's clock is not told; its off is read by the
  same rule in the store's time zone, and each of its runners is marked `off_inferred`. Such an off can be half a day
  out (an Australian morning is read as the afternoon after).
- Keys. By name unless the store says by id: a horse is `name (country)` with the country of its suffix, GB without
  one, so that racecards of the same source meet it; jockeys and trainers are their names. By id, ids are used where
  given, names elsewhere. Ids not used as keys are kept as `source_horse_id` and so on.
- A race without an id, or whose id another race of the load has already, gets one made of date, course and off.
- Ratings after the race (`rpr`, `ts`), prize, comment and every other column without a place in the runner table are
  kept with the runner, where no feature reaches them.
- A cell with something unreadable is unknown, counted, and kept as text: pages change their ways, and a race is worth
  more than one odd weight in it.
- `ran` that differs from the runners given says that rows are missing (or that several are too many): told, not
  mended. A race whose winner is missing is refused by the rules of the runner table.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any, Final

from streams.importers import cells
from streams.importers.columns import WANTED
from streams.importers.csv_files import CsvRow, csv_rows
from streams.importers.raceform_row import made_race_id, parse_row, when
from streams.importers.results import BAD, PART, RAW, Parsed, Row, checked_results
from velo.errors import UserError
from velo.racing.messages import NON_RUNNER, VOID
from velo.racing.names import name_key
from velo.store import Store

__all__ = ["SOURCE", "parse_row", "parse_rows", "read_raceform"]

SOURCE: Final = "raceform"
WHAT: Final = "a raceform results file"
REQUIRED: Final = ("date", "course", "off", "horse", "pos")
MEASURES: Final = {
    "num": WANTED["whole number"],
    "draw": WANTED["whole number"],
    "age": WANTED["whole number"],
    "ran": WANTED["whole number"],
    "or": WANTED["whole number"],
    "result_version": WANTED["whole number"],
    "known_at": "an instant such as 2015-04-26T17:00:00Z",
    "dist": "a distance such as 1m1f157y",
    "dist_y": "a number of yards",
    "dist_m": "a number of metres",
    "dist_f": "a number of furlongs",
    "wgt": "a weight such as 8-12",
    "lbs": "a number of pounds",
    "ovr_btn": "a number of lengths",
    "time": "a time such as 1:54.79",
    "secs": "a number of seconds",
    "sp": "odds such as 16/1 or EvensF",
    "dec": "decimal odds",
}
"""What a measured column holds. One of which no value at all can be read is another column under that name."""
DECISIVE: Final = ("result_version", "known_at")
"""Columns in which something unreadable refuses the race: taken as unknown, it would change what was known when."""
_Race = tuple[date, str, time | None]
"""What tells two races apart whatever their ids say: date, course key and local off."""
_Key = tuple[str, int]
"""A race id and a result version."""


def read_raceform(paths: Iterable[Path], store: Store) -> Parsed:
    """The results in some files, as one load: checked by the rules of the runner table, refused races apart.

    Files may hold many days, and a race may continue in the next file. What was settled or left unknown on the way is
    counted among the warnings. Raises `UserError` for a file that is none, or has a measured column of which not one
    value can be read.
    """
    files = tuple(paths)
    if not files:
        raise UserError("no file is named: name one or more raceform results files")
    notes = _Notes(_owners_of_shared_ids(_given(files)))
    return notes.told(checked_results(_rows(_given(files), store, notes), store, SOURCE))


def parse_rows(rows: Iterable[Mapping[str, Any]], store: Store) -> Parsed:
    """The results of rows as a dead letter has them: cells by column name, in one part."""
    given = [
        CsvRow(Path("dead letter"), number, {name: str(cell) for name, cell in row.items() if cell is not None})
        for number, row in enumerate(rows, 1)
    ]
    notes = _Notes(_owners_of_shared_ids(given))
    return notes.told(checked_results(_rows(given, store, notes), store, SOURCE))


def _rows(rows: Iterable[CsvRow], store: Store, notes: "_Notes") -> Iterator[Row]:
    for given in rows:
        try:
            row = parse_row(given.cells, store.timezone)
        except UserError as wrong:
            raise UserError(f"{given.place}: {wrong}") from None
        bad = {column: row["unreadable"][column] for column in DECISIVE if column in row.get("unreadable", {})}
        yield notes.taken(row, given) | {PART: given.path, RAW: given.cells} | ({BAD: bad} if bad else {})
    notes.refuse_columns()


def _given(files: Iterable[Path]) -> Iterator[CsvRow]:
    for path in files:
        yield from csv_rows(path, REQUIRED, WHAT)


def _race_of(given: CsvRow) -> _Race:
    try:
        race_date, off = when(given.cells)
    except UserError as wrong:
        raise UserError(f"{given.place}: {wrong}") from None
    return race_date, name_key(given.cells.get("course")) or "", off


def _key_of(race_id: str, given: CsvRow) -> _Key:
    try:
        return race_id, cells.whole(given.cells.get("result_version")) or 1
    except ValueError:
        return race_id, 1


def _owners_of_shared_ids(rows: Iterable[CsvRow]) -> dict[_Key, _Race]:
    """Of each id under which the rows have several races, the one that keeps it: the earliest, in whatever order."""
    races: dict[_Key, set[_Race]] = defaultdict(set)
    for given in rows:
        race_id = cells.text(given.cells.get("race_id"))
        if race_id:
            races[_key_of(race_id, given)].add(_race_of(given))
    return {
        key: min(sharing, key=lambda race: (race[0], race[2] or time.max, race[1]))
        for key, sharing in races.items()
        if len(sharing) > 1
    }


@dataclass(slots=True)
class _Notes:
    """What is to be told of a load when all its rows are read."""

    owners: dict[_Key, _Race]
    renamed: set[str] = field(default_factory=set)
    inferred: set[str] = field(default_factory=set)
    given: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    first_unreadable: dict[str, str] = field(default_factory=dict)
    declared: dict[_Key, int] = field(default_factory=dict)
    present: dict[_Key, set[str | None]] = field(default_factory=lambda: defaultdict(set))

    def taken(self, row: dict[str, Any], given: CsvRow) -> dict[str, Any]:
        """The row, under an id of its race's own, once noted."""
        row = self._under_own_id(row, given)
        key = (row["race_id"], row["result_version"] or 1)
        if row["status"] not in (NON_RUNNER, VOID):
            self.present[key].add(row["horse"])
        ran = row.get("ran")
        if ran is not None:
            self.declared[key] = max(self.declared.get(key, 0), ran)
        if row.get("off_inferred"):
            self.inferred.add(row["race_id"])
        self.given.update(column for column in MEASURES if cells.text(given.cells.get(column)) is not None)
        for column, value in row.get("unreadable", {}).items():
            self.unreadable[column] += 1
            self.first_unreadable.setdefault(column, f"{given.place}: {value!r}")
        return row

    def _under_own_id(self, row: dict[str, Any], given: CsvRow) -> dict[str, Any]:
        owner = self.owners.get(_key_of(row["race_id"], given))
        race = _race_of(given) if owner else None
        if race is None or race == owner:
            return row
        own = made_race_id(race[0], row["course"] or "", race[2], row["race_name"])
        self.renamed.add(own)
        return row | {"race_id": own, "source_race_id": row["race_id"]}

    def refuse_columns(self) -> None:
        """Raise `UserError` for a measured column of which not one value can be read."""
        for column, rule in MEASURES.items():
            if 0 < self.given[column] == self.unreadable[column]:
                raise UserError(
                    f"{self.first_unreadable[column]} is the first value of {column}, and none of them is {rule}: "
                    "correct the column, or rename it if it is another"
                )

    def told(self, parsed: Parsed) -> Parsed:
        """The load with what was noted among its warnings: values by column, races by what is odd about them."""
        parsed.warnings.update({f"unreadable {column}, unknown": count for column, count in self.unreadable.items()})
        odd = {
            "foreign race, off inferred": len(self.inferred),
            "id of another race, own one made": len(self.renamed),
            "runners differ from ran": sum(len(self.present[key]) != ran for key, ran in self.declared.items()),
        }
        parsed.warnings.update({what: races for what, races in odd.items() if races})
        return parsed
