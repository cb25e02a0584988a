"""Match the exchange's starting prices to races of the log: its public CSV has one row for each selection of a market.

A row matches a race by course, off and horse. The course is the meeting's short name (`GB / Wolv 26th Apr`), compared with
the courses that raced that day; the off must be the same minute; the horse must have the same name, apart from country, case
and punctuation. A row that matches nothing, or more than one thing, is reported with the reason: nothing is matched by
likelihood. Times in the file are British local time, whatever the store's zone.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from velo.errors import Refused, UserError
from velo.racing.clock import RESULT_DELAY
from velo.racing.messages import NON_RUNNER, Market, Race, Result, Runner
from velo.streams.importers.betfair_courses import COUNTRIES, courses_meant, letters, read_hint
from velo.streams.importers.csv_files import CsvRow, csv_rows

SOURCE: Final = "betfair-sp"
WHAT: Final = "a Betfair SP file"
REQUIRED: Final = ("menu_hint", "event_name", "event_dt", "selection_name", "bsp")
HIGHEST_PRICE: Final = 1000.0
"""The end of the exchange's ladder; a higher value in the file means that nothing was traded."""
BRITISH_TIME: Final = ZoneInfo("Europe/London")
BAD_VALUE: Final = "bad value"

_EVENT_TIME: Final = "%d-%m-%Y %H:%M"
_OTHER_MARKET: Final = re.compile(r"to be placed|\btbp\b|\bplaced?\b|forecast|\bfc\b|without", re.IGNORECASE)
_CLOTH_NUMBER: Final = re.compile(r"^\d+\.\s*")
_COUNTRY: Final = re.compile(r"\s*\([A-Za-z]{2,3}\)\s*$")


@dataclass(frozen=True, slots=True)
class Unmatched:
    """One row that was not matched: `reason` is short and stable, `detail` says what was looked for and what is there.

    `off` is UTC, None where the file's time cannot be read.
    """

    path: Path
    line: int
    menu_hint: str
    off: datetime | None
    selection: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class BspMatch:
    """Starting prices, one message for each race in order of the offs, and the unmatched rows.

    `rows` counts all rows: those in the messages, those that repeat one of them (`repeated`), and the unmatched.
    """

    messages: list[Market]
    unmatched: list[Unmatched]
    rows: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class _Selection:
    """A row as read: the price of a horse, at an off (UTC); the meeting is in `csv_row`."""

    csv_row: CsvRow
    off: datetime
    horse: str
    price: float


def read_betfair_sp(paths: Iterable[Path], races: Iterable[Result]) -> BspMatch:
    """Return the starting prices in some files for races of the log, as `market` messages known 15 minutes after the off.

    The highest version of a race counts. A price that is missing, not above 1.0 or beyond the ladder is not a price; only win
    markets are read. Two different prices for one horse are both reported and not used. A time or price that cannot be read
    leaves its row unmatched. Raises `UserError` for a file of another kind, or in which no row can be read.
    """
    days = _by_day(races)
    prices: dict[str, dict[str, float]] = defaultdict(dict)
    by_horse: dict[tuple[str, str], list[_Selection]] = defaultdict(list)
    priced: dict[str, Race] = {}
    unmatched: list[Unmatched] = []
    rows = 0
    for path in paths:
        for csv_row in csv_rows(path, REQUIRED, WHAT):
            rows += 1
            try:
                selection = _selection(csv_row)
                result, runner = _place(selection, days)
            except Refused as refused:
                unmatched.append(_unmatched(csv_row, refused))
                continue
            by_horse[result.race_id, runner.horse_id].append(selection)
            priced[result.race_id] = result.race
    if unmatched and len(unmatched) == rows and all(row.reason == BAD_VALUE for row in unmatched):
        raise UserError(
            f"{unmatched[0].path}, line {unmatched[0].line}: {unmatched[0].detail}; no row of it can be read"
        )
    repeated = 0
    for (race_id, horse_id), selections in by_horse.items():
        quoted = {selection.price for selection in selections}
        if len(quoted) > 1:
            both = Refused(
                "two prices for one horse", f"{sorted(quoted)} in race {race_id}: keep the row that is right"
            )
            unmatched.extend(_unmatched(selection.csv_row, both) for selection in selections)
            continue
        prices[race_id][horse_id] = quoted.pop()
        repeated += len(selections) - 1
    order = sorted(prices, key=lambda race_id: (priced[race_id].off_time, race_id))
    messages = [Market(race_id, prices[race_id], SOURCE, priced[race_id].off_time + RESULT_DELAY) for race_id in order]
    return BspMatch(messages, unmatched, rows, repeated)


def _by_day(races: Iterable[Result]) -> Mapping[date, list[Result]]:
    latest: dict[str, Result] = {}
    for result in races:
        known = latest.get(result.race_id)
        if known is None or result.result_version >= known.result_version:
            latest[result.race_id] = result
    days: dict[date, list[Result]] = defaultdict(list)
    for result in latest.values():
        days[result.race.off_time.astimezone(BRITISH_TIME).date()].append(result)
    return days


