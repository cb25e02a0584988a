"""An off is an instant: its source's zone and clock make it one, and where two readings are left the meeting decides."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from velo.racing.courses import COURSE_ZONES, ZONES, country_of, local_day, may_start, zones_of
from velo.streams.importers.off_clock import LONDON, Off, OffReader, RaceOff, written_off


def off_of(day: date, course: str, off: str, part: str = "") -> RaceOff:
    written = written_off(off)
    assert written is not None
    return RaceOff(part, day, course, country_of(course), written)


def read(day: date, course: str, *offs: str) -> list[Off]:
    """Offs of one meeting, in order."""
    every = [off_of(day, course, off) for off in offs]
    reader = OffReader.of(every, LONDON)
    return [reader.read[each] for each in every]


def clocks(day: date, course: str, *offs: str) -> list[str]:
    """The offs by London's 24-hour clock, with ? where they are inferred."""
    return [f"{message.clock:%H:%M}{'?' if message.inferred else ''}" for message in read(day, course, *offs)]


WINTER, SUMMER = date(2015, 1, 10), date(2015, 7, 10)


@pytest.mark.parametrize(
    ("day", "course", "offs", "london"),
    [
        (WINTER, "Wincanton", ["1:05", "12:35", "3:50"], ["13:05", "12:35", "15:50"]),
        (WINTER, "Wolverhampton (AW)", ["6:10", "9:10", "8:40"], ["18:10", "21:10", "20:40"]),
        # Melbourne's afternoon, 11 hours ahead
        (WINTER, "Flemington (AUS)", ["1:20", "2:00", "5:40"], ["01:20", "02:00", "05:40"]),
        # Perth's, 8 hours ahead
        (WINTER, "Ascot (AUS)", ["4:00", "9:35"], ["04:00", "09:35"]),
        # Sha Tin from 13:00, Happy Valley until 22:50
        (WINTER, "Sha Tin (HK)", ["5:00", "9:45"], ["05:00", "09:45"]),
        (WINTER, "Happy Valley (HK)", ["10:45", "2:50"], ["10:45", "14:50"]),
        # New York's afternoon, 5 hours behind; half past five there is half past ten in London
        (WINTER, "Aqueduct (USA)", ["5:20", "9:20", "10:28"], ["17:20", "21:20", "22:28"]),
        # Los Angeles, 8 hours behind: half past midnight in London is half past four, of which day is another question
        (WINTER, "Santa Anita (USA)", ["8:30", "12:30"], ["20:30", "00:30?"]),
        (SUMMER, "Meydan (UAE)", ["1:30", "5:05"], ["13:30", "17:05"]),
        (WINTER, "Chantilly (FR)", ["11:00", "10:30", "3:25"], ["11:00", "10:30", "15:25"]),
        (WINTER, "Tokyo (JPN)", ["1:05", "6:45"], ["01:05", "06:45"]),
        (WINTER, "Turffontein (SAF)", ["10:10", "3:40"], ["10:10", "15:40"]),
    ],
)
def test_a_12_hour_off_is_at_an_hour_in_which_its_course_may_race(
    day: date, course: str, offs: list[str], london: list[str]
) -> None:
    assert clocks(day, course, *offs) == london


@pytest.mark.parametrize(
    ("course", "offs", "london"),
    [
        ("Sha Tin (HK)", ["09:15", "10:25"], ["09:15", "10:25"]),
        ("Santa Anita (USA)", ["20:30", "00:30"], ["20:30", "00:30?"]),
        ("Flemington (AUS)", ["01:20", "23:50"], ["01:20", "23:50?"]),
        ("Nowhere (XYZ)", ["09:15", "10:25"], ["09:15", "10:25"]),
        # a spreadsheet has taken the nought: still by the 24-hour clock
        ("Sha Tin (HK)", ["9:15", "10:25", "13:40"], ["09:15", "10:25", "13:40"]),
    ],
)
def test_a_24_hour_off_is_as_written_wherever_its_course_is(course: str, offs: list[str], london: list[str]) -> None:
    assert clocks(WINTER, course, *offs) == london


def test_the_clock_is_that_of_its_file_and_date() -> None:
    """An old file and a new one of the same course: 10:28 is the evening in one and, by its neighbours, the morning in the other."""
    old, new = (off_of(WINTER, "Aqueduct (USA)", "10:28", part) for part in ("old", "new"))
    neighbour = off_of(WINTER, "Kempton (AW)", "13:05", "new")
    found = OffReader.of([old, new, neighbour], LONDON).read
    assert (found[old].clock.hour, found[old].inferred) == (22, False)
    assert (found[new].clock.hour, found[new].inferred) == (10, True), "it is dark in New York: told, not changed"


@pytest.mark.parametrize(
    ("offs", "london"),
    [
        (["3:10", "6:00", "8:20"], ["15:10", "18:00", "20:20"]),
        (["3:10", "1:40"], ["03:10", "01:40"]),
        (["3:10"], ["15:10?"]),
    ],
)
def test_what_the_hour_leaves_open_the_meeting_decides_and_alone_it_is_marked_as_inferred(
    offs: list[str], london: list[str]
) -> None:
    """London's 03:10 is 00:10 in Buenos Aires, its 15:10 is 12:10, and both may be; 18:00 is the afternoon, 01:40 last night."""
    assert clocks(SUMMER, "Palermo (ARG)", *offs) == london


