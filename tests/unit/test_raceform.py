"""A raceform or rpscrape row becomes a runner-table row, with keys that its cards meet."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tests.support.raceform_rows import HONG_KONG, LONDON, ROW, SECOND, parsed, written
from velo.racing.going import going_group
from velo.racing.names import name_key
from velo.settings import KeyPolicy, Settings
from velo.storage.store import Store
from velo.streams.importers import parsers
from velo.streams.importers.raceform_row import parse_row, with_country
from velo.streams.importers.sources.raceform import read_raceform


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


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


def test_offs_are_london_time_in_any_store_wherever_the_race_is() -> None:
    for course in ("Ascot", "Naas (IRE)", "Dundalk (AW) (IRE)", "Sha Tin (HK)", "Longchamp (FR)"):
        row = parsed(HONG_KONG, course=course, region="", off="2:00")
        assert row["off_time"] == datetime(2019, 7, 6, 13, 0, tzinfo=UTC)
        assert "off_inferred" not in row


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


@pytest.mark.parametrize(
    ("course", "named", "going", "surface"),
    [
        ("Lingfield (AW)", "Turf", "Standard", "AW"),
        ("kempton-aw", "", "", "AW"),
        ("dundalk-aw-ire", "", "", "AW"),
        ("Hawarden", "", "", None),
        ("Belmont Park (USA)", "Dirt", "Good", "Dirt"),
        ("Longchamp (FR)", "", "Good To Firm", "Turf"),
        ("Chelmsford City", "", "Standard To Slow", "AW"),
        ("Chantilly (FR)", "", "Standard", "AW"),
        ("Chantilly (FR)", "", "Slow", None),
        ("Meydan (UAE)", "", "Fast", "Dirt"),
        ("Saratoga (USA)", "", "Sloppy", "Dirt"),
        ("Saratoga (USA)", "", "Good", None),
        ("Saratoga (USA)", "", "Yielding", "Turf"),
        ("Sha Tin (HK)", "", "Good", None),
        ("Sha Tin (HK)", "", "Fast", None),
        ("Oi (JPN)", "", "Standard", None),
        ("Randwick (AUS)", "", "Soft 5", "Turf"),
        ("Ascot", "", "", None),
        ("Ascot", "-", "Holding", "Turf"),
        ("Pakenham (AUS)", "Synthetic", "Good", "AW"),
    ],
)
def test_the_surface_is_what_course_column_or_going_say_and_unknown_where_they_say_nothing(
    course: str, named: str, going: str, surface: str | None
) -> None:
    """`Good` and `Fast` are used of more than one surface in countries that have more than one."""
    assert parsed(course=course, surface=named, going=going, region="")["surface"] == surface


@pytest.mark.parametrize(
    ("said", "going"),
    [
        ("Good To Firm", "Good To Firm"),
        ("Soft 5", "Soft"),
        ("Good4", "Good"),
        ("Heavy (10)", "Heavy (10)"),
        ("Good, Good to Firm in places", "Good"),
        ("Good To Soft; Soft In Places", "Good To Soft"),
        ("Good To Firm Good In Places", "Good To Firm"),
        ("Good Good To Soft In Places", "Good"),
        ("Soft - Heavy in places", "Soft"),
        ("Standard (Good to firm in places)", "Standard (Good to firm in places)"),
        ("Good To Firm In Places", "Good To Firm In Places"),
        ("Sloppy", "Muddy (Sloppy)"),
        ("Holding", "Soft (Holding)"),
        ("Firm-2", "Firm"),
        ("Abandoned", "Abandoned"),
    ],
)
def test_the_going_is_the_one_that_is_known_first_and_what_was_known_is_kept(said: str, going: str) -> None:
    row = parsed(going=said)
    assert row["going"] == going
    assert (going_group(row["going"]) == "unknown") is (said in ("Good To Firm In Places", "Abandoned"))
    assert row.get("source_going") == (None if said == going else said)


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
    assert parsers.seconds(text) == seconds


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
    assert [runner.horse_id for runner in result.runners] == horses
    assert [runner.jockey_id for runner in result.runners] == jockeys
    assert [runner.trainer_id for runner in result.runners] == [trainer, trainer]
    assert [runner.kept.get("source_horse_id") for runner in result.runners] == (
        [None, None] if column == "horse_id" else ["1001", "1002"]
    )


def test_without_an_off_the_made_id_falls_back_on_the_name_of_the_race() -> None:
    row = parsed(race_id="", off="")
    assert row["race_id"] == "2019-07-06 sandown coral summer handicap"
    assert row["off_time"] is None
