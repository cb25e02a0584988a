"""The command line: what it prints for machines, what it takes twice, and the ways through it."""

import csv
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow.parquet as parquet
import pytest

from tests.support.builders import a_race, a_runner, write_csv, write_runner_table
from tests.support.cli import velo, velo_process
from tests.support.shared import REPO
from velo.racing.messages import Racecard
from velo.storage.log import reader
from velo.storage.log.format import segments
from velo.storage.store import Home

HEAVY = ("bytewax", "duckdb", "feast", "lightgbm", "numpy", "pandas", "pyarrow", "redis", "sklearn")


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a season of some weeks, `season.parquet`, and the card of its last day, `card.parquet`."""
    folder = tmp_path_factory.mktemp("season")
    options = ("--days", 45, "--races-per-year", 1200, "--start", "2024-03-01", "--card", folder / "card.parquet")
    assert velo("simulate", folder / "season.parquet", *options, home=folder).code == 0
    return folder


@pytest.fixture(scope="module")
def home(season: Path) -> Path:
    """A store with that season, built."""
    for command in (("ingest", "runners", season / "season.parquet"), ("build",)):
        assert velo(*command, home=season / "a home").code == 0
    return season / "a home"


# For machines


def test_every_command_prints_one_json_document_and_nothing_else(tmp_path: Path) -> None:
    """In the order of a first day; each document has what a script would look for."""
    home, table, season = tmp_path / "home", tmp_path / "a.parquet", tmp_path / "season.csv"
    bad = a_race(a_runner("Arkle", 1), a_runner("Mill House", status="XX"), race_id="R2")
    write_runner_table(table, [*a_race(), *bad])
    write_runner_table(tmp_path / "card.parquet", a_race(race_id="R3", race_date="2024-05-02"))

    def document(*argv: object) -> object:
        return velo(*argv, "--json", home=home).document

    simulated = document("simulate", season, "--days", 20, "--races-per-year", 300)
    assert isinstance(simulated, dict)
    with season.open() as file:
        assert simulated["rows"] == sum(1 for _ in csv.reader(file)) - 1
    assert document("init") == {"home": str(home), "timezone": "Europe/London", "keys": None}
    too_early = document("tick")
    assert isinstance(too_early, dict)
    assert (too_early["outcome"], too_early["seq"]) == ("empty log", None)
    ingested = document("ingest", "runners", table)
    assert ingested == {
        "source": "runners",
        "rows": 4,
        "races": 2,
        "appended": 1,
        "identical": 0,
        "lower_version": 0,
        "refused": {"unknown status XX": 1},
        "dead_letters": 1,
        "warnings": {},
        "next_seq": 1,
    }
    (letter,) = velo("dead-letters", "--json", home=home).document
    assert (letter["race_id"], letter["reason"], len(letter["rows"])) == ("R2", "unknown status XX", 2)
    exported = document("dead-letters", "export", tmp_path / "mend.csv")
    assert exported == {"rows": 2, "file": str(tmp_path / "mend.csv")}
    replayed = document("dead-letters", "replay")
    assert isinstance(replayed, dict)
    assert (replayed["tried"], replayed["taken"]) == (1, 0)
    declared = document("cards", "runners", tmp_path / "card.parquet")
    assert isinstance(declared, dict)
    assert (declared["races"], declared["appended"]) == (["R3"], 1)
    ticked = document("tick", "--at", "2024-05-03T12:00:00+01:00")
    assert ticked == {"midnight": "2024-05-02T23:00:00+00:00", "outcome": "appended", "seq": 2}
    assert document("log", "check") == []
    built = document("build")
    assert isinstance(built, dict)
    assert (built["messages"], built["whole"], built["rows"]["horse_course"]) == (3, True, 2)
    assert document("sql", "select horse_id, wins from horse_course order by horse_id") == [
        {"horse_id": "horse 1", "wins": 1},
        {"horse_id": "horse 2", "wins": 0},
    ]
    status = document("status")
    assert isinstance(status, dict)
    assert (status["messages"], status["tables_at"], status["dead_letters"], status["keys"]) == (3, 3, 1, "id")
    rebuilt = document("log", "rebuild", table)
    assert isinstance(rebuilt, dict)
    assert document("down") == {"stopped": False}


def test_the_command_line_and_its_help_load_nothing_heavy(tmp_path: Path) -> None:
    """`velo --help` answers at once."""
    asked = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({set(HEAVY)!r} & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['velo', '--help']\n"
        "from velo.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "dead-letters" in done.stdout


@pytest.mark.parametrize("rows", [1, 200])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(home: Path, rows: int) -> None:
    """Whether the answer fits in the pipe or not."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        gone = velo_process("sql", f"from starts limit {rows}", "--json", home=home, out=writing)
    finally:
        os.close(writing)
    assert (gone.code, gone.err) == (1, "")


# What is sent twice


def test_the_same_file_again_adds_nothing(season: Path, home: Path) -> None:
    """Not to the log, and not to the tables."""
    before = {segment.path: segment.path.read_bytes() for segment in segments(Home(home))}
    again = velo("ingest", "runners", season / "season.parquet", "--json", home=home).document
    assert (again["appended"], again["identical"]) == (0, again["races"])
    assert {segment.path: segment.path.read_bytes() for segment in segments(Home(home))} == before
    assert set(velo("build", "--json", home=home).document["added"].values()) == {0}


