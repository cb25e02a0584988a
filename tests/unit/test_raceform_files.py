"""Raceform and rpscrape files: every row is accounted for, and the real sample reads as a person reads it."""

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support.raceform_rows import LONDON, ROW, SECOND, results, written
from tests.support.shared import shared_file
from velo.errors import UserError
from velo.racing.courses import zones_of
from velo.racing.messages import from_record, to_record
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers.ingest import ingest
from velo.streams.importers.raceform_row import parse_row
from velo.streams.importers.sources.raceform import parse_rows, read_raceform


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


@pytest.fixture(scope="module")
def sample() -> list[dict[str, str]]:
    """Every row of the sample as text."""
    with shared_file("data/uk/raceform_results_sample.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# Files


def test_what_is_known_only_after_the_race_is_kept_with_the_message_out_of_reach_of_features(
    tmp_path: Path, store: Store
) -> None:
    (result,) = read_raceform([written(tmp_path / "results.csv", ROW, ROW | SECOND)], store).messages
    kept: dict[str, Any] = {
        "rpr": "101",
        "prize": "£25876",
        "comment": "Made all - ridden out",
        "sire": "Sea Stallion (GB)",
    }
    kept |= {"owner": "C Owner", "btn": "0", "sp": "11/4F", "course_id": "52", "ran": 2}
    assert {name: result.runners[0].kept.get(name) for name in kept} == kept
    assert "ts" not in result.runners[0].kept
    assert from_record(to_record(result)) == result


def test_several_files_are_one_load_and_one_race_may_span_them(tmp_path: Path, store: Store) -> None:
    later = {"date": "2019-07-07", "race_id": "733001", "off": "2:00"}
    first = written(tmp_path / "a.csv", ROW | later, ROW)
    second = written(tmp_path / "b.csv", ROW | SECOND | later, ROW | SECOND)
    read = read_raceform([first, second], store)
    assert {race_id: len(result.runners) for race_id, result in results(read).items()} == {"733000": 2, "733001": 2}
    assert read.rows == 4
    assert not read.refused
    assert not read.warnings


def test_files_that_overlap_say_a_race_twice_alike(tmp_path: Path, store: Store) -> None:
    files = [written(tmp_path / name, ROW, ROW | SECOND) for name in ("a.csv", "b.csv")]
    first, second = read_raceform(files, store).messages
    assert first == second


def test_a_gzipped_file_and_one_with_a_byte_order_mark_are_read(tmp_path: Path, store: Store) -> None:
    plain = written(tmp_path / "results.csv", ROW, ROW | SECOND)
    packed = tmp_path / "results.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert read_raceform([packed], store).messages == read_raceform([plain], store).messages


def test_two_races_under_one_id_are_two_races_and_the_earlier_keeps_it(tmp_path: Path, store: Store) -> None:
    other = {"date": "2019-07-08", "course": "Lingfield (AW)", "off": "1:35"}
    rows = [ROW | other, ROW, ROW | SECOND | other, ROW | SECOND]
    for order in (rows, rows[::-1]):
        read = read_raceform([written(tmp_path / "results.csv", *order)], store)
        found = results(read)
        assert {race_id: (result.race.course, len(result.runners)) for race_id, result in found.items()} == {
            "733000": ("Sandown", 2),
            "2019-07-08 lingfield (aw) 13:35": ("Lingfield (AW)", 2),
        }
        assert read.warnings == {"id of another race, own one made": 1}


def test_a_later_version_may_correct_the_off_without_becoming_another_race(tmp_path: Path, store: Store) -> None:
    first = {"result_version": "", "known_at": ""}
    later = {"result_version": "2", "known_at": "2019-07-07T09:00:00Z", "off": "3:36"}
    rows = [ROW | first, ROW | SECOND | first, ROW | later, ROW | SECOND | later]
    messages = read_raceform([written(tmp_path / "results.csv", *rows)], store).messages
    assert [(message.race_id, message.result_version, message.race.off_time.minute) for message in messages] == [
        ("733000", 1, 35),
        ("733000", 2, 36),
    ]


def test_an_incomplete_race_is_taken_and_counted_and_one_without_its_winner_is_refused(
    tmp_path: Path, store: Store
) -> None:
    loser = ROW | SECOND | {"race_id": "733001", "off": "4:10"}
    read = read_raceform([written(tmp_path / "results.csv", ROW, loser)], store)
    assert set(results(read)) == {"733000"}
    assert [(letter.race_id, letter.reason) for letter in read.refused] == [("733001", "no winner")]
    assert read.warnings["runners differ from ran"] == 2


def test_a_dead_letter_holds_the_cells_as_they_were_and_goes_in_once_corrected(tmp_path: Path, store: Store) -> None:
    rows = (ROW | {"pos": "7p"}, ROW | SECOND)
    (letter,) = read_raceform([written(tmp_path / "results.csv", *rows)], store).refused
    assert letter.reason == "unknown status 7P"
    assert [dict(row) for row in letter.rows] == [dict(row) for row in rows]
    (mended,) = parse_rows([dict(letter.rows[0]) | {"pos": "1"}, letter.rows[1]], store).messages
    (whole,) = read_raceform([written(tmp_path / "whole.csv", ROW, ROW | SECOND)], store).messages
    assert mended == whole


def test_an_exported_letters_own_column_is_not_kept(tmp_path: Path, store: Store) -> None:
    rows = [row | {"dead_letter": "a1b2"} for row in (ROW, ROW | SECOND)]
    (result,) = read_raceform([written(tmp_path / "mended.csv", *rows)], store).messages
    assert all("dead_letter" not in runner.kept for runner in result.runners)


def test_an_unreadable_version_or_instant_refuses_the_race(tmp_path: Path, store: Store) -> None:
    """Taken as unknown it would change what was known when; a column of nothing else is no such column."""
    fine = ROW | {"race_id": "733001", "off": "4:10", "result_version": "1", "known_at": "2019-07-06T15:30:00Z"}
    for column, value in (("result_version", "two"), ("known_at", "2019-07-06 16:00")):
        bad = ROW | {"result_version": "1", "known_at": "", column: value}
        read = read_raceform([written(tmp_path / "results.csv", fine, bad)], store)
        assert set(results(read)) == {"733001"}
        assert [(letter.race_id, letter.reason) for letter in read.refused] == [("733000", "bad value")]


def test_unreadable_cells_are_counted_and_the_race_goes_in(tmp_path: Path, store: Store) -> None:
    read = read_raceform([written(tmp_path / "results.csv", ROW | {"draw": "?"}, ROW | SECOND)], store)
    assert [runner.draw for runner in results(read)["733000"].runners] == [None, 1]
    assert read.warnings == {"unreadable draw, unknown": 1}


# Whose day it is


@pytest.mark.parametrize(
    ("zone", "course", "off", "utc", "race_date"),
    [
        ("Europe/London", "Flemington (AUS)", "23:50", "2026-01-03T23:50Z", "2026-01-03"),
        ("Australia/Sydney", "Flemington (AUS)", "23:50", "2026-01-03T23:50Z", "2026-01-04"),
        ("Europe/London", "Santa Anita (USA)", "00:30", "2026-01-03T00:30Z", "2026-01-02"),
        ("Asia/Hong_Kong", "Wolverhampton (AW)", "20:30", "2026-01-03T20:30Z", "2026-01-03"),
        ("America/New_York", "Ellerslie (NZ)", "01:10", "2026-01-03T01:10Z", "2026-01-02"),
    ],
)
def test_a_race_is_of_its_courses_day_or_of_the_stores_where_that_is_behind(
    zone: str, course: str, off: str, utc: str, race_date: str, tmp_path: Path
) -> None:
    """A day that has not begun in the store's zone is in none of its windows, so no race known by then is of it."""
    store = Store.open(Settings(home=tmp_path / "abroad", timezone=ZoneInfo(zone)))
    cells = {"date": "2026-01-03", "course": course, "off": off, "region": ""}
    read = read_raceform([written(tmp_path / "results.csv", ROW | cells, ROW | SECOND | cells)], store)
    assert not read.refused
    (result,) = read.messages
    assert (result.race.off_time, str(result.race.race_date)) == (datetime.fromisoformat(utc), race_date)


# One bad cell


@pytest.mark.parametrize(
    "bad",
    [{"date": "6 July"}, {"date": ""}, {"off": "soon"}, {"off": "25:10"}, {"date": "06/07/2019"}],
    ids=lambda bad: " ".join(bad.values()),
)
@pytest.mark.parametrize("with_id", [True, False])
def test_a_date_or_an_off_that_cannot_be_read_costs_its_race_and_no_other(
    bad: dict[str, str], with_id: bool, tmp_path: Path, store: Store
) -> None:
    """Also where races have no ids: the row is of the race that has its course, its name and the other of the two."""
    other = {"race_id": "733001", "off": "4:10", "race_name": "Other Stakes"}
    rows = [ROW, ROW | SECOND | bad, ROW | other, ROW | SECOND | other]
    rows = rows if with_id else [row | {"race_id": ""} for row in rows]
    read = read_raceform([written(tmp_path / "results.csv", *rows)], store)
    assert [message.race.race_name for message in read.messages] == ["Other Stakes"]
    (letter,) = read.refused
    assert (letter.reason, len(letter.rows)) == ("bad value", 2)
    assert next(iter(bad)) in letter.detail
    assert "correct it" in letter.detail
    report = ingest(store, read, clock=lambda: datetime(2019, 7, 7, tzinfo=UTC))
    assert (report.appended, report.dead_letters) == (1, 1)


def test_one_odd_cell_in_a_column_that_is_blank_elsewhere_costs_no_file(tmp_path: Path, store: Store) -> None:
    """A file of jump races has no draws; a stray mark in one is no other column under that name."""
    rows = [
        row | {"draw": draw}
        for row, draw in ((ROW, ""), (ROW | SECOND, "?"), (ROW | {"race_id": "2", "off": "5:00"}, ""))
    ]
    read = read_raceform([written(tmp_path / "results.csv", *rows)], store)
    assert (len(read.messages), read.warnings["unreadable draw, unknown"]) == (2, 1)


def test_a_header_in_the_middle_of_a_file_is_left_out_and_counted(tmp_path: Path, store: Store) -> None:
    header = {name: name.title() for name in ROW}
    read = read_raceform([written(tmp_path / "results.csv", ROW, header, ROW | SECOND, header)], store)
    assert (len(read.messages), read.refused, read.rows) == (1, [], 2)
    assert read.warnings == {"header in the middle of a file, left out": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"date,course\n2019-07-06,Sandown\n", "no column horse, off, pos"),
        (b"date,course,off,horse,pos\n", "no rows"),
        (b"PAR1\x00\x00\x15\x04", "is a Parquet file"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,2:00,Caf\xe9,1\n", "no UTF-8"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,2:00,A\n", "line 2 has 4 cells, the header 5"),
        (b'date,course,off,horse,pos\n2019-07-06,Sandown,2:00,"A" B,1\n', "line 2 is no CSV"),
        (b"date,course,off,horse,pos\n6 July,Sandown,2:00,A,1\n", "line 2: '6 July' is the first value of date"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,soon,A,1\n", "line 2: 'soon' is the first value of off"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,25:10,A,1\n", "'25:10' is the first value of off"),
        (b"date,course,off,horse,pos,draw\n2019-07-06,Sandown,2:00,A,1,high\n", "'high' is the first value of draw"),
        (b"date,course,off,horse,pos,pos\n2019-07-06,Sandown,2:00,A,1,1\n", "'pos' more than once"),
    ],
)
def test_a_file_that_is_none_is_reported_in_one_line(content: bytes, said: str, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_raceform([path], store)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_a_folder_and_no_file_are_reported_in_one_line(tmp_path: Path, store: Store) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_raceform([path], store)
    with pytest.raises(UserError, match="no file is named"):
        read_raceform([], store)


# The sample


def utc(day: int, hour: int, minute: int) -> datetime:
    return datetime(2015, 4, day, hour, minute, tzinfo=UTC)


SPOT_CHECKS: dict[str, dict[str, Any]] = {
    "Gala Casino Star (IRE)": {
        "off_time": utc(26, 16, 45),
        "distance_m": 1811.0,
        "weight_lbs": 124.0,
        "sp_decimal": 17.0,
        "race_class": 5,
        "finish_time_s": 114.79,
        "beaten_lengths": 6.75,
        "official_rating": 68,
        "headgear": "v",
        "draw": 8,
    },
    "Mickey Haller (IRE)": {"sp_decimal": 2.0, "official_rating": None, "distance_m": 1408.0, "handicap": False},
    "Istimraar (IRE)": {"race_id": "622452", "position": 9, "distance_m": 2615.0, "weight_lbs": 122.0},
    "Novalist (GB)": {"sp_decimal": 5.0, "headgear": "b", "going": "Good To Firm", "rating_band": "0-65"},
    "Pull The Pin (IRE)": {"surface": "AW", "country": "GB", "course": "Southwell (AW)", "headgear": "tb"},
    "Reflektor (IRE)": {
        "status": "PU",
        "position": None,
        "beaten_lengths": None,
        "finish_time_s": None,
        "off_time": utc(27, 14, 10),
    },
    "Norwegian Reward (IRE)": {"distance_m": 1710.0, "sp_decimal": 6.5, "off_time": utc(27, 17, 20)},
    "Woodbridge (GB)": {"status": "F", "off_time": utc(27, 18, 50), "weight_lbs": 117.0},
    "Wor Lass (GB)": {"status": "RR", "distance_m": 2515.0, "draw": 12, "sex": "M"},
    "Instant Attraction (IRE)": {"sp_decimal": 1 + 100 / 30, "race_class": 3},
    "Timingseverything (IRE)": {
        "race_type": "NHF",
        "country": "IRE",
        "finish_time_s": 241.7,
        "draw": None,
        "prize": "€7590",
        "rpr": "116",
    },
    "The Plan Man (IRE)": {"status": "UR", "pattern": "Grade B", "race_class": None, "weight_lbs": 152.0},
    "Oscar Knight (IRE)": {"status": "BD", "rating_band": "95-123", "sp_decimal": 4.5, "off_time": utc(29, 14, 40)},
    "Ashkoun (FR)": {"status": "RO", "headgear": "ht", "off_time": utc(30, 17, 50)},
    "Becauseicouldntsee (IRE)": {"status": "REF", "distance_m": 6639.0, "age": 12, "race_type": "Chase"},
    "Jo De Vati (FR)": {
        "off_time": utc(27, 11, 50),
        "off_inferred": None,
        "country": "FR",
        "surface": "AW",
        "sp_decimal": 4.7,
    },
    "Mango Cap (FR)": {"race_type": "Hurdle", "distance_m": 3520.0, "off_time": utc(28, 13, 5), "sex": "C"},
    "Dragon Rouge (FR)": {"runner_no": None, "draw": 5, "position": 1, "finish_time_s": 61.96},
    "Boone Station (USA)": {"off_time": utc(29, 21, 28), "off_inferred": None, "sp_decimal": 6.4, "weight_lbs": 112.0},
}


@pytest.mark.parametrize("horse", SPOT_CHECKS)
def test_rows_of_the_sample_read_as_a_person_reads_them(horse: str, sample: list[dict[str, str]]) -> None:
    (raw,) = (row for row in sample if row["horse"] == horse)
    row = parse_row(raw, LONDON)
    expected = SPOT_CHECKS[horse]
    assert {name: row.get(name) for name in expected} == expected


def test_every_row_of_the_sample_is_ingested_or_refused(sample: list[dict[str, str]], store: Store) -> None:
    read = read_raceform([shared_file("data/uk/raceform_results_sample.csv")], store)
    assert read.rows == len(sample) == 2024
    found = results(read)
    ingested = sum(len(result.runners) for result in found.values())
    refused = {(letter.race_id, letter.reason): len(letter.rows) for letter in read.refused}
    assert refused == {("622452", "no winner"): 1, ("622455", "no winner"): 2, ("622456", "no winner"): 7}
    assert ingested + sum(refused.values()) == 2024
    assert len(found) == len(read.messages) == 217
    assert len(found["625371"].runners) == 9, "two of its eleven are not in the file"
    assert read.warnings == {
        "id of another race, own one made": 1,
        "runners differ from ran": 4,
    }


def test_the_foreign_races_of_the_sample_are_run_in_the_afternoons_of_their_courses(
    sample: list[dict[str, str]], store: Store
) -> None:
    """France, Australia and America, by the paper's 12-hour London clock: none is left to be inferred."""
    read = read_raceform([shared_file("data/uk/raceform_results_sample.csv")], store)
    abroad = [message.race for message in read.messages if message.race.country not in ("GB", "IRE")]
    local = [race.off_time.astimezone(zone) for race in abroad for zone in zones_of(race.course, race.country)]
    assert (len(abroad), len(local)) == (51, 51)
    assert all(12 <= off.hour < 19 for off in local)
    assert [race.race_date for race in abroad] == [off.date() for off in local]


def test_the_sample_loads_once_and_again_adds_nothing(sample: list[dict[str, str]], store: Store) -> None:
    def clock() -> datetime:
        return datetime(2015, 5, 1, tzinfo=UTC)

    first = ingest(store, read_raceform([shared_file("data/uk/raceform_results_sample.csv")], store), clock=clock)
    again = ingest(store, read_raceform([shared_file("data/uk/raceform_results_sample.csv")], store), clock=clock)
    assert (first.rows, first.appended, first.dead_letters) == (len(sample), 217, 3)
    assert (again.appended, again.identical, again.dead_letters, again.next_seq) == (0, 217, 0, first.next_seq)


def test_the_two_races_of_the_sample_under_one_id_stay_apart(sample: list[dict[str, str]], store: Store) -> None:
    """The file gives 623000 to the 2:45 at Nottingham and, two days later, to the 1:35 at Lingfield."""
    found = results(read_raceform([shared_file("data/uk/raceform_results_sample.csv")], store))
    nottingham, lingfield = found["623000"], found["2015-04-30 lingfield (aw) 13:35"]
    assert (nottingham.race.course, len(nottingham.runners)) == ("Nottingham", 8)
    assert (lingfield.race.course, len(lingfield.runners)) == ("Lingfield (AW)", 3)
    assert [runner.horse_id for runner in lingfield.runners if runner.position == 1] == ["pearl blue (ire)"]
    assert {runner.kept["source_race_id"] for runner in lingfield.runners} == {"623000"}
