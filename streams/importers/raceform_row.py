"""Read one row of a raceform or rpscrape results file into the columns of the runner table.

`velo.streams.importers.sources.raceform` lists what the files leave open and how it is decided.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from velo.errors import Refused
from velo.racing.clock import from_text, local_date
from velo.racing.courses import country_of
from velo.racing.names import name_key
from velo.streams.importers import parsers
from velo.streams.importers.dead_letters import LETTER
from velo.streams.importers.off_clock import LONDON, OffReader, RaceOff, written_off
from velo.streams.importers.raceform_words import main_going, surface_of

_SUFFIX: Final = re.compile(r"\(([A-Z]{2,3})\)")
_COUNTRY_LAST: Final = re.compile(r"\([A-Za-z]{2,3}\)$")
_TYPES: Final = {"flat": "Flat", "hurdle": "Hurdle", "chase": "Chase", "nh flat": "NHF", "nhf": "NHF", "bumper": "NHF"}
DECISIVE: Final = ("result_version", "known_at")
"""Columns in which an unreadable value refuses the race: taken as unknown, it would change what was known when."""
Row = dict[str, Any]
_HANDICAP: Final = re.compile(r"handicap|nursery", re.IGNORECASE)


def course_with_country(course: str, region: str | None = None) -> str:
    """Return a course as results name it: a foreign course ends in its country, `Naas (IRE)`; a card has a separate region."""
    abroad = (parsers.text(region) or "GB").upper()
    suffixed = any(code != "AW" for code in _SUFFIX.findall(course))
    return course if suffixed or abroad == "GB" else f"{course} ({abroad})"


def has_country(horse: str) -> bool:
    """Whether a horse's name ends in its country: `Best Kept (GB)`."""
    return _COUNTRY_LAST.search(horse) is not None


@lru_cache(maxsize=1 << 18)
def with_country(horse: str | None, region: str | None = None) -> str | None:
    """Return a horse's name with its country, `Best Kept (GB)`: its suffix, else the region, else GB; None for no name.

    Its `name_key` is the horse's key by name, the same for results and for racecards with a separate region.
    """
    name = parsers.text(horse)
    if name is None or has_country(name):
        return name
    return f"{name} ({(parsers.text(region) or 'GB').upper()})"


@lru_cache(maxsize=4096)
def made_race_id(race_date: date, course: str, off: time | None, race_name: str | None = None) -> str:
    """Return an id for a race without one: date, course, and off by the source's clock (24-hour) or the name if it is unknown."""
    when = f"{off:%H:%M}" if off else name_key(race_name) or "off unknown"
    return f"{race_date.isoformat()} {name_key(course)} {when}"


def parse_row(raw: Mapping[str, str], timezone: ZoneInfo, offs: OffReader | None = None, part: Hashable = None) -> Row:
    """Return one runner in the columns of the runner table, from the cells of one row by (casefolded) column name.

    `off_time` is UTC, as `offs` of the whole load reads it (the row's file is `part`); without `offs` it is read by itself.
    `race_date` is the date at the course, or that of the store's `timezone` where that is earlier.
    `horse` has its country, so that its name is its key. Ids are in their columns (`checked_results` chooses between id and
    name) and again in `source_*`. An unreadable cell is None, and `unreadable` has its text by column. Raises `Refused`
    where date or off cannot be read.
    """
    cell = _Cells(raw)
    day, race_off = when(raw, part)
    course = parsers.text(raw.get("course")) or ""
    country = country_of(course, parsers.text(raw.get("region")))
    read = race_off and (offs or OffReader.of([race_off], LONDON)).read[race_off]
    race_name, written_going = cell.text("race_name"), cell.text("going")
    going = main_going(written_going)
    status, position = parsers.finish(cell.used("pos"))
    row: Row = {
        "race_id": cell.text("race_id") or made_race_id(day, course, read and read.clock, race_name),
        "race_date": min(read.race_date, local_date(read.instant, timezone)) if read else day,
        "off_time": read and read.instant,
        "course": course or None,
        "country": country,
        "race_name": race_name,
        "race_type": cell.read("type", _race_type),
        "race_class": cell.read("class", parsers.race_class),
        "rating_band": cell.text("rating_band"),
        "handicap": bool(_HANDICAP.search(race_name)) if race_name else None,
        "surface": cell.read("surface", lambda named: surface_of(course, named, going, country)),
        "going": going,
        "distance_m": _distance_m(cell),
        "runner_no": cell.read("num", parsers.whole),
        "draw": cell.read("draw", parsers.whole),
        "horse_id": cell.text("horse_id"),
        "horse": with_country(raw.get("horse")),
        "jockey_id": cell.text("jockey_id"),
        "jockey": cell.text("jockey"),
        "trainer_id": cell.text("trainer_id"),
        "trainer": cell.text("trainer"),
        "age": cell.read("age", parsers.whole),
        "sex": cell.text("sex"),
        "weight_lbs": cell.first(("lbs", parsers.number), ("wgt", parsers.pounds)),
        "official_rating": cell.read("or", parsers.whole),
        "headgear": cell.text("hg"),
        "status": status,
        "position": position,
        "beaten_lengths": cell.read("ovr_btn", parsers.lengths),
        "finish_time_s": cell.first(("secs", parsers.number), ("time", parsers.seconds)),
        "sp_decimal": cell.first(("sp", parsers.odds), ("dec", parsers.number)),
        "result_version": cell.read("result_version", parsers.whole),
        "known_at": cell.read("known_at", _known_at),
    }
    row |= {f"source_{key}": row[key] for key in ("horse_id", "jockey_id", "trainer_id") if row[key] is not None}
    cell.used("date", "off", "course", "region", "horse", LETTER)
    ran = cell.read("ran", parsers.whole)
    if ran is not None:
        row["ran"] = ran
    if going != written_going:
        row["source_going"] = written_going
    if read and read.inferred:
        row["off_inferred"] = True
    if cell.unreadable:
        row["unreadable"] = cell.unreadable
    return row | cell.kept(row)


