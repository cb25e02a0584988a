"""The decisions that need all rows of a raceform load, and the counts of its report."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.racing.messages import NON_RUNNER, VOID
from velo.racing.names import name_key
from velo.streams.importers import parsers
from velo.streams.importers.columns import WANTED
from velo.streams.importers.csv_files import HEADER_AGAIN, CsvRow
from velo.streams.importers.off_clock import LONDON, OffReader, RaceOff, written_off
from velo.streams.importers.raceform_row import has_country, made_race_id, when
from velo.streams.importers.results import Parsed

MEASURES: Final = {
    "date": "a date such as 2015-04-26",
    "off": "an off such as 2:45 or 14:45",
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
"""What a measured column holds. A column in which no value can be read is another column with this name."""
MANY_HORSES: Final = 8
"""This many horses are not all British-bred: four in ten are, so all of eight in one file of a thousand."""
_Race = tuple[date, str, time | None]
"""Identifies a race whatever its id: the source's date, course key and off (24-hour)."""
_Key = tuple[str, int]
"""A race id and a result version."""


def _key_of(race_id: str, csv_row: CsvRow) -> _Key:
    try:
        return race_id, parsers.whole(csv_row.cells.get("result_version")) or 1
    except ValueError:
        return race_id, 1


@dataclass(frozen=True, slots=True)
class Survey:
    """The decisions over all rows of a load: how its offs are read, and which of the races that share an id keeps it."""

    offs: OffReader
    owners: Mapping[_Key, _Race]
    without_id: Mapping[tuple[str | None, str | None], set[tuple[date, RaceOff | None]]]

    @classmethod
    def of(cls, rows: Iterable[CsvRow]) -> "Survey":
        """Survey all rows. The earliest race with an id owns it, whatever the order of the rows."""
        races: dict[_Key, set[tuple[date, str, RaceOff | None]]] = defaultdict(set)
        without_id: dict[tuple[str | None, str | None], set[tuple[date, RaceOff | None]]] = defaultdict(set)
        offs: set[RaceOff] = set()
        for csv_row in rows:
            if csv_row.repeats_header:
                continue
            try:
                day, off = when(csv_row.cells, csv_row.path)
            except Refused:
                continue
            if off:
                offs.add(off)
            race_id = parsers.text(csv_row.cells.get("race_id"))
            if race_id:
                races[_key_of(race_id, csv_row)].add((day, name_key(csv_row.cells.get("course")) or "", off))
            else:
                without_id[_named(csv_row)].add((day, off))
        survey = cls(OffReader.of(offs, LONDON), {}, without_id)
        shared = {key: {survey.race(*race) for race in sharing} for key, sharing in races.items() if len(sharing) > 1}
        owners = {key: min(sharing, key=_earliest) for key, sharing in shared.items() if len(sharing) > 1}
        return cls(survey.offs, owners, without_id)

    def race(self, day: date, course: str, off: RaceOff | None) -> _Race:
        """Return the race of a row, with its off as read."""
        return day, course, self.offs.read[off].clock if off else None

    def race_like(self, csv_row: CsvRow) -> str:
        """Return the id of the one race that a row without an id, and with an unreadable date or off, can belong to; else its own."""
        cell = csv_row.cells
        alike = {
            off
            for day, off in self.without_id.get(_named(csv_row), ())
            if off and _same(parsers.day, cell.get("date"), day) != _same(written_off, cell.get("off"), off.written)
        }
        if len(alike) == 1:
            off = alike.pop()
            return made_race_id(off.day, cell.get("course") or "", self.offs.read[off].clock, cell.get("race_name"))
        return " ".join(parsers.text(cell.get(name)) or "?" for name in ("date", "course", "off"))


def _named(csv_row: CsvRow) -> tuple[str | None, str | None]:
    return name_key(csv_row.cells.get("course")), name_key(csv_row.cells.get("race_name"))


def _same(read: Callable[[str | None], object], cell: str | None, value: object) -> bool:
    try:
        return read(cell) == value
    except ValueError:
        return False


def _earliest(race: _Race) -> tuple[date, time, str]:
    return race[0], race[2] or time.max, race[1]


