"""Betfair starting prices find their race by course, off and horse, or say why they do not."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from velo.errors import UserError
from velo.racing.messages import Market, Race, Result, Runner
from velo.streams.importers.betfair_courses import courses_meant, read_hint
from velo.streams.importers.betfair_match import BspMatch, read_betfair_sp

LONDON = ZoneInfo("Europe/London")
HEADER = (
    "EVENT_ID,MENU_HINT,EVENT_NAME,EVENT_DT,SELECTION_ID,SELECTION_NAME,WIN_LOSE,BSP,PPWAP,MORNINGWAP,"
    "PPMAX,PPMIN,IPMAX,IPMIN,MORNINGTRADEDVOL,PPTRADEDVOL,IPTRADEDVOL"
)
DAY = date(2015, 4, 27)
WOLV = "GB / Wolv 27th Apr"


def race(race_id: str, course: str, hour: int, minute: int, *horses: str, country: str = "GB") -> Result:
    off = datetime(DAY.year, DAY.month, DAY.day, hour, minute, tzinfo=LONDON).astimezone(UTC)
    runners = tuple(
        Runner(horse_id=horse.casefold(), horse=horse, status="FINISHED", position=place)
        for place, horse in enumerate(horses, 1)
    )
    return Result(Race(race_id, DAY, off, course, country=country), runners)


RACES = [
    race("w1", "Wolverhampton (AW)", 14, 5, "Katmai River (IRE)", "Kings Bayonet (GB)", "Don't Tell Bertie (GB)"),
    race("w2", "Wolverhampton (AW)", 14, 40, "Black Truffle (FR)", "St. Louie (IRE)"),
    race("n1", "Newcastle", 14, 5, "Rosie Probert (GB)"),
    race("b1", "Newbury", 14, 5, "Another (GB)"),
    race("l1", "Lingfield", 15, 0, "Turf Horse (GB)"),
    race("l2", "Lingfield (AW)", 15, 30, "Sand Horse (GB)"),
    race("p1", "Punchestown (IRE)", 15, 40, "Hurricane Fly (IRE)", country="IRE"),
]


def row(hint: str, at: str, horse: str, bsp: str, event: str = "7f Hcap") -> str:
    return f"1,{hint},{event},{at},99,{horse},0,{bsp},5.1,5.6,6.4,4.8,20,4.6,900,12000,3000"


def matched(tmp_path: Path, *rows: str, races: list[Result] = RACES, header: str = HEADER) -> BspMatch:
    path = tmp_path / "dwbfpricesukwin27042015.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return read_betfair_sp([path], races)


def reason(tmp_path: Path, line: str, races: list[Result] = RACES) -> tuple[str, str]:
    found = matched(tmp_path, line, races=races)
    assert found.messages == []
    (unmatched,) = found.unmatched
    assert unmatched.line == 2
    return unmatched.reason, unmatched.detail


def test_prices_become_one_market_message_a_race_known_a_quarter_of_an_hour_after_the_off(tmp_path: Path) -> None:
    found = matched(
        tmp_path,
        row(WOLV, "27-04-2015 14:40", "Black Truffle", "4.53"),
        row(WOLV, "27-04-2015 14:05", "Katmai River", "9.2"),
        row(WOLV, "27-04-2015 14:05", "Kings Bayonet", "3.15"),
    )
    known_at = datetime(2015, 4, 27, 13, 20, tzinfo=UTC)
    assert found.messages == [
        Market("w1", {"katmai river (ire)": 9.2, "kings bayonet (gb)": 3.15}, "betfair-sp", known_at),
        Market("w2", {"black truffle (fr)": 4.53}, "betfair-sp", known_at + timedelta(minutes=35)),
    ]
    assert found.unmatched == []
    assert found.rows == 3


@pytest.mark.parametrize(
    ("written", "horse_id"),
    [
        ("Dont Tell Bertie", "don't tell bertie (gb)"),
        ("DON'T TELL BERTIE", "don't tell bertie (gb)"),
        ("Don’t Tell Bertie", "don't tell bertie (gb)"),
        ("3. Katmai River (IRE)", "katmai river (ire)"),
        ("Kings  Bayonet (GB)", "kings bayonet (gb)"),
        ("King's Bayonet", "kings bayonet (gb)"),
    ],
)
def test_a_horse_is_known_by_its_letters(written: str, horse_id: str, tmp_path: Path) -> None:
    found = matched(tmp_path, row(WOLV, "27-04-2015 14:05", written, "5"))
    assert [set(message.prices) for message in found.messages] == [{horse_id}]


def test_the_newer_spelling_of_the_file_is_read(tmp_path: Path) -> None:
    line = row("Wolverhampton 27th Apr", "27-04-2015 14:40", "St Louie (IRE)", "4.45259479", event="1m4f Hcap")
    found = matched(tmp_path, line, header=HEADER.lower())
    assert [dict(message.prices) for message in found.messages] == [{"st. louie (ire)": 4.45259479}]


@pytest.mark.parametrize(
    ("hint", "course", "country"),
    [
        ("GB / Wolv 26th Apr", "Wolv", "GB"),
        ("IRE / Punch 29th Apr", "Punch", "IRE"),
        ("Market Rasen 1st May", "Market Rasen", None),
        ("Melton (AUS) 1st Aug", "Melton", "AUS"),
        ("US / CharlesTown 2nd May", "CharlesTown", "USA"),
        ("Ascot", "Ascot", None),
    ],
)
def test_a_menu_hint_is_a_course_and_perhaps_a_country(hint: str, course: str, country: str | None) -> None:
    assert read_hint(hint) == (course, country)


@pytest.mark.parametrize(
    ("name", "courses", "meant"),
    [
        ("Sthl", ["southwell", "sandown"], {"southwell"}),
        ("ChelmC", ["chelmsford", "cheltenham"], {"chelmsford"}),
        ("Chelmsford City", ["chelmsford", "cheltenham"], {"chelmsford"}),
        ("Epsom Downs", ["epsom"], {"epsom"}),
        ("Chel", ["chelmsford", "cheltenham"], {"chelmsford", "cheltenham"}),
        ("Chest", ["chester", "chepstow"], {"chester"}),
        ("Nav", ["navan"], {"navan"}),
        ("Wo", ["worcester"], set()),
        ("Wolv", ["worcester"], set()),
        ("York", ["york", "yorktown"], {"york"}),
    ],
)
def test_a_short_name_means_a_course_of_the_day_or_several_or_none(
    name: str, courses: list[str], meant: set[str]
) -> None:
    assert courses_meant(name, courses) == meant


def test_a_mixed_meeting_is_one_course_and_the_off_says_which_surface(tmp_path: Path) -> None:
    found = matched(
        tmp_path,
        row("GB / Ling 27th Apr", "27-04-2015 15:00", "Turf Horse", "2.5"),
        row("GB / Ling 27th Apr", "27-04-2015 15:30", "Sand Horse", "3.5"),
    )
    assert [message.race_id for message in found.messages] == ["l1", "l2"]


@pytest.mark.parametrize(
    ("at", "bsp", "said"),
    [
        ("27/04/15 2pm", "5", "EVENT_DT is '27/04/15 2pm'"),
        ("", "5", "EVENT_DT is ''"),
        ("27-04-2015 14:05", "x", "BSP is 'x'"),
    ],
)
def test_a_cell_that_cannot_be_read_costs_its_row_and_no_other(at: str, bsp: str, said: str, tmp_path: Path) -> None:
    found = matched(
        tmp_path, row(WOLV, "27-04-2015 14:05", "Katmai River", "9.2"), row(WOLV, at, "Kings Bayonet", bsp), HEADER
    )
    assert [dict(message.prices) for message in found.messages] == [{"katmai river (ire)": 9.2}]
    assert [(each.line, each.reason) for each in found.unmatched] == [
        (3, "bad value"),
        (4, "header in the middle of the file"),
    ]
    assert said in found.unmatched[0].detail


def test_an_ambiguous_course_is_reported_not_guessed(tmp_path: Path) -> None:
    found, detail = reason(tmp_path, row("GB / New 27th Apr", "27-04-2015 14:05", "Rosie Probert", "5"))
    assert found == "several courses"
    assert "Newbury, Newcastle" in detail


def test_a_minute_beside_the_off_is_reported_with_the_nearest_race(tmp_path: Path) -> None:
    found, detail = reason(tmp_path, row(WOLV, "27-04-2015 14:38", "Black Truffle", "5"))
    assert found == "no race at that off"
    assert "14:40 (race w2)" in detail


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (row("GB / Donc 27th Apr", "27-04-2015 14:05", "Katmai River", "5"), "no such course that day"),
        (row("GB / Wolv 28th Apr", "28-04-2015 14:05", "Katmai River", "5"), "no race that day"),
        (row("AUS / Newcastle 27th Apr", "27-04-2015 14:05", "Rosie Probert", "5"), "no race that day"),
        (row(WOLV, "27-04-2015 14:05", "Black Truffle", "5"), "no such horse in the race"),
        (row(WOLV, "27-04-2015 14:05", "Katmai", "5"), "no such horse in the race"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", ""), "no starting price"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "0"), "no starting price"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "1.0"), "no starting price"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "1001"), "no starting price"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "nan"), "no starting price"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "2", "To Be Placed"), "not a win market"),
        (row(WOLV, "27-04-2015 14:05", "Katmai River", "2", "4 TBP"), "not a win market"),
        (row(WOLV, "27-04-2015 14:05", "", "2"), "no horse named"),
    ],
)
def test_a_row_that_fits_nothing_says_why(line: str, said: str, tmp_path: Path) -> None:
    assert reason(tmp_path, line)[0] == said


def test_two_races_at_one_off_and_two_horses_of_one_name_are_reported(tmp_path: Path) -> None:
    line = row(WOLV, "27-04-2015 14:05", "Katmai River", "5")
    twin = race("w9", "Wolverhampton (AW)", 14, 5, "Katmai River (IRE)")
    assert reason(tmp_path, line, [*RACES, twin])[0] == "several races at that off"
    same = race("w1", "Wolverhampton (AW)", 14, 5, "Katmai River (IRE)", "Katmai River (GB)")
    assert reason(tmp_path, line, [same])[0] == "several horses of that name"


def test_a_non_runner_takes_no_price(tmp_path: Path) -> None:
    withdrawn = replace(RACES[0], runners=(replace(RACES[0].runners[0], status="NR", position=None),))
    line = row(WOLV, "27-04-2015 14:05", "Katmai River", "5")
    assert reason(tmp_path, line, [withdrawn])[0] == "the horse did not run"


def test_two_prices_for_one_horse_are_both_reported_and_the_same_row_twice_is_one(tmp_path: Path) -> None:
    line = row(WOLV, "27-04-2015 14:05", "Katmai River", "5")
    again = row(WOLV, "27-04-2015 14:05", "Katmai River (IRE)", "6")
    twice = matched(tmp_path, line, line)
    assert [dict(message.prices) for message in twice.messages] == [{"katmai river (ire)": 5.0}]
    assert (twice.rows, twice.repeated, twice.unmatched) == (2, 1, [])
    clash = matched(tmp_path, line, again)
    assert clash.messages == []
    assert [each.reason for each in clash.unmatched] == ["two prices for one horse"] * 2


def test_every_row_is_a_price_a_repeat_or_unmatched(tmp_path: Path) -> None:
    found = matched(
        tmp_path,
        row(WOLV, "27-04-2015 14:05", "Katmai River", "5"),
        row(WOLV, "27-04-2015 14:05", "Katmai River", "5"),
        row(WOLV, "27-04-2015 14:05", "Nobody", "5"),
        row("IRE / Punch 27th Apr", "27-04-2015 15:40", "Hurricane Fly", "1.9"),
    )
    prices = sum(len(message.prices) for message in found.messages)
    assert prices + found.repeated + len(found.unmatched) == found.rows == 4


def test_the_highest_version_of_a_race_is_the_one_matched(tmp_path: Path) -> None:
    later = replace(RACES[0].race, off_time=RACES[0].race.off_time + timedelta(minutes=5))
    moved = replace(RACES[0], race=later, result_version=2)
    for races in ([RACES[0], moved], [moved, RACES[0]]):
        found = matched(tmp_path, row(WOLV, "27-04-2015 14:10", "Katmai River", "5"), races=races)
        assert [message.race_id for message in found.messages] == ["w1"]


def test_times_are_british_also_in_winter(tmp_path: Path) -> None:
    december = replace(RACES[0].race, race_date=date(2015, 12, 1), off_time=datetime(2015, 12, 1, 14, 5, tzinfo=UTC))
    line = row("GB / Wolv 1st Dec", "01-12-2015 14:05", "Katmai River", "5")
    found = matched(tmp_path, line, races=[replace(RACES[0], race=december)])
    assert found.messages[0].known_at == datetime(2015, 12, 1, 14, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("EVENT_ID,MENU_HINT\n1,GB / Wolv 27th Apr\n", "no column bsp, event_dt, event_name, selection_name"),
        (f"{HEADER}\n{row(WOLV, '2015-04-27', 'A', '5')}\n", "line 2: EVENT_DT is '2015-04-27'"),
        (f"{HEADER}\n{row(WOLV, '27-04-2015 14:05', 'A', 'five')}\n", "line 2: BSP is 'five'"),
    ],
)
def test_a_file_that_is_none_is_reported_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_betfair_sp([path], RACES)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
