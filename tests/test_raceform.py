"""Raceform and rpscrape files become runner-table rows, and every row is accounted for."""

import csv
import gzip
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streams.importers import cells
from streams.importers.ingest import ingest
from streams.importers.raceform import parse_row, parse_rows, read_raceform
from streams.importers.raceform_row import with_country
from streams.importers.results import Parsed
from velo.errors import UserError
from velo.racing.messages import Result, from_record, to_record
from velo.racing.names import name_key
from velo.settings import KeyPolicy, Settings
from velo.store import Store

SAMPLE_PATH = Path("shared", "data", "uk", "raceform_results_sample.csv")
SAMPLE = next((one / SAMPLE_PATH for one in Path(__file__).parents if (one / SAMPLE_PATH).exists()), SAMPLE_PATH)
LONDON = ZoneInfo("Europe/London")
HONG_KONG = ZoneInfo("Asia/Hong_Kong")
ROW = {
    "date": "2019-07-06",
    "region": "GB",
    "course_id": "52",
    "course": "Sandown",
    "race_id": "733000",
    "off": "3:35",
    "race_name": "Coral Summer Handicap",
    "type": "Flat",
    "class": "Class 2",
    "pattern": "",
    "rating_band": "0-105",
    "dist": "1m1f209y",
    "going": "Good To Firm",
    "ran": "2",
    "num": "4.0",
    "pos": "1",
    "draw": "2",
    "ovr_btn": "0",
    "btn": "0",
    "horse_id": "1001",
    "horse": "Plain Sailing (IRE)",
    "age": "4",
    "sex": "G",
    "wgt": "9-3",
    "hg": "tp",
    "time": "2:4.61",
    "sp": "11/4F",
    "jockey_id": "2001",
    "jockey": "A Rider",
    "trainer_id": "3001",
    "trainer": "B Trainer",
    "prize": "£25876",
    "or": "92",
    "rpr": "101",
    "ts": "–",
    "sire": "Sea Stallion (GB)",
    "owner": "C Owner",
    "comment": "Made all - ridden out",
}
SECOND = {
    "num": "1",
    "pos": "2",
    "draw": "1",
    "ovr_btn": "1.25",
    "btn": "1.25",
    "horse_id": "1002",
    "horse": "Second Thoughts",
    "jockey_id": "2002",
    "jockey": "D Rider",
    "sp": "Evens",
    "time": "2:4.82",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


@pytest.fixture(scope="module")
def sample() -> list[dict[str, str]]:
    """Every row of the sample as text."""
    if not SAMPLE.exists():
        pytest.skip(f"NOT TESTED: the raceform sample is not at {SAMPLE}")
    with SAMPLE.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def parsed(timezone: ZoneInfo = LONDON, **changed: str) -> dict[str, Any]:
    return parse_row(ROW | changed, timezone)


def written(path: Path, *rows: Mapping[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def results(read: Parsed) -> dict[str, Result]:
    return {message.race_id: message for message in read.messages}


# One row


def test_a_row_becomes_the_columns_of_the_runner_table() -> None:
    row = parsed()
    assert {name: row[name] for name in ("race_id", "race_date", "course", "country", "race_type", "race_class")} == {
        "race_id": "733000",
        "race_date": date(2019, 7, 6),
        "course": "Sandown",
        "country": "GB",
        "race_type": "Flat",
        "race_class": 2,
    }
    assert row["off_time"] == datetime(2019, 7, 6, 14, 35, tzinfo=UTC)
    assert (row["handicap"], row["surface"], row["rating_band"]) == (True, "Turf", "0-105")
    assert row["distance_m"] == 2002
    assert (row["runner_no"], row["draw"], row["age"], row["sex"]) == (4, 2, 4, "G")
    assert (row["weight_lbs"], row["official_rating"], row["headgear"]) == (129.0, 92, "tp")
    assert (row["status"], row["position"], row["beaten_lengths"]) == ("FINISHED", 1, 0.0)
    assert (row["finish_time_s"], row["sp_decimal"]) == (124.61, 3.75)


@pytest.mark.parametrize(
    ("as_written", "local"),
    [
        ("1:00", "13:00"),
        ("9:20", "21:20"),
        ("10:28", "10:28"),
        ("11:30", "11:30"),
        ("12:00", "12:00"),
        ("12:50", "12:50"),
        ("13:05", "13:05"),
        ("20:30", "20:30"),
        ("05:15", "17:15"),
    ],
)
def test_one_to_nine_o_clock_is_the_afternoon_and_the_rest_is_as_written(as_written: str, local: str) -> None:
    off = parsed(date="2019-01-05", off=as_written)["off_time"]
    assert off.astimezone(LONDON).strftime("%H:%M") == local


@pytest.mark.parametrize(
    ("day", "utc_hour"),
    [
        ("2015-03-28", 14),
        ("2015-03-29", 13),  # the clocks went forward that morning
        ("2015-10-24", 13),
        ("2015-10-25", 14),  # and back
    ],
)
def test_an_off_follows_the_clocks_on_the_days_they_change(day: str, utc_hour: int) -> None:
    assert parsed(date=day, off="2:00")["off_time"].hour == utc_hour


def test_british_and_irish_offs_are_british_time_in_any_store_and_foreign_ones_are_marked_as_inferred() -> None:
    for course in ("Ascot", "Naas (IRE)", "Dundalk (AW) (IRE)"):
        row = parsed(HONG_KONG, course=course, region="", off="2:00")
        assert row["off_time"] == datetime(2019, 7, 6, 13, 0, tzinfo=UTC)
        assert "off_inferred" not in row
    row = parsed(HONG_KONG, course="Sha Tin (HK)", region="", off="2:00")
    assert row["off_time"] == datetime(2019, 7, 6, 6, 0, tzinfo=UTC)
    assert row["off_inferred"] is True
    assert parsed(course="Longchamp", region="FR")["off_inferred"] is True


@pytest.mark.parametrize(
    ("sp", "decimal"),
    [
        ("16/1", 17.0),
        ("5/2F", 3.5),
        ("4/1J", 5.0),
        ("7/2C", 4.5),
        ("100/30F", 1 + 100 / 30),
        ("1/10F", 1.1),
        ("Evens", 2.0),
        ("EvensF", 2.0),
        ("evsJ", 2.0),
        ("3.75", 3.75),
        ("No Odds", None),
        ("–", None),
        ("-", None),
        ("", None),
    ],
)
def test_prices_are_read_with_their_favourite_marks(sp: str, decimal: float | None) -> None:
    assert parsed(sp=sp)["sp_decimal"] == decimal


def test_decimal_odds_stand_in_where_the_fraction_is_missing() -> None:
    assert parsed(sp="", dec="3.75")["sp_decimal"] == 3.75
    assert parsed(sp="4/6F", dec="1.67")["sp_decimal"] == pytest.approx(1 + 4 / 6)


@pytest.mark.parametrize(
    ("dist", "yards"),
    [
        ("1m1f157y", 1980 + 157),
        ("7f", 1540),
        ("2m½f", 3630),
        ("2m1½f", 3850),
        ("5½f", 1210),
        ("5f110y", 1210),
        ("1m", 1760),
        ("1m3.5f", 2530),
        ("1m 2f 17yds", 2217),
        ("3m", 5280),
    ],
)
def test_distances_are_yards_in_whole_metres(dist: str, yards: int) -> None:
    assert parsed(dist=dist)["distance_m"] == round(yards * 0.9144)


def test_a_measured_distance_goes_before_the_rounded_text() -> None:
    assert parsed(dist="1m2f", dist_y="2189")["distance_m"] == 2002
    assert parsed(dist="1m2f", dist_m="2001")["distance_m"] == 2001
    assert parsed(dist="", dist_f="10f")["distance_m"] == 2012


@pytest.mark.parametrize(
    ("pos", "status", "position"),
    [
        ("3", "FINISHED", 3),
        (" 3.0 ", "FINISHED", 3),
        ("pu", "PU", None),
        ("VOI", "VOID", None),
        ("void", "VOID", None),
        *((code, code, None) for code in ("F", "UR", "BD", "SU", "RO", "REF", "RR", "LFT", "CO", "DNF", "DSQ", "NR")),
        ("XX", "XX", None),
        ("–", None, None),
    ],
)
def test_a_position_is_a_number_or_a_code(pos: str, status: str | None, position: int | None) -> None:
    row = parsed(pos=pos)
    assert (row["status"], row["position"]) == (status, position)


def test_dashes_and_blanks_are_unknown_everywhere() -> None:
    dashed = (
        "class",
        "rating_band",
        "dist",
        "going",
        "num",
        "draw",
        "ovr_btn",
        "age",
        "sex",
        "wgt",
        "hg",
        "time",
        "sp",
    )
    blank = {"or": "", "jockey": " - ", "trainer": "—", "type": "", "race_name": "", "rpr": "–", "ran": "-"}
    row = parse_row(ROW | dict.fromkeys(dashed, "–") | blank, LONDON)
    unknown = {"race_class", "rating_band", "distance_m", "going", "runner_no", "draw", "beaten_lengths", "age", "sex"}
    unknown |= {"weight_lbs", "headgear", "finish_time_s", "sp_decimal", "official_rating", "jockey", "trainer"}
    unknown |= {"race_type", "race_name", "handicap"}
    assert {name for name in unknown if row[name] is not None} == set()
    assert not {"unreadable", "rpr", "ts", "ran"} & set(row)


@pytest.mark.parametrize(
    ("kind", "race_type"), [("Flat", "Flat"), ("Hurdle", "Hurdle"), ("Chase", "Chase"), ("NH Flat", "NHF")]
)
def test_race_types_are_those_of_the_runner_table(kind: str, race_type: str) -> None:
    assert parsed(type=kind)["race_type"] == race_type


def test_the_surface_is_aw_where_the_course_says_so_else_as_named_else_turf() -> None:
    assert parsed(course="Lingfield (AW)", surface="Turf")["surface"] == "AW"
    assert parsed(course="Belmont Park (USA)", surface="Dirt")["surface"] == "Dirt"
    assert parsed(course="Chantilly (FR)")["surface"] == "Turf"


@pytest.mark.parametrize(
    ("course", "region", "country"),
    [
        ("Ascot", "", "GB"),
        ("Naas (IRE)", "", "IRE"),
        ("Lingfield (AW)", "", "GB"),
        ("Newmarket (July)", "GB", "GB"),
        ("Dundalk (AW)", "IRE", "IRE"),
        ("Longchamp (FR)", "GB", "FR"),
    ],
)
def test_the_country_is_of_the_suffix_then_of_the_region_then_gb(course: str, region: str, country: str) -> None:
    assert parsed(course=course, region=region)["country"] == country


def test_an_unreadable_cell_is_unknown_and_its_text_is_kept() -> None:
    row = parse_row(ROW | {"wgt": "9-15", "draw": "2½", "class": "Class Z"}, LONDON)
    assert (row["weight_lbs"], row["draw"], row["race_class"]) == (None, None, None)
    assert row["unreadable"] == {"wgt": "9-15", "draw": "2½", "class": "Class Z"}


def test_classes_by_letter_have_no_number_and_are_no_trouble() -> None:
    row = parse_row(ROW | {"class": "Class D"}, LONDON)
    assert row["race_class"] is None
    assert "unreadable" not in row


@pytest.mark.parametrize(
    ("text", "seconds"), [("1:54.79", 114.79), ("0:59.78", 59.78), ("4:1.70", 241.7), ("59.78", 59.78), ("-", None)]
)
def test_times_are_minutes_and_unpadded_seconds(text: str, seconds: float | None) -> None:
    assert cells.seconds(text) == seconds


# Keys


@pytest.mark.parametrize(
    ("horse", "region", "key"),
    [
        ("Gala Casino Star (IRE)", None, "gala casino star (ire)"),
        ("Best Kept (GB)", None, "best kept (gb)"),
        ("Best Kept", None, "best kept (gb)"),
        ("  Best   Kept ", None, "best kept (gb)"),
        ("Brave Guest", "IRE", "brave guest (ire)"),
        ("Brave Guest (IRE)", "GB", "brave guest (ire)"),
        ("–", None, None),
        ("", None, None),
    ],
)
def test_a_horse_by_name_is_its_name_with_the_country_of_its_suffix_or_its_cards_region(
    horse: str, region: str | None, key: str | None
) -> None:
    assert name_key(with_country(horse, region)) == key


@pytest.mark.parametrize("column", ["none", "race_id", "course_id", "horse_id", "jockey_id", "trainer_id", "region"])
@pytest.mark.parametrize("keys", [None, "name", "id"])
def test_each_id_column_may_be_missing_and_keys_follow_the_store(
    column: str, keys: KeyPolicy | None, tmp_path: Path, store: Store
) -> None:
    """By name unless the store says by id; by id, the name stands in for a missing one."""
    rows = [{name: cell for name, cell in row.items() if name != column} for row in (ROW, ROW | SECOND)]
    (result,) = read_raceform([written(tmp_path / "results.csv", *rows)], replace(store, keys=keys)).messages
    assert result.race_id == ("2019-07-06 sandown 15:35" if column == "race_id" else "733000")
    by_id = {"horse_id", "jockey_id", "trainer_id"} - {column} if keys == "id" else set()
    horses = ["1001", "1002"] if "horse_id" in by_id else ["plain sailing (ire)", "second thoughts (gb)"]
    jockeys = ["2001", "2002"] if "jockey_id" in by_id else ["a rider", "d rider"]
    trainer = "3001" if "trainer_id" in by_id else "b trainer"
    assert [one.horse_id for one in result.runners] == horses
    assert [one.jockey_id for one in result.runners] == jockeys
    assert [one.trainer_id for one in result.runners] == [trainer, trainer]
    assert [one.kept.get("source_horse_id") for one in result.runners] == (
        [None, None] if column == "horse_id" else ["1001", "1002"]
    )


def test_without_an_off_the_made_id_falls_back_on_the_name_of_the_race() -> None:
    row = parsed(race_id="", off="")
    assert row["race_id"] == "2019-07-06 sandown coral summer handicap"
    assert row["off_time"] is None


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


def test_files_that_overlap_tell_a_race_twice_alike(tmp_path: Path, store: Store) -> None:
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
    assert [(one.race_id, one.result_version, one.race.off_time.minute) for one in messages] == [
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


def test_a_dead_letter_holds_the_cells_as_they_were_and_goes_in_once_mended(tmp_path: Path, store: Store) -> None:
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
    assert [one.draw for one in results(read)["733000"].runners] == [None, 1]
    assert read.warnings == {"unreadable draw, unknown": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"date,course\n2019-07-06,Sandown\n", "no column horse, off, pos"),
        (b"date,course,off,horse,pos\n", "no rows"),
        (b"PAR1\x00\x00\x15\x04", "binary"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,2:00,Caf\xe9,1\n", "no UTF-8"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,2:00,A\n", "line 2 has 4 cells, the header 5"),
        (b'date,course,off,horse,pos\n2019-07-06,Sandown,2:00,"A" B,1\n', "line 2 is no CSV"),
        (b"date,course,off,horse,pos\n6 July,Sandown,2:00,A,1\n", "line 2: date is '6 July'"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,soon,A,1\n", "line 2: off is 'soon'"),
        (b"date,course,off,horse,pos\n2019-07-06,Sandown,25:10,A,1\n", "off is '25:10'"),
        (b"date,course,off,horse,pos,draw\n2019-07-06,Sandown,2:00,A,1,high\n", "'high' is the first value of draw"),
        (b"date,course,off,horse,pos,pos\n2019-07-06,Sandown,2:00,A,1,1\n", "'pos' more than once"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(content: bytes, told: str, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_raceform([path], store)
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_a_folder_and_no_file_are_told_in_one_line(tmp_path: Path, store: Store) -> None:
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
        "off_inferred": True,
        "country": "FR",
        "surface": "Turf",
        "sp_decimal": 4.7,
    },
    "Mango Cap (FR)": {"race_type": "Hurdle", "distance_m": 3520.0, "off_time": utc(28, 13, 5), "sex": "C"},
    "Dragon Rouge (FR)": {"runner_no": None, "draw": 5, "position": 1, "finish_time_s": 61.96},
    "Boone Station (USA)": {"off_time": utc(29, 9, 28), "off_inferred": True, "sp_decimal": 6.4, "weight_lbs": 112.0},
}


@pytest.mark.parametrize("horse", SPOT_CHECKS)
def test_rows_of_the_sample_read_as_a_person_reads_them(horse: str, sample: list[dict[str, str]]) -> None:
    (raw,) = (row for row in sample if row["horse"] == horse)
    row = parse_row(raw, LONDON)
    expected = SPOT_CHECKS[horse]
    assert {name: row.get(name) for name in expected} == expected


def test_every_row_of_the_sample_is_ingested_or_refused(sample: list[dict[str, str]], store: Store) -> None:
    read = read_raceform([SAMPLE], store)
    assert read.rows == len(sample) == 2024
    found = results(read)
    ingested = sum(len(result.runners) for result in found.values())
    refused = {(letter.race_id, letter.reason): len(letter.rows) for letter in read.refused}
    assert refused == {("622452", "no winner"): 1, ("622455", "no winner"): 2, ("622456", "no winner"): 7}
    assert ingested + sum(refused.values()) == 2024
    assert len(found) == len(read.messages) == 217
    assert len(found["625371"].runners) == 9, "two of its eleven are not in the file"
    assert read.warnings == {
        "foreign race, off inferred": 51,
        "id of another race, own one made": 1,
        "runners differ from ran": 4,
    }


def test_the_sample_loads_once_and_again_adds_nothing(sample: list[dict[str, str]], store: Store) -> None:
    def clock() -> datetime:
        return datetime(2015, 5, 1, tzinfo=UTC)

    first = ingest(store, read_raceform([SAMPLE], store), clock=clock)
    again = ingest(store, read_raceform([SAMPLE], store), clock=clock)
    assert (first.rows, first.appended, first.dead_letters) == (len(sample), 217, 3)
    assert (again.appended, again.identical, again.dead_letters, again.next_seq) == (0, 217, 0, first.next_seq)


def test_the_two_races_of_the_sample_under_one_id_stay_apart(sample: list[dict[str, str]], store: Store) -> None:
    """The file gives 623000 to the 2:45 at Nottingham and, two days later, to the 1:35 at Lingfield."""
    found = results(read_raceform([SAMPLE], store))
    nottingham, lingfield = found["623000"], found["2015-04-30 lingfield (aw) 13:35"]
    assert (nottingham.race.course, len(nottingham.runners)) == ("Nottingham", 8)
    assert (lingfield.race.course, len(lingfield.runners)) == ("Lingfield (AW)", 3)
    assert [one.horse_id for one in lingfield.runners if one.position == 1] == ["pearl blue (ire)"]
    assert {one.kept["source_race_id"] for one in lingfield.runners} == {"623000"}