@dataclass(slots=True)
class Notes:
    """Counts for the report of a load, collected row by row."""

    survey: Survey
    headers: int = 0
    rows: int = 0
    renamed: set[str] = field(default_factory=set)
    inferred: set[str] = field(default_factory=set)
    bare: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    with_country: set[Path] = field(default_factory=set)
    present_values: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    first_unreadable: dict[str, str] = field(default_factory=dict)
    declared: dict[_Key, int] = field(default_factory=dict)
    present: dict[_Key, set[str | None]] = field(default_factory=lambda: defaultdict(set))

    def noted(self, row: dict[str, Any], csv_row: CsvRow) -> dict[str, Any]:
        """Return the row, under its race's own id, after counting it."""
        self.rows += 1
        horse = parsers.text(csv_row.cells.get("horse"))
        if horse and has_country(horse):
            self.with_country.add(csv_row.path)
        elif horse:
            self.bare[csv_row.path].add(horse)
        row = self._under_own_id(row, csv_row)
        key = (row["race_id"], row["result_version"] or 1)
        if row["status"] not in (NON_RUNNER, VOID):
            self.present[key].add(row["horse"])
        ran = row.get("ran")
        if ran is not None:
            self.declared[key] = max(self.declared.get(key, 0), ran)
        if row.get("off_inferred"):
            self.inferred.add(row["race_id"])
        self.present_values.update(column for column in MEASURES if parsers.text(csv_row.cells.get(column)) is not None)
        for column, value in row.get("unreadable", {}).items():
            self.unreadable[column] += 1
            self.first_unreadable.setdefault(column, f"{csv_row.place}: {value!r}")
        return row

    def without_instant(self, csv_row: CsvRow) -> dict[str, Any]:
        """Return what refuses the race of a row whose date or off cannot be read: its id and version."""
        self.rows += 1
        for column, read in (("date", parsers.day), ("off", written_off)):
            self.present_values[column] += 1
            try:
                readable = read(csv_row.cells.get(column)) is not None or column == "off"
            except ValueError:
                readable = False
            if not readable:
                self.unreadable[column] += 1
                self.first_unreadable.setdefault(column, f"{csv_row.place}: {csv_row.cells.get(column)!r}")
        race_id = parsers.text(csv_row.cells.get("race_id")) or self.survey.race_like(csv_row)
        return {"race_id": race_id, "result_version": _key_of(race_id, csv_row)[1]}

    def _under_own_id(self, row: dict[str, Any], csv_row: CsvRow) -> dict[str, Any]:
        owner = self.survey.owners.get(_key_of(row["race_id"], csv_row))
        if owner is None:
            return row
        day, off = when(csv_row.cells, csv_row.path)
        race = self.survey.race(day, name_key(csv_row.cells.get("course")) or "", off)
        if race == owner:
            return row
        own = made_race_id(race[0], row["course"] or "", race[2], row["race_name"])
        self.renamed.add(own)
        return row | {"race_id": own, "source_race_id": row["race_id"]}

    def refuse_columns(self) -> None:
        """Raise `UserError` for a measured column in which no value can be read, unless it is blank in most rows."""
        for column, rule in MEASURES.items():
            if (
                0 < self.present_values[column] == self.unreadable[column]
                and 2 * self.present_values[column] >= self.rows
            ):
                raise UserError(
                    f"{self.first_unreadable[column]} is the first value of {column}, and none of them is {rule}: "
                    "correct the column, or rename it if it is another"
                )

    def added_to(self, parsed: Parsed) -> Parsed:
        """Return the load with these counts among its warnings: unreadable values by column, races by what was decided."""
        unknown = {column: count for column, count in self.unreadable.items() if column not in ("date", "off")}
        parsed.warnings.update({f"unreadable {column}, unknown": count for column, count in unknown.items()})
        decided = {
            HEADER_AGAIN: self.headers,
            "off inferred": len(self.inferred),
            "horse of a file without countries, taken as GB": sum(
                len(horses)
                for path, horses in self.bare.items()
                if path not in self.with_country and len(horses) >= MANY_HORSES
            ),
            "id of another race, own one made": len(self.renamed),
            "runners differ from ran": sum(len(self.present[key]) != ran for key, ran in self.declared.items()),
        }
        parsed.warnings.update({what: races for what, races in decided.items() if races})
        return parsed