def _selection(csv_row: CsvRow) -> _Selection:
    if csv_row.repeats_header:
        raise Refused("header in the middle of the file", "it is no selection: leave it out")
    event = csv_row.cells["event_name"].strip()
    if _OTHER_MARKET.search(event):
        raise Refused("not a win market", f"{event!r}: give the win file of that day")
    off = _off(csv_row.cells["event_dt"].strip())
    if off is None:
        raise Refused(
            BAD_VALUE, f"EVENT_DT is {csv_row.cells['event_dt']!r}, but it is written 26-04-2015 14:05: correct it"
        )
    horse = horse_letters(csv_row.cells["selection_name"])
    if not horse:
        raise Refused("no horse named", "the selection has no name")
    return _Selection(csv_row, off, horse, _price(csv_row))


def _price(csv_row: CsvRow) -> float:
    written = csv_row.cells["bsp"].strip()
    try:
        price = float(written or 0)
    except ValueError:
        raise Refused(
            BAD_VALUE, f"BSP is {written!r}, but it is decimal odds such as 4.53: correct it, or leave it blank"
        ) from None
    if not 1.0 < price <= HIGHEST_PRICE:
        raise Refused("no starting price", f"BSP is {written!r}, but a price is above 1 and at most 1000")
    return price


@lru_cache(maxsize=4096)
def _off(written: str) -> datetime | None:
    try:
        return datetime.strptime(written, _EVENT_TIME).replace(tzinfo=BRITISH_TIME).astimezone(UTC)
    except ValueError:
        return None


@lru_cache(maxsize=1 << 16)
def horse_letters(name: str) -> str:
    """Return a horse's name as exchange and results share it: without cloth number, country, case and punctuation."""
    bare = _COUNTRY.sub("", _CLOTH_NUMBER.sub("", name.strip()))
    return "".join(filter(str.isalnum, bare.casefold()))


def _place(selection: _Selection, days: Mapping[date, list[Result]]) -> tuple[Result, Runner]:
    """Return the race and the runner of a selection. Raises `Refused` where there is none, or more than one."""
    at_course = _meeting(selection, days)
    at_off = [result for result in at_course if _minute(result.race.off_time) == selection.off]
    clock = f"{selection.off.astimezone(BRITISH_TIME):%H:%M}"
    course = at_course[0].race.course
    if not at_off:
        nearest = min(at_course, key=lambda result: (abs(result.race.off_time - selection.off), result.race.off_time))
        local = nearest.race.off_time.astimezone(BRITISH_TIME)
        raise Refused(
            "no race at that off", f"none at {course} at {clock}, the nearest is {local:%H:%M} (race {nearest.race_id})"
        )
    if len(at_off) > 1:
        ids = ", ".join(sorted(result.race_id for result in at_off))
        raise Refused("several races at that off", f"{course} at {clock} is any of {ids}")
    result = at_off[0]
    named = [runner for runner in result.runners if _is_called(runner, selection.horse)]
    if not named:
        raise Refused(
            "no such horse in the race", f"race {result.race_id} has no such name: load the race's own result"
        )
    if len(named) > 1:
        raise Refused("several horses of that name", f"race {result.race_id} has {', '.join(map(_shown, named))}")
    if named[0].status == NON_RUNNER:
        raise Refused("the horse did not run", f"{_shown(named[0])} is a non-runner of race {result.race_id}")
    return result, named[0]


def _meeting(selection: _Selection, days: Mapping[date, list[Result]]) -> list[Result]:
    """Return the races of that day at the one course that the hint can mean."""
    hint = selection.csv_row.cells["menu_hint"]
    course, country = read_hint(hint)
    day = selection.off.astimezone(BRITISH_TIME).date()
    races = [result for result in days.get(day, []) if country is None or _country(result.race) in (None, country)]
    if not races:
        where = f" in {country}" if country else ""
        raise Refused("no race that day", f"the log has no race on {day}{where}: load the results first")
    meant = courses_meant(course, {letters(result.race.course) for result in races})
    if not meant:
        raise Refused(
            "no such course that day", f"{hint!r} is none of {', '.join(sorted({r.race.course for r in races}))}"
        )
    at_course = [result for result in races if letters(result.race.course) in meant]
    if len(meant) > 1:
        raise Refused("several courses", f"{hint!r} is any of {', '.join(sorted({r.race.course for r in at_course}))}")
    return at_course


def _country(race: Race) -> str | None:
    return race.country and COUNTRIES.get(race.country, race.country)


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)


def _is_called(runner: Runner, horse: str) -> bool:
    return runner.horse is not None and horse_letters(runner.horse) == horse


def _shown(runner: Runner) -> str:
    return runner.horse or runner.horse_id


def _unmatched(csv_row: CsvRow, refused: Refused) -> Unmatched:
    return Unmatched(
        path=csv_row.path,
        line=csv_row.line,
        menu_hint=csv_row.cells["menu_hint"],
        off=_off(csv_row.cells["event_dt"].strip()),
        selection=csv_row.cells["selection_name"],
        reason=refused.reason,
        detail=refused.detail,
    )
