"""The runner table: every row is in a race that is logged or in a dead letter, by the rules of contract 3."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.builders import a_field, a_race, a_runner, write_csv, write_runner_table
from tests.support.logs import a_store, fixed, held, logged
from tests.support.made_once import copied
from tests.support.shared import shared_file
from tests.support.stores import Conformance
from tests.support.strategies import RandomLoad, random_loads
from velo.errors import UserError
from velo.racing.messages import GoingChange, Result
from velo.settings import Settings
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.importers import dead_letters
from velo.streams.importers.ingest import IngestReport, ingest, rebuild_from
from velo.streams.importers.results import Parsed, checked_results
from velo.streams.importers.sources.runners import parse_rows, read_runner_tables

pytestmark = pytest.mark.slow

AFTER_ALL = datetime(2026, 1, 1, tzinfo=UTC)
Rows = Sequence[Mapping[str, Any]]


def read(store: Store, path: Path, *tables: Rows) -> Parsed:
    """What is read of some tables as the files of one load."""
    files = [write_runner_table(path / f"{number}.parquet", rows) for number, rows in enumerate(tables)]
    return read_runner_tables(files, store)


def ingested(store: Store, *paths: Path) -> IngestReport:
    return ingest(store, read_runner_tables(paths, store), clock=fixed(AFTER_ALL))


def reasons(parsed: Parsed) -> list[str]:
    return [letter.reason for letter in parsed.refused]


@pytest.mark.parametrize(("name", "races", "lower"), [("london", 1140, 29), ("hk_amended", 1722, 0), ("hk", 13_803, 0)])
def test_the_shared_tables_are_taken_but_for_the_refusals_worked_out_elsewhere(
    conformance: Conformance, name: str, races: int, lower: int
) -> None:
    built = conformance(name)
    report, letters = built.ingested, dead_letters.read(built.store.home)
    found = [[letter.race_id, letter.result_version, letter.reason] for letter in letters]
    assert sorted(found) == sorted(json.loads(built.case.refused.read_text()))
    assert (report.appended, report.lower_version) == (races, lower)
    assert reader.end(built.store.home).next_seq == races
    rows = sum(len(record["runners"]) for record in reader.records(built.store.home))
    assert rows + sum(len(letter.rows) for letter in letters) == report.rows


@pytest.mark.parametrize(
    ("name", "races"), [("london", 1140), ("hk_amended", 1722), pytest.param("hk", 13_803, marks=pytest.mark.prove)]
)
def test_a_shared_table_loaded_again_adds_nothing(
    conformance: Conformance, tmp_path: Path, name: str, races: int
) -> None:
    built = conformance(name)
    copied(built.store.home.root, tmp_path / "home")
    again = ingested(Store.open(Settings(home=tmp_path / "home")), shared_file(built.case.runners))
    assert (again.appended, again.identical, again.dead_letters) == (0, races, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(random_loads())
def test_any_load_makes_the_log_that_a_plain_reader_makes(
    tmp_path_factory: pytest.TempPathFactory, load: RandomLoad
) -> None:
    """The twin in tests/support/runner_table_oracle.py, on loads full of ties, amendments, faults and repeats."""
    folder = tmp_path_factory.mktemp("load")
    store = a_store(folder / "home", load.timezone)
    parsed = read(store, folder, *load.files)
    report = ingest(store, parsed, clock=fixed(AFTER_ALL))
    found = load.told()
    refused = [(message.race_id, message.result_version, message.reason) for message in dead_letters.read(store.home)]
    assert sorted(set(refused), key=str) == sorted(set(found.refused), key=str)
    assert (report.lower_version, report.identical) == (found.lower_versions, found.identical_versions)
    assert [_known(record) for record in reader.records(store.home)] == [_expected(record) for record in found.records]


def _known(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its envelope and the names, which are shown and never compared."""
    runners = [{name: each for name, each in runner.items() if name not in _SHOWN} for runner in record["runners"]]
    return {name: each for name, each in record.items() if name not in ("crc", "digest", "schema_version")} | {
        "runners": runners
    }


