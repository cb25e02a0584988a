"""Convert off times, as a source writes them, to instants: by zone, 12- or 24-hour clock, and the rest of the meeting.

A 24-hour clock shows in an hour of 0 or from 13, or in a leading zero (`09:15`), which a 12-hour clock never has. It
applies to all rows of that file and date. Otherwise an hour of 1 to 12 has two readings, 12 hours apart. A reading is
possible if a race may start at that hour of the course's own clock (`velo.racing.courses`). If both are possible, the one
nearer to the unambiguous races of the meeting counts. If that does not decide, 1 to 9 is the afternoon, as a British
reader takes it, and the off is marked as inferred. So is an off in the hour that a DST change skips or repeats, and one
after midnight that may belong to either night.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from velo.errors import Refused
from velo.racing.clock import local_date
from velo.racing.courses import local_day, may_start, zones_of
from velo.racing.names import is_missing
from velo.streams.importers.mapping import ClockRule
from velo.streams.importers.parsers import NOTHING
from velo.streams.importers.units import instant_reader

LONDON: Final = ZoneInfo("Europe/London")
"""The clock of the British racing paper, and so of every release of rpscrape, for meetings of all countries."""
_WRITTEN: Final = re.compile(r"(\d{1,2})[:.](\d{2})(?::\d{2}(?:\.0+)?)?\s*(?:([ap])\.?m\.?)?", re.IGNORECASE)
_HALF_A_DAY: Final = 12
_AFTERNOON: Final = range(1, 10)
_NEAR: Final = timedelta(hours=5)
"""Two races of a course this close are of one meeting; the other reading of either is at least seven hours away."""


class WrittenOff(NamedTuple):
    """An off as written: `shows_24` if the text proves a 24-hour clock, `fixed` if it has one reading.

    `one_digit`: the hour has one digit, as a spreadsheet leaves `09:15`.
    """

    hour: int
    minute: int
    shows_24: bool
    fixed: bool
    one_digit: bool


class RaceOff(NamedTuple):
    """Identifies an off: its file (`part`), the source's date, course, country (None if unknown) and written time."""

    part: Hashable
    day: date
    course: str
    country: str | None
    written: WrittenOff


class Off(NamedTuple):
    """An off as read: `clock` on the source's 24-hour clock, the instant (UTC), and whether it is inferred.

    `race_date` is the date at the course if that is known, else the source's.
    """

    clock: time
    instant: datetime
    race_date: date
    inferred: bool


@lru_cache(maxsize=1 << 16)
def written_off(cell: str | None) -> WrittenOff | None:
    """Parse an off such as `2:45`, `14:45`, `02:45:00` or `2.45pm`; None for a blank. Raises ValueError otherwise."""
    given = "" if cell is None or is_missing(cell) else cell.strip()
    if not given or given.casefold() in NOTHING:
        return None
    found = _WRITTEN.fullmatch(given)
    if not found:
        raise ValueError(given)
    hour, minute, half = int(found[1]), int(found[2]), found[3]
    if half:
        if not 1 <= hour <= _HALF_A_DAY:
            raise ValueError(given)
        hour = hour % _HALF_A_DAY + (_HALF_A_DAY if half in "pP" else 0)
    time(hour, minute)  # raises ValueError for an impossible time
    beyond_12 = hour > _HALF_A_DAY or hour == 0
    return WrittenOff(
        hour, minute, (beyond_12 or given.startswith("0")) and not half, bool(half) or beyond_12, len(found[1]) == 1
    )


@dataclass(frozen=True, slots=True)
class OffReader:
    """Reads the offs of one load; made from all of them (`of`), because a meeting can decide its ambiguous offs."""

    zone: ZoneInfo
    read: Mapping[RaceOff, Off]

    @classmethod
    def of(cls, offs: Iterable[RaceOff], zone: ZoneInfo) -> "OffReader":
        """Return a reader of these offs on the clock of `zone`."""
        every = set(offs)
        by_24 = {(off.part, off.day) for off in every if off.written.shows_24}
        sure = {(off.part, off.day) for off in every if off.written.shows_24 and off.written.fixed}
        read: dict[RaceOff, Off] = {}
        open_offs: list[RaceOff] = []
        for off in every:
            of_day = off.part, off.day
            found = _alone(off, zone, by_24=of_day in by_24, sure=of_day in sure)
            if found is None:
                open_offs.append(off)
            else:
                read[off] = found
        meetings: dict[tuple[date, str], list[datetime]] = defaultdict(list)
        for off, found in read.items():
            if not found.inferred:
                meetings[off.day, off.course].append(found.instant)
        read |= {off: _by_meeting(off, zone, meetings.get((off.day, off.course), [])) for off in open_offs}
        read |= {off: read[off]._replace(inferred=True, race_date=off.day) for off in _of_another_night(read, meetings)}
        return cls(zone, read)


def _alone(off: RaceOff, zone: ZoneInfo, *, by_24: bool, sure: bool) -> Off | None:
    """Read an off by itself and the clock of its file and date; None if two readings are equally good.

    `by_24`: a text of the file and date proves a 24-hour clock. `sure`: an hour that a 12-hour clock lacks proves it.
    """
    written = off.written
    as_written, other = _readings(off)
    zoned = bool(zones_of(off.course, off.country))
    fits, other_fits = (_may_start(off, hour, zone) for hour in (as_written, other))
    if written.fixed or (by_24 and (fits or not zoned)):
        return _off(off, as_written, zone, inferred=zoned and not fits)
    if by_24:
        may_be_12 = written.one_digit or not sure
        return _off(off, other if other_fits and may_be_12 else as_written, zone, inferred=True)
    if fits and other_fits:
        return None
    if fits or other_fits:
        return _off(off, as_written if fits else other, zone, inferred=False)
    return _off(off, _as_it_looks(off), zone, inferred=True)