def test_a_refused_race_is_corrected_by_hand_and_replayed(tmp_path: Path) -> None:
    """`dead-letters export`, an editor, `dead-letters replay --file`: the race is in the log and its letter closed."""
    home, table, mend = tmp_path / "home", tmp_path / "a.csv", tmp_path / "mend.csv"
    write_csv(table, [*a_race(), *a_race(a_runner("Arkle", 1), a_runner("Mill House", status="XX"), race_id="R2")])
    loaded = velo("ingest", "runners", table, home=home)
    assert loaded.code == 0
    assert "velo dead-letters" in loaded.out
    assert "unknown status XX" in velo("dead-letters", home=home).out
    velo("dead-letters", "export", mend, home=home)
    mend.write_text(mend.read_text().replace(",XX,", ",PU,"))
    report = velo("dead-letters", "replay", "--file", mend, "--json", home=home).document
    assert (report["taken"], report["appended"], report["refused"]) == (1, 1, {})
    assert [message.race_id for _, message in reader.messages(Home(home))] == ["R1", "R2"]
    assert velo("dead-letters", "--json", home=home).document == []


# Ways through


def test_cards_are_declared_and_the_status_counts_them(season: Path, home: Path) -> None:
    """A card without `known_at` is known on arrival, and brings no outcome."""
    before = velo("status", "--json", home=home).document
    report = velo("cards", "runners", season / "card.parquet", "--json", home=home).document
    assert report["appended"] == len(report["races"]) > 0
    after = velo("status", "--json", home=home).document
    assert after["messages"] == before["messages"] + report["appended"]
    assert f"{report['appended']} messages behind" in velo("status", home=home).out
    cards = [card for _, card in reader.messages(Home(home), before["messages"])]
    assert all(isinstance(card, Racecard) for card in cards)
    assert (datetime.now(UTC) - min(card.known_at for card in cards if card.known_at)).total_seconds() < 600
    again = velo("cards", "runners", season / "card.parquet", "--json", home=home).document
    assert (again["appended"], again["identical"]) == (0, report["appended"])


def test_sql_answers_on_a_terminal_in_columns_and_a_wide_answer_downwards(home: Path) -> None:
    narrow = velo("sql", "select course, count(*) as n from starts group by all order by all", home=home)
    assert narrow.code == 0
    assert "course" in narrow.out.splitlines()[1]
    wide = velo("sql", "from trainer_velocity_daily order by all limit 1", home=home).out
    assert any("sr_14d" in line and "│" in line for line in wide.splitlines())


def test_compacted_tables_hold_the_same_rows(season: Path, tmp_path: Path) -> None:
    """Loaded in two halves, so that there are parts to merge."""
    table = parquet.read_table(season / "season.parquet").sort_by([("known_at", "ascending"), ("race_id", "ascending")])
    dates = sorted(set(table["race_date"].to_pylist()))
    half = [each < dates[len(dates) // 2] for each in table["race_date"].to_pylist()]
    parquet.write_table(table.filter(half), tmp_path / "1.parquet")
    parquet.write_table(table.filter([not each for each in half]), tmp_path / "2.parquet")
    home, every = tmp_path / "home", "select * exclude (created_timestamp) from horse_form order by all"
    for number in (1, 2):
        assert velo("ingest", "runners", tmp_path / f"{number}.parquet", "--late", home=home).code == 0
        assert velo("build", home=home).code == 0
    before = velo("sql", every, "--json", home=home).document
    assert len(list((home / "offline" / "horse_form").glob("*.parquet"))) == 2
    assert velo("build", "--compact", home=home).code == 0
    assert len(list((home / "offline" / "horse_form").glob("*.parquet"))) == 1
    assert velo("sql", every, "--json", home=home).document == before


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_features_come_back_in_the_order_they_were_asked_for(
    home: Path, tmp_path: Path, suffix: str, recwarn: pytest.WarningsRecorder
) -> None:
    """Through Feast; unknown keys and repeated rows stay, and a value is the changelog's latest at the instant.

    Nothing is warned of that a user would see.
    """
    query = "select trainer_id, event_timestamp, runs_30d from trainer_velocity using sample 40 rows (reservoir, 7)"
    known = velo("sql", query, "--json", home=home).document
    rows = [(each["trainer_id"], each["event_timestamp"], each["runs_30d"]) for each in known]
    rows += [("nobody", rows[0][1], None), rows[3], rows[3]]
    asked = pd.DataFrame(rows, columns=["trainer_id", "event_timestamp", "expected"]).sample(frac=1, random_state=3)
    entities, out = tmp_path / f"entities{suffix}", tmp_path / f"features{suffix}"
    if suffix == ".csv":
        asked.to_csv(entities, index=False)
    else:
        asked["event_timestamp"] = pd.to_datetime(asked["event_timestamp"], utc=True, format="ISO8601")
        asked.to_parquet(entities)
    report = velo("features", "--entities", entities, "--out", out, "--json", home=home).document
    assert [str(each.message) for each in recwarn if issubclass(each.category, RuntimeWarning | UserWarning)] == []
    assert (report["rows"], report["views"]) == (len(rows), ["trainer_velocity", "trainer_elo"])
    answer = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert answer["trainer_id"].tolist() == asked["trainer_id"].tolist()
    expected = pd.to_numeric(asked["expected"]).tolist()
    pd.testing.assert_series_equal(
        answer["trainer_velocity__runs_30d"].astype("Float64"),
        pd.Series(expected, dtype="Float64"),
        check_names=False,
    )


def test_the_help_groups_the_commands_and_the_version_is_the_package_s(home: Path) -> None:
    shown = velo("--help", home=home).out
    places = [shown.index(f"─ {group} ─") for group in ("Start", "Load", "Features", "Models", "Race day", "Check")]
    assert places == sorted(places)
    assert velo("--version", home=home).out == f"velo {version('velo-features')}\n"