@pytest.mark.parametrize(("course", "off"), [("Alpha Park", "2:00"), ("Nowhere (XYZ)", "2:00")])
def test_a_12_hour_off_of_a_course_that_nobody_can_place_is_inferred(course: str, off: str) -> None:
    assert clocks(WINTER, course, off) == ["14:00?"]


@pytest.mark.parametrize(
    ("course", "off", "utc", "race_date"),
    [
        ("Santa Anita (USA)", "00:30", "2026-01-03T00:30Z", date(2026, 1, 2)),
        ("Flemington (AUS)", "23:50", "2026-01-03T23:50Z", date(2026, 1, 4)),
        ("Ellerslie (NZ)", "01:10", "2026-01-03T01:10Z", date(2026, 1, 3)),
        ("Sha Tin (HK)", "05:00", "2026-01-03T05:00Z", date(2026, 1, 3)),
        ("Sandown", "13:30", "2026-01-03T13:30Z", date(2026, 1, 3)),
        ("Nowhere (XYZ)", "00:30", "2026-01-03T00:30Z", date(2026, 1, 3)),
    ],
)
def test_the_date_of_a_race_is_that_of_its_course(course: str, off: str, utc: str, race_date: date) -> None:
    (found,) = read(date(2026, 1, 3), course, off)
    assert (found.instant, found.race_date) == (datetime.fromisoformat(utc), race_date)


def test_an_off_after_midnight_is_of_the_night_that_is_given_and_else_inferred() -> None:
    """Dated in London: 00:30 ends the evening before, which this load has or has not."""
    before, day = date(2026, 1, 2), date(2026, 1, 3)
    tail, late = off_of(day, "Santa Anita (USA)", "00:30"), off_of(day, "Santa Anita (USA)", "22:00")
    head = off_of(before, "Santa Anita (USA)", "23:30")
    alone, both = OffReader.of([tail, late], LONDON).read, OffReader.of([head, tail, late], LONDON).read
    assert [(each[tail].inferred, each[tail].race_date) for each in (alone, both)] == [(True, day), (False, before)]
    assert {each[tail].instant for each in (alone, both)} == {datetime(2026, 1, 3, 0, 30, tzinfo=UTC)}
    assert not any(each[late].inferred for each in (alone, both))


def test_an_off_that_londons_clock_shows_twice_or_never_is_inferred() -> None:
    """On 25 October 2026 half past one comes twice, on 29 March never."""
    for day in (date(2026, 10, 25), date(2026, 3, 29)):
        assert [message.inferred for message in read(day, "Ellerslie (NZ)", "01:30", "02:30")] == [True, False]


@pytest.mark.parametrize(
    ("cell", "hour", "minute"),
    [("2:45", 2, 45), ("14:45:00", 14, 45), ("2.45pm", 14, 45), ("12:05 AM", 0, 5), ("12:05 p.m.", 12, 5)],
)
def test_an_off_may_have_seconds_and_halves_of_the_day(cell: str, hour: int, minute: int) -> None:
    written = written_off(cell)
    assert written is not None
    assert (written.hour, written.minute) == (hour, minute)


@pytest.mark.parametrize("cell", ["soon", "25:10", "2:75", "13:05pm", "0:10am", "245"])
def test_what_is_no_off_is_unreadable(cell: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        written_off(cell)


@pytest.mark.parametrize("cell", [None, "", " ", "–", "nan"])
def test_a_blank_is_no_off(cell: str | None) -> None:
    assert written_off(cell) is None


# Courses


def test_every_zone_of_the_table_is_one_of_iana_and_a_country_stands_once() -> None:
    for zone in {*ZONES.values(), *(zone for by_zone in COURSE_ZONES.values() for zone in by_zone)}:
        assert ZoneInfo(zone).key == zone
    assert not set(ZONES) & set(COURSE_ZONES)
    for by_zone in COURSE_ZONES.values():
        courses = [course for named in by_zone.values() for course in named.split()]
        assert len(set(courses)) == len(courses)


@pytest.mark.parametrize(
    ("course", "country", "zones"),
    [
        ("Ascot (AUS)", "AUS", {"Australia/Perth"}),
        ("Ascot", "GB", {"Europe/London"}),
        ("Cheltenham (AUS)", "AUS", {"Australia/Adelaide"}),
        ("Canterbury Park (USA)", "USA", {"America/Chicago"}),
        ("Canterbury Park (AUS)", "AUS", {"Australia/Sydney"}),
        ("Woodbine (AW) (CAN)", "CAN", {"America/Toronto"}),
        ("Nowhere (CAN)", "CAN", set(COURSE_ZONES["CAN"])),
        ("Nowhere", None, set()),
    ],
)
def test_a_course_is_in_the_zone_of_its_country_or_its_own_or_any_of_several(
    course: str, country: str | None, zones: set[str]
) -> None:
    assert {zone.key for zone in zones_of(course, country)} == zones


def test_a_course_that_is_not_listed_may_race_where_any_zone_lets_it_and_has_a_date_where_all_agree() -> None:
    noon_in_perth, night = datetime(2026, 1, 3, 4, 0, tzinfo=UTC), datetime(2026, 1, 3, 19, 0, tzinfo=UTC)
    assert may_start(noon_in_perth, "Nowhere (AUS)", "AUS")
    assert not may_start(night, "Nowhere (AUS)", "AUS")
    assert local_day(noon_in_perth, "Nowhere (AUS)", "AUS") == date(2026, 1, 3)
    assert local_day(datetime(2026, 1, 3, 14, 0, tzinfo=UTC), "Nowhere (AUS)", "AUS") is None