def _expected(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the plain reader in the log's spelling: unknown left out, odds of 1 or less unknown, text trimmed."""
    runners = [
        {
            name: each
            for name, each in runner.items()
            if each is not None and name not in _SHOWN and not (name == "sp_decimal" and each <= 1)
        }
        for runner in record["runners"]
    ]
    return {name: each for name, each in record.items() if each is not None and name != "schema_version"} | {
        "course": record["course"].strip(),
        "runners": runners,
    }


_SHOWN = ("horse", "trainer", "jockey")


def test_a_csv_and_a_parquet_file_of_the_same_rows_are_the_same_load(tmp_path: Path, store: Store) -> None:
    rows = parquet.read_table(shared_file("conformance/london.parquet")).to_pylist()
    found = [{name: each for name, each in row.items() if name != "handicap"} for row in rows]
    from_csv = read_runner_tables([write_csv(tmp_path / "london.csv", found)], store)
    from_parquet = read_runner_tables([shared_file("conformance/london.parquet")], store)
    assert from_csv.messages == from_parquet.messages
    assert from_csv.refused == from_parquet.refused
    assert from_csv.warnings == from_parquet.warnings


def test_only_the_required_columns_are_needed(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "least.csv"
    path.write_text("race_id,race_date,course,horse,status,position\nR1,2024-05-01,Ascot,Arkle,FINISHED,1\n")
    (result,) = read_runner_tables([path], store).messages
    assert result.race.off_time == datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
    assert result.known_at == datetime(2024, 5, 1, 12, 15, tzinfo=UTC)
    assert result.result_version == 1
    assert result.runners[0].horse_id == "arkle"


@pytest.mark.parametrize(
    ("race_date", "race_no", "off"),
    [
        ("2024-03-30", 1, datetime(2024, 3, 30, 13, 0, tzinfo=UTC)),
        ("2024-03-31", 1, datetime(2024, 3, 31, 12, 0, tzinfo=UTC)),
        ("2024-03-31", 4, datetime(2024, 3, 31, 13, 30, tzinfo=UTC)),
        ("2024-10-27", None, datetime(2024, 10, 27, 13, 0, tzinfo=UTC)),
    ],
)
def test_a_missing_off_is_one_oclock_local_and_half_an_hour_a_race(
    tmp_path: Path, store: Store, race_date: str, race_no: int | None, off: datetime
) -> None:
    """On the days that the clock changes too."""
    (result,) = read(store, tmp_path, a_race(race_date=race_date, race_no=race_no)).messages
    assert result.race.off_time == off


def test_race_values_are_the_first_given_and_a_conflict_is_counted(tmp_path: Path, store: Store) -> None:
    each, two, three = a_race(*a_field(3), going=None)
    parsed = read(store, tmp_path, [each, two | {"going": "Soft"}, three | {"going": "Good"}])
    assert parsed.messages[0].race.going == "Soft"
    assert parsed.warnings == {"conflicting going": 1}


def test_a_draw_of_zero_and_odds_of_one_are_unknown(tmp_path: Path, store: Store) -> None:
    parsed = read(store, tmp_path, a_race(a_runner("Arkle", 1, draw=0, sp_decimal=1.0), a_runner("Mill House", 2)))
    assert (parsed.messages[0].runners[0].draw, parsed.messages[0].runners[0].sp_decimal) == (None, None)
    assert parsed.warnings == {"odds of 1 or less": 1}


def test_names_make_keys_and_a_missing_person_leaves_the_key_out(tmp_path: Path, store: Store) -> None:
    rows = a_race(a_runner("  ARKLE\u00a0 (IRE)", 1, trainer=" – ", jockey="Ｐ  Taaffe"))
    runner = read(store, tmp_path, rows).messages[0].runners[0]
    assert (runner.horse_id, runner.horse) == ("arkle (ire)", "ARKLE (IRE)")
    assert (runner.trainer_id, runner.trainer) == (None, None)
    assert (runner.jockey_id, runner.jockey) == ("p taaffe", "P Taaffe")


@pytest.mark.parametrize(("policy", "key"), [("id", "H1"), ("name", "arkle")])
def test_the_stores_policy_says_whether_ids_or_names_are_keys(tmp_path: Path, policy: str, key: str) -> None:
    store = Store.open(Settings.from_env({"VELO_HOME": str(tmp_path / "home"), "VELO_KEYS": policy}))
    runners = read(store, tmp_path, a_race(a_runner("Arkle", 1, horse_id="H1"), a_runner(None, 2, horse_id=" H2 ")))
    assert [runner.horse_id for runner in runners.messages[0].runners] == [key, "H2"]


def test_the_first_load_fixes_the_stores_key_policy(tmp_path: Path, store: Store) -> None:
    ingested(store, write_runner_table(tmp_path / "a.parquet", a_race()))
    opened = Store.open(Settings(home=store.home.root))
    assert opened.keys == "id"
    by_name = replace(read_runner_tables([tmp_path / "a.parquet"], store), keys="name")
    with pytest.raises(UserError, match="keys by name, but the store has them by id"):
        ingest(opened, by_name, clock=fixed(AFTER_ALL))


def test_a_load_that_is_refused_fixes_no_key_policy(tmp_path: Path, store: Store) -> None:
    logged(store, GoingChange("R9", "Soft", datetime(2030, 1, 1, tzinfo=UTC)))
    with pytest.raises(UserError, match="older than the log's end"):
        ingested(store, write_runner_table(tmp_path / "a.parquet", a_race()))
    assert Store.open(Settings(home=store.home.root)).keys is None


def test_other_columns_are_kept_with_the_runner(tmp_path: Path, store: Store) -> None:
    rows = [row | {"rpr": 151, "seen": date(2024, 5, 1), "nothing": None} for row in a_race(*a_field(1))]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "more.parquet")
    ingested(store, tmp_path / "more.parquet")
    (message,) = held(store)
    assert isinstance(message, Result)
    assert message.runners[0].kept == {"rpr": 151, "seen": "2024-05-01"}


def test_a_race_goes_on_in_another_file(tmp_path: Path, store: Store) -> None:
    rows = a_race(*a_field(4))
    parsed = read(store, tmp_path, rows[:2], rows[2:])
    assert [len(message.runners) for message in parsed.messages] == [4]


def test_a_file_named_twice_is_counted_not_refused(tmp_path: Path, store: Store) -> None:
    path = write_runner_table(tmp_path / "a.parquet", a_race())
    report = ingested(store, path, path)
    assert (report.appended, report.identical, report.refused) == (1, 1, {})


def test_a_race_sent_otherwise_in_another_file_is_a_dead_letter(tmp_path: Path, store: Store) -> None:
    each = write_runner_table(tmp_path / "1.parquet", a_race())
    two = write_runner_table(tmp_path / "2.parquet", a_race(going="Firm"))
    report = ingested(store, each, two)
    assert (report.appended, report.refused) == (1, {"raise result_version": 1})
    (letter,) = dead_letters.read(store.home)
    assert {row["going"] for row in letter.rows} == {"Firm"}


@pytest.mark.parametrize(
    ("runners", "reason"),
    [
        ((a_runner("Arkle", 1), a_runner(" ARKLE", 2)), "horse appears twice"),
        ((a_runner("Arkle", 1), a_runner("B", status="XX")), "unknown status XX"),
        ((a_runner("Arkle", 1), a_runner("B", status=None)), "no status"),
        ((a_runner("Arkle", 1), a_runner("B", 0)), "FINISHED without a position"),
        ((a_runner("Arkle", 2), a_runner("B", 3)), "no winner"),
        ((a_runner("Arkle", status="NR"),), "no starters"),
        ((a_runner("Arkle", 1), a_runner("--", 2)), "runner without a horse"),
    ],
)
def test_a_race_that_breaks_a_rule_is_a_dead_letter_and_the_rest_goes_on(
    tmp_path: Path, store: Store, runners: tuple[dict[str, Any], ...], reason: str
) -> None:
    parsed = read(store, tmp_path, [*a_race(*runners), *a_race(race_id="R2")])
    assert reasons(parsed) == [reason]
    assert len(parsed.refused[0].rows) == len(runners)
    assert parsed.refused[0].detail
    assert [message.race_id for message in parsed.messages] == ["R2"]


def test_a_void_race_is_taken(tmp_path: Path, store: Store) -> None:
    rows = a_race(a_runner("Arkle", status="VOID"), a_runner("B", status="NR"))
    assert reasons(read(store, tmp_path, rows)) == []


def test_a_race_dated_after_it_was_known_is_refused_by_the_local_date(tmp_path: Path, store: Store) -> None:
    """Known at 23:00 UTC in summer is the next day in London."""
    at_once: dict[str, Any] = {"race_date": "2024-05-02", "off_time": "2024-05-01 22:59"}
    tables = [
        [*a_race(race_id="R1", known_at="2024-05-01 23:00", **at_once)],
        [*a_race(race_id="R2", known_at="2024-05-01 22:59", **at_once)],
    ]
    assert [(refusal.race_id, refusal.reason) for refusal in read(store, tmp_path, *tables).refused] == [
        ("R2", "race_date later than known_at")
    ]


def test_a_result_known_before_its_off_is_refused_and_one_known_at_the_off_is_not(tmp_path: Path, store: Store) -> None:
    off: dict[str, Any] = {"off_time": "2024-05-01 14:00"}
    void = [a_runner("Arkle", status="VOID"), a_runner("B", status="VOID")]
    parsed = read(
        store,
        tmp_path,
        a_race(race_id="at the off", known_at="2024-05-01 14:00", **off),
        a_race(race_id="before", known_at="2024-05-01 13:59:59.999999", **off),
        a_race(race_id="amended before", known_at="2024-05-01 00:30", result_version=2, **off),
        a_race(*void, race_id="abandoned in the morning", known_at="2024-05-01 08:00", **off),
    )
    assert [(refusal.race_id, refusal.reason) for refusal in parsed.refused] == [
        ("before", "known_at before off_time"),
        ("amended before", "known_at before off_time"),
    ]
    assert "2024-05-01T14:00:00.000000Z" in parsed.refused[0].detail
    assumed = read(store, tmp_path, a_race(race_date="2024-05-01", race_no=9, known_at="2024-05-01 14:00"))
    assert "at 2024-05-01T16:00:00.000000Z (assumed, since none is given)" in assumed.refused[0].detail


@pytest.mark.parametrize(
    ("off", "refused"),
    [
        ("2024-04-29 22:59:59", True),
        ("2024-04-29 23:00", False),
        ("2024-05-02 22:59:59", False),
        ("2024-05-02 23:00", True),
        ("2025-05-01 14:00", True),
    ],
)
def test_an_off_more_than_a_local_day_from_its_date_refuses_the_race(
    tmp_path: Path, store: Store, off: str, refused: bool
) -> None:
    """London in summer: 1 May begins at 23:00 UTC; a race by another country's clock may be on the day beside."""
    rows = a_race(race_date="2024-05-01", off_time=off, known_at="2026-01-01 12:00")
    assert reasons(read(store, tmp_path, rows)) == ["off_time far from race_date"] * refused


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"race_date": date(2024, 5, 2)}, "more than one race_date"),
        ({"course": "York"}, "more than one course"),
        ({"course": " ASCOT"}, None),
        ({"course": None, "race_date": None}, None),
    ],
)
def test_rows_of_one_race_that_name_two_dates_or_courses_are_refused(
    tmp_path: Path, store: Store, other: dict[str, Any], reason: str | None
) -> None:
    """In one file and over two: the number at the meeting is no race_id."""
    each, two = a_race(a_runner("Arkle", 1), known_at="2024-05-03 12:00"), a_race(a_runner("B", 1))
    contradicting = [row | other for row in two]
    for tables in ([[*each, *contradicting]], [each, contradicting]):
        parsed = read(store, tmp_path, *tables)
        assert reasons(parsed) == ([reason] if reason else [])
        assert [len(refusal.rows) for refusal in parsed.refused] == ([2] if reason else [])


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("position", "first", "'first', but holds a whole number"),
        ("position", "1.5", "'1.5', but holds a whole number"),
        ("race_date", "01/05/2024", "'01/05/2024', but holds a date such as 2024-05-31"),
        ("off_time", "2:30", "'2:30', but holds a UTC instant such as"),
        ("sp_decimal", "7/2", "'7/2', but holds a number"),
        ("handicap", "perhaps", "'perhaps', but holds true or false"),
        ("result_version", "0", "versions count from 1"),
    ],
)
def test_a_bad_value_refuses_its_race_only(tmp_path: Path, store: Store, column: str, value: str, wanted: str) -> None:
    good = a_race(race_id="R1", handicap=True)
    bad = [row | {column: value} for row in a_race(race_id="R2", handicap=True)]
    parsed = read_runner_tables([write_csv(tmp_path / "a.csv", [*good, *bad])], store)
    assert [message.race_id for message in parsed.messages] == ["R1"]
    assert reasons(parsed) == ["bad value"]
    assert wanted in parsed.refused[0].detail
    assert parsed.refused[0].rows[0][column] in (value, 0)


