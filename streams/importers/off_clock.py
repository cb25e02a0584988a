"""Offs as a source's clock writes them, made instants: by its zone, 12 or 24 hours, and where that leaves two, its meeting.

A 24-hour clock shows in its writing: an hour of 0 or of 13 and later, or a leading nought (`09:15`), which the 12-hour
one never has. It holds for the rows of that file and date. Else an hour of 1 to 12 has two readings, half a day
apart. A reading counts where a race may start at that hour of the course's own clock (`velo.racing.courses`); where
both may, the one nearer to the races of the meeting that leave no choice. What is still open is read as the hour
looks to a British reader, 1 to 9 the afternoon, and marked as inferred; so is one in the hour that the zone's clock
skips or tells twice, and one after midnight that may be of either night.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from streams.importers.parsers import NOTHING
from velo.racing.courses import local_day, may_start, zones_of
from velo.racing.names import is_missing

LONDON: Final = ZoneInfo("Europe/London")
"""The clock of the British racing paper, and so of rpscrape: for every meeting on earth, in every release."""
_WRITTEN: Final = re.compile(r"(\d{1,2})[:.](\d{2})(?::\d{2}(?:\.0+)?)?\s*(?:([ap])\.?m\.?)?", re.IGNORECASE)
_HALF_A_DAY: Final = 12
_AFTERNOON: Final = range(1, 10)
_NEAR: Final = timedelta(hours=5)
"""A race this near to another of its course is of one meeting with it; its other reading is seven hours off or more."""


class WrittenOff(NamedTuple):
    """An off as written: `shows_24` where the writing itself is by the 24-hour clock, `fixed` where it has one reading.

    `one_digit` says that the hour is written with one, as a spreadsheet leaves `09:15`.
    """

    hour: int
    minute: int
    shows_24: bool
    fixed: bool
    one_digit: bool


class RaceOff(NamedTuple):
    """Which off: of a file (`part`), by the source's date, at a course of a country (None where it is unknown)."""

    part: Hashable
    day: date
    course: str
    country: str | None
    written: WrittenOff


class Off(NamedTuple):
    """An off as read: `clock` by the source's 24-hour clock, the instant (UTC), and whether it is only inferred.

    `race_date` is the date at the course, where that is known, else the source's.
    """

    clock: time
    instant: datetime
    race_date: date
    inferred: bool


@lru_cache(maxsize=1 << 16)
def written_off(cell: str | None) -> WrittenOff | None:
    """An off as written, `2:45`, `14:45`, `02:45:00` or `2.45pm`; None for a blank; raises ValueError for anything else."""
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
    time(hour, minute)  # raises where it is none
    beyond_12 = hour > _HALF_A_DAY or hour == 0
    return WrittenOff(
        hour, minute, (beyond_12 or given.startswith("0")) and not half, bool(half) or beyond_12, len(found[1]) == 1
    )


@dataclass(frozen=True, slots=True)
class OffReader:
    """Reads the offs of one load; made of all of them (`of`), because the meeting decides where one alone cannot."""

    zone: ZoneInfo
    read: Mapping[RaceOff, Off]

    @classmethod
    def of(cls, offs: Iterable[RaceOff], zone: ZoneInfo) -> "OffReader":
        """A reader of these offs, by the clock of `zone`."""
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
    """The off as it reads by itself and the clock of its file and date; None where two readings are as good.

    `by_24` says that the clock is the 24-hour one by its writing, `sure` that it is by an hour that no other has.
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
    """The reading of an off that the meeting's other races leave; inferred where there are none near."""
    hours = _readings(off)
    gaps = [min((abs(_instant(off, hour, zone) - one) for one in meeting), default=timedelta.max) for hour in hours]
    nearer = hours[gaps.index(min(gaps))]
    return _off(off, nearer if min(gaps) <= _NEAR else _as_it_looks(off), zone, inferred=min(gaps) > _NEAR)


def _of_another_night(
    read: Mapping[RaceOff, Off], meetings: Mapping[tuple[date, str], Sequence[datetime]]
) -> Iterator[RaceOff]:
    """Offs that belong to another night than the rest of their date at that course, a night of which nothing is told.

    Half past midnight in London is the end of the American evening before, if the date is of that instant; it may as
    well be the end of the evening that has the date.
    """
    nights: dict[tuple[Hashable, date, str], set[date]] = defaultdict(set)
    for off, found in read.items():
        if not found.inferred:
            nights[off.part, off.day, off.course].add(found.race_date)
    for off, found in read.items():
        if found.race_date == off.day or off.day not in nights[off.part, off.day, off.course]:
            continue
        beside = (meetings.get((off.day + timedelta(days=days), off.course), ()) for days in (-1, 1))
        if not any(abs(found.instant - one) <= _NEAR for others in beside for one in others):
            yield off


def _readings(off: RaceOff) -> tuple[int, int]:
    """The hour as written, and half a day from it."""
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
