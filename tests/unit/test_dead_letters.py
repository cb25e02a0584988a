"""Dead letters: written once, readable, replayed after a fix, never edited."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import a_race, a_runner, write_runner_table
from tests.support.logs import a_store, fixed, held
from velo.errors import Refused, UserError
from velo.racing.messages import Result
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.feeds.validation import letter
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import LETTER, DeadLetter
from velo.streams.importers.ingest import ingest
from velo.streams.importers.replay import ReplayReport, replay
from velo.streams.importers.results import Parsed
from velo.streams.importers.sources.runners import IMPORTER, parse_rows, read_runner_tables

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BAD_STATUS = a_race(a_runner("Arkle", 1), a_runner("Mill House", status="XX"), race_id="R2")
NO_WINNER = a_race(a_runner("Arkle", 2), race_id="R3")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that took R1 and refused R2 and R3."""
    opened = a_store(tmp_path / "home")
    table = write_runner_table(tmp_path / "a.parquet", [*a_race(), *BAD_STATUS, *NO_WINNER])
    ingest(opened, read_runner_tables([table], opened), clock=fixed(NOW))
    return opened.with_keys("id")


def replayed(store: Store, **options: Any) -> ReplayReport:
    return replay(store, late=True, clock=fixed(NOW), **options)


def edited(path: Path, **changes: str) -> None:
    """Edit an export: each `column=old:new`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for column, change in changes.items():
        old, new = change.split("~" if "~" in change else ":")
        for row in rows:
            row[column] = new if row[column] == old else row[column]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_letter_says_which_race_was_refused_why_and_with_which_rows(store: Store) -> None:
    bad, _ = dead_letters.read(store.home)
    assert (bad.source, bad.race_id, bad.result_version, bad.reason) == ("runners", "R2", 1, "unknown status XX")
    assert "use one of" in bad.detail
    assert [(row["horse"], row["status"]) for row in bad.rows] == [("Arkle", "FINISHED"), ("Mill House", "XX")]


def test_the_same_refusal_is_written_once(store: Store) -> None:
    before = store.home.dead_letters.read_bytes()
    letters = dead_letters.read(store.home)
    assert dead_letters.write(store.home, [*letters, *letters], NOW + timedelta(days=1)) == 0
    assert store.home.dead_letters.read_bytes() == before


def test_other_rows_of_the_same_race_are_another_letter(store: Store) -> None:
    letter = dead_letters.read(store.home)[0]
    assert dead_letters.write(store.home, [replace(letter, rows=letter.rows[1:])], NOW) == 1
    assert len(dead_letters.read(store.home)) == 3


def test_a_letter_cut_short_by_a_crash_is_written_again(store: Store) -> None:
    letters = dead_letters.read(store.home)
    whole = store.home.dead_letters.read_bytes()
    store.home.dead_letters.write_bytes(whole[:-9])
    assert len(dead_letters.read(store.home)) == 1
    assert dead_letters.write(store.home, letters, NOW) == 1
    assert store.home.dead_letters.read_bytes() == whole


def test_a_store_without_refusals_has_no_letters(tmp_path: Path) -> None:
    assert dead_letters.read(a_store(tmp_path / "new").home) == []


def test_a_damaged_file_is_reported_with_its_line(store: Store) -> None:
    store.home.dead_letters.write_bytes(b"{}\n")
    with pytest.raises(UserError, match="line 1 cannot be read"):
        dead_letters.read(store.home)


def test_nothing_changes_when_nothing_was_corrected(store: Store) -> None:
    before = store.home.dead_letters.read_bytes()
    report = replayed(store)
    assert (report.tried, report.taken, sorted(report.refused)) == (
        2,
        0,
        sorted(message.letter for message in dead_letters.read(store.home)),
    )
    assert store.home.dead_letters.read_bytes() == before


def test_a_fixed_importer_takes_what_it_refused(store: Store) -> None:
    """The letter stays in the file, and is marked by a line after it."""

    def fixed_importer(rows: Any, store: Store) -> Parsed:
        return parse_rows([row | {"status": row["status"].replace("XX", "PU")} for row in rows], store)

    before = store.home.dead_letters.read_bytes()
    corrected = replace(IMPORTER, read_rows=fixed_importer)
    report = replay(store, late=True, clock=fixed(NOW), importer_of={"runners": corrected}.get)
    assert (report.tried, report.taken, report.appended) == (2, 1, 1)
    assert [message.race_id for message in dead_letters.read(store.home)] == ["R3"]
    assert [message.race_id for message in dead_letters.read(store.home, replayed=True)] == ["R2", "R3"]
    assert store.home.dead_letters.read_bytes().startswith(before)
    assert [message.race_id for message in held(store)] == ["R1", "R2"]


def test_an_edited_export_is_taken(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "mend me.csv"
    assert dead_letters.export(store.home, path) == 3
    edited(path, status="XX:F", position="2:1")
    report = replayed(store, corrected=path)
    assert (report.taken, report.refused) == (2, {})
    assert dead_letters.read(store.home) == []
    assert [message.race_id for message in held(store)] == ["R1", "R2", "R3"]
    assert LETTER.encode() not in b"".join(each.read_bytes() for each in store.home.log.glob("*.ndjson"))


def test_an_export_that_was_not_corrected_stays_refused_with_its_reason(store: Store, tmp_path: Path) -> None:
    dead_letters.export(store.home, tmp_path / "a.csv")
    edited(tmp_path / "a.csv", position="2:1")
    report = replayed(store, corrected=tmp_path / "a.csv")
    assert report.taken == 1
    assert [reason.partition(":")[0] for reason in report.refused.values()] == ["unknown status XX"]


def test_a_version_sent_otherwise_is_taken_when_its_number_is_raised(store: Store, tmp_path: Path) -> None:
    other = write_runner_table(tmp_path / "b.parquet", a_race(going="Firm"))
    ingest(store, read_runner_tables([other], store), clock=fixed(NOW))
    dead_letters.export(store.home, tmp_path / "a.csv")
    edited(tmp_path / "a.csv", going="Firm:Firm", status="XX:F", position="2:1")
    assert "raise result_version" in str(replayed(store, corrected=tmp_path / "a.csv").refused)
    dead_letters.export(store.home, tmp_path / "a.csv")
    edited(tmp_path / "a.csv", result_version="1:2")
    assert replayed(store, corrected=tmp_path / "a.csv").taken == 1
    assert dead_letters.read(store.home) == []


def test_a_replay_older_than_the_logs_end_needs_late_and_else_changes_nothing(store: Store, tmp_path: Path) -> None:
    newer = write_runner_table(tmp_path / "b.parquet", a_race(race_id="R9", race_date="2024-06-01"))
    ingest(store, read_runner_tables([newer], store), clock=fixed(NOW))
    dead_letters.export(store.home, tmp_path / "a.csv")
    edited(tmp_path / "a.csv", status="XX:F")
    before = store.home.dead_letters.read_bytes()
    with pytest.raises(UserError, match="add --late"):
        replay(store, clock=fixed(NOW), corrected=tmp_path / "a.csv")
    assert store.home.dead_letters.read_bytes() == before


def test_a_file_that_is_no_export_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("race_id\nR1\n")
    with pytest.raises(UserError, match="line 2: dead_letter None is not an open dead letter"):
        replayed(store, corrected=tmp_path / "a.csv")
    with pytest.raises(UserError, match="cannot be read"):
        replayed(store, corrected=tmp_path / "none.csv")


def test_an_export_is_of_one_source_and_a_letter_without_an_importer_stays_open(store: Store, tmp_path: Path) -> None:
    dead_letters.write(store.home, [DeadLetter("elsewhere", "R5", 1, "no winner", "", ({"pos": "2"},))], NOW)
    with pytest.raises(UserError, match="of elsewhere, runners are open: choose one"):
        dead_letters.export(store.home, tmp_path / "a.csv")
    assert dead_letters.export(store.home, tmp_path / "a.csv", "elsewhere") == 1
    report = replayed(store)
    assert [why for why in report.refused.values() if why.startswith("dead letters of elsewhere cannot be replayed")]


def test_what_came_through_a_feed_is_replayed_as_the_feed_would_take_it_now(store: Store) -> None:
    """Its unknown fields kept, known from now on; corrected in an export where it still does not pass."""
    jockey = {"type": "jockey_change", "schema_version": 2, "race_id": "R9", "horse_id": "arkle", "whip": True}
    going = {"type": "going_change", "schema_version": 2, "race_id": "R9", "going": "Soft"}
    letters = [
        letter(json.dumps(record).encode(), record, Refused("no jockey", "as an older version had it"))
        for record in (jockey, going)
    ]
    dead_letters.write(store.home, letters, NOW)
    report = replayed(store)
    assert (report.taken, report.appended) == (1, 1)
    assert report.refused[letters[0].letter].startswith("no jockey")
    last = list(reader.records(store.home))[-1]
    assert (last["type"], last["known_at"]) == ("going_change", "2026-01-01T00:00:00.000001Z")
    mended = store.home.root / "mended.csv"
    dead_letters.export(store.home, mended, "feed")
    edited(mended, message=f"{json.dumps(jockey)}~{json.dumps(jockey | {'jockey': 'P Taaffe'})}")
    assert replayed(store, corrected=mended).taken == 1
    last = list(reader.records(store.home))[-1]
    assert (last["jockey_id"], last["whip"]) == ("p taaffe", True)
    assert not [message for message in dead_letters.read(store.home) if message.source == "feed"]


def test_a_message_cut_in_its_letter_is_not_replayed(store: Store) -> None:
    """Half a message says something else."""
    dead_letters.write(store.home, [letter(b"x" * 400_000, {}, Refused("no JSON", ""))], NOW)
    [why] = [why for why in replayed(store).refused.values() if "400000" in why]
    assert "send the message again" in why


CELLS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''@x",
    "'",
    "'plain",
    "plain",
    "a=b",
    "",
    "=\n2",
    '="x",1',
)


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_spreadsheet_would_run_is_exported_as_text_and_comes_back_as_it_was(cell: str) -> None:
    shown = dead_letters.neutral(cell)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert dead_letters.plain(shown) == cell


def test_an_export_holds_no_formula_and_its_replay_takes_the_exact_cells(tmp_path: Path) -> None:
    """In a name, in a column of the user's own, and in that column's name."""
    store = a_store(tmp_path / "home")
    rows = [dict(each) | {"=note": "=HYPERLINK()"} for each in a_race(a_runner("Arkle", 1), race_id="@R2")]
    rows[0] |= {"trainer": "-Tom", "status": "XX"}
    why = Refused("unknown status XX", "use one of those")
    dead_letters.write(store.home, [DeadLetter("runners", "@R2", 1, why.reason, why.detail, tuple(rows))], NOW)
    path = tmp_path / "a.csv"
    assert dead_letters.export(store.home, path) == 1
    with path.open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    edited(path, status="XX:FINISHED")
    report = replayed(store, corrected=path)
    assert report.refused == {}
    (result,) = held(store)
    assert isinstance(result, Result)
    assert result.race_id == "@R2"
    assert result.runners[0].trainer == "-Tom"
    assert result.runners[0].kept["=note"] == "=HYPERLINK()"