def _by_meeting(off: RaceOff, zone: ZoneInfo, meeting: Iterable[datetime]) -> Off:
    """Read an off as nearest to the meeting's other races; inferred if none is near."""
    hours = _readings(off)
    gaps = [min((abs(_instant(off, hour, zone) - race) for race in meeting), default=timedelta.max) for hour in hours]
    nearer = hours[gaps.index(min(gaps))]
    return _off(off, nearer if min(gaps) <= _NEAR else _as_it_looks(off), zone, inferred=min(gaps) > _NEAR)


def _of_another_night(
    read: Mapping[RaceOff, Off], meetings: Mapping[tuple[date, str], Sequence[datetime]]
) -> Iterator[RaceOff]:
    """Yield offs of another night than the other races of their date and course, with no race of that night beside them.

    00:30 in London is the end of the previous American evening if the source dates the instant, but the end of the
    evening of that date if it dates the meeting.
    """
    nights: dict[tuple[Hashable, date, str], set[date]] = defaultdict(set)
    for off, found in read.items():
        if not found.inferred:
            nights[off.part, off.day, off.course].add(found.race_date)
    for off, found in read.items():
        if found.race_date == off.day or off.day not in nights[off.part, off.day, off.course]:
            continue
        beside = (meetings.get((off.day + timedelta(days=days), off.course), ()) for days in (-1, 1))
        if not any(abs(found.instant - race) <= _NEAR for races in beside for race in races):
            yield off


def _readings(off: RaceOff) -> tuple[int, int]:
    """Return the hour as written, and the hour 12 later."""
    hour = off.written.hour
    return hour, (hour + _HALF_A_DAY) % (2 * _HALF_A_DAY)


def _as_it_looks(off: RaceOff) -> int:
    hour = off.written.hour
    return hour + _HALF_A_DAY if hour in _AFTERNOON else hour


def _may_start(off: RaceOff, hour: int, zone: ZoneInfo) -> bool:
    return may_start(_instant(off, hour, zone), off.course, off.country)


def _instant(off: RaceOff, hour: int, zone: ZoneInfo, fold: int = 0) -> datetime:
    return datetime.combine(off.day, time(hour, off.written.minute, fold=fold), tzinfo=zone).astimezone(UTC)


def _off(off: RaceOff, hour: int, zone: ZoneInfo, *, inferred: bool) -> Off:
    instant = _instant(off, hour, zone)
    clocks_change = instant != _instant(off, hour, zone, fold=1)
    at_course = None if inferred else local_day(instant, off.course, off.country)
    return Off(time(hour, off.written.minute), instant, at_course or off.day, inferred or clocks_change)


@dataclass(frozen=True, slots=True)
class ClockReader:
    """Reads offs by the clock of a mapping; the key of an off is its day, its cell, its zone's cell, its course and its country."""

    clock: ClockRule
    timezone: ZoneInfo
    without_zone: set[tuple[Any, ...]] = field(default_factory=set)
    """Offs of courses in no known zone, which are not read."""

    def read(self, keys: Iterable[tuple[Any, ...]], part: str) -> dict[tuple[Any, ...], Off | Refused | None]:
        """Return each off; None where none is written, and the reason where it cannot be read."""
        found: dict[tuple[Any, ...], Off | Refused | None] = {}
        by_zone: dict[ZoneInfo, dict[tuple[Any, ...], RaceOff]] = {}
        for key in keys:
            day, cell, zone_cell, course, country = key
            try:
                zone = self._zone(zone_cell, course, country)
                if self.clock.instant:
                    found[key] = self._instant(day, cell, zone, course, country)
                    continue
                written = written_off(cell)
            except Refused as why:
                found[key] = why
                continue
            except ValueError:
                found[key] = Refused("bad value", f"the off is {cell!r}, but it is written 2:45 or 14:45: correct it")
                continue
            if written is None or day is None or zone is None:
                found[key] = None
                if written and zone is None:
                    self.without_zone.add(key)
                continue
            of_24 = self.clock.hours == 24
            written = written._replace(shows_24=of_24, fixed=written.fixed or of_24)
            by_zone.setdefault(zone, {})[key] = RaceOff(part, day, course or "", country, written)
        for zone, offs in by_zone.items():
            reader = OffReader.of(offs.values(), zone)
            for key, off in offs.items():
                read = reader.read[off]
                found[key] = read._replace(race_date=self._day(read.instant, read.race_date))
        return found

    def _zone(self, zone_cell: str | None, course: str | None, country: str | None) -> ZoneInfo | None:
        if self.clock.zones:
            zone = self.clock.zones.get((zone_cell or "").casefold(), self.clock.zone)
            if zone is None:
                raise Refused("bad value", f"the clock has no zone for {zone_cell!r}: add it to the mapping's zones")
            return zone
        if self.clock.zone or self.clock.instant:
            return self.clock.zone
        zones = zones_of(course or "", country)
        return zones[0] if len(zones) == 1 else None

    def _instant(
        self, day: date | None, cell: str | None, zone: ZoneInfo | None, course: str | None, country: str | None
    ) -> Off | None:
        instant = instant_reader(zone)(cell)
        if instant is None:
            return None
        at_course = local_day(instant, course or "", country) or day or local_date(instant, self.timezone)
        return Off(instant.time(), instant, self._day(instant, at_course), inferred=False)

    def _day(self, instant: datetime, day: date) -> date:
        """Return the day at the course, or that of the store where it is earlier."""
        return min(day, local_date(instant, self.timezone))