@dataclass(slots=True)
class _Cells:
    """The cells of a row. `placed` are the columns that the runner table has; `unreadable` the texts that failed."""

    raw: Mapping[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)
    placed: set[str] = field(default_factory=set)

    def used(self, *columns: str) -> str | None:
        """Mark columns as placed, and return the cell of the first."""
        self.placed.update(columns)
        return self.raw.get(columns[0])

    def text(self, column: str) -> str | None:
        self.placed.add(column)
        return parsers.text(self.raw.get(column))

    def read(self, column: str, reader: Callable[[str | None], Any]) -> Any:
        self.placed.add(column)
        cell = self.raw.get(column)
        try:
            return reader(cell)
        except ValueError:
            self.unreadable[column] = str(cell)
            return None

    def first(self, *readers: tuple[str, Callable[[str | None], Any]]) -> Any:
        """Return the first value that is not None; all these columns are placed."""
        values = [self.read(column, reader) for column, reader in readers]
        return next((value for value in values if value is not None), None)

    def kept(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return the other columns as text, without blanks, and the SP as written, which marks the favourite."""
        left = (column for column in self.raw if column not in self.placed or column == "sp")
        named = ((f"source_{column}" if column in row else column, parsers.text(self.raw[column])) for column in left)
        return {column: value for column, value in named if value is not None}


def when(raw: Mapping[str, str], part: Hashable = None) -> tuple[date, RaceOff | None]:
    """Return the source's date of a row and its off as written (None if blank). Raises `Refused` for an unreadable one."""
    return _when(raw.get("date"), raw.get("off"), raw.get("course"), raw.get("region"), part)


@lru_cache(maxsize=1 << 16)
def _when(
    day: str | None, off: str | None, course: str | None, region: str | None, part: Hashable
) -> tuple[date, RaceOff | None]:
    try:
        race_day = parsers.day(day)
    except ValueError:
        race_day = None
    if race_day is None:
        raise Refused("bad value", f"date is {day!r}, but a date is written 2015-04-26 or 26 Apr 2015: correct it")
    try:
        written = written_off(off)
    except ValueError:
        raise Refused("bad value", f"off is {off!r}, but an off is written 2:45 or 14:45: correct it") from None
    if written is None:
        return race_day, None
    name = parsers.text(course) or ""
    return race_day, RaceOff(part, race_day, name, country_of(name, parsers.text(region)), written)


def _race_type(cell: str | None) -> str | None:
    written = parsers.text(cell)
    if written is None:
        return None
    try:
        return _TYPES[written.casefold()]
    except KeyError:
        raise ValueError(written) from None


def _known_at(cell: str | None) -> datetime | None:
    written = parsers.text(cell)
    return from_text(written) if written else None


def _distance_m(cell: _Cells) -> float | None:
    """Return metres from the yards, the finest measure, else from the metres, the text or the furlongs."""
    yards = cell.read("dist_y", parsers.number)
    if yards is not None:
        yards = parsers.metres_of_yards(yards)
    metres = cell.first(("dist_m", parsers.number), ("dist", parsers.metres))
    furlongs = cell.read("dist_f", _furlongs)
    return next((value for value in (yards, metres, furlongs) if value is not None), None)


def _furlongs(cell: str | None) -> float | None:
    furlongs = parsers.number(cell.strip().rstrip("fF")) if cell else None
    return None if furlongs is None else parsers.metres_of_yards(furlongs * parsers.YARDS_A_FURLONG)