def test_a_row_without_a_race_id_is_a_dead_letter_of_its_own(tmp_path: Path, store: Store) -> None:
    parsed = read(store, tmp_path, [*a_race(), *a_race(race_id=None)])
    assert reasons(parsed) == ["no race_id", "no race_id"]
    assert len(parsed.messages) == 1


def test_rows_as_text_are_read_as_the_file_was(tmp_path: Path, store: Store) -> None:
    """What dead letters and their exports are read by."""
    rows = a_race(*a_field(3), known_at="2024-05-01 18:00")
    as_text = [{name: "" if each is None else str(each) for name, each in row.items()} for row in rows]
    assert parse_rows(as_text, store).messages == read(store, tmp_path, rows).messages


def test_other_importers_are_keyed_by_name_unless_the_store_says_otherwise(store: Store) -> None:
    rows = [row | {"horse_id": "H1"} for row in a_race(a_runner("Arkle", 1))]
    parsed = checked_results(rows, store, "raceform")
    assert (parsed.keys, parsed.messages[0].runners[0].horse_id) == ("name", "arkle")


def test_a_log_is_rebuilt_of_files_in_any_order(tmp_path: Path) -> None:
    """What a load refuses as late, a rebuild puts where it belongs."""
    early, late = (
        write_runner_table(tmp_path / f"{name}.parquet", a_race(race_id=name, race_date=day))
        for name, day in (("R1", "2024-05-01"), ("R2", "2024-05-02"))
    )
    store, plain = a_store(tmp_path / "home"), a_store(tmp_path / "plain")
    ingested(store, late)
    with pytest.raises(UserError, match="older than the log's end"):
        ingested(store, early)
    report = rebuild_from(store, [read_runner_tables([early], store)], clock=fixed(AFTER_ALL))
    assert (report.from_files, report.from_log, report.next_seq) == (1, 1, 2)
    ingested(plain, early, late)
    assert held(store) == held(plain)


@pytest.mark.parametrize("column", ["race_date", "off_time", "known_at"])
@pytest.mark.parametrize("year", [1, 1677, 2262, 9999])
def test_a_year_without_racing_refuses_its_race(store: Store, column: str, year: int) -> None:
    """Placeholders of databases; a log whose last message is of the year 9999 could never take another."""
    rows = [row | {column: f"{year:04}-12-31"} for row in a_race()]
    parsed = parse_rows(rows + a_race(race_id="R2"), store)
    assert [(refusal.race_id, refusal.reason) for refusal in parsed.refused] == [("R1", "bad value")]
    assert "not in the years 1800 to 2199" in parsed.refused[0].detail


@pytest.mark.parametrize("race_no", [10**7, 2**30, 2**40, 2**70])
def test_a_race_number_beyond_the_calendar_refuses_its_race(tmp_path: Path, race_no: int) -> None:
    parsed = parse_rows(a_race(race_no=race_no, off_time=None), a_store(tmp_path))
    assert [refusal.reason for refusal in parsed.refused] == ["bad value"]
