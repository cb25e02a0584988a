"""The importers' one registry and interface: a CSV importer in one file, and importers of other packages."""

import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import velo
from tests.support.logs import a_store, held
from tests.unit.test_inspect import UNKNOWN
from tests.unit.test_shipped_mappings import ANZ
from velo.errors import Refused, UserError
from velo.racing.messages import Result
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers import dead_letters, parsers, registry
from velo.streams.importers.importer import Reader, ResultsImporter, csv_importer

REPO = Path(__file__).parents[2]
EXAMPLE = """
from velo.streams.importers import parsers
from velo.streams.importers.importer import csv_importer


def complete(row, cells, store):
    row["status"], row["position"] = parsers.finish(cells.get("place"))


IMPORTER = csv_importer(
    "example",
    "Load results from Example's CSV files.",
    {"race_id": "race", "race_date": ("day", parsers.day), "course": "track", "horse": "horse",
     "weight_lbs": ("weight", parsers.pounds), "sp_decimal": ("odds", parsers.odds)},
    complete,
)
"""
ROWS = """Race,Day,Track,Horse,Place,Weight,Odds,Trainer,Note
A1,26 Apr 2015,Ascot,Arkle,1,8-12,5/2F,Dreaper,won well
A1,26 Apr 2015,Ascot,Mill House,2,9-0,Evens,Walwyn,
Race,Day,Track,Horse,Place,Weight,Odds,Trainer,Note
A2,26 Apr 2015,Ascot,Flyingbolt,1,8-99,2/1,Dreaper,
A2,26 Apr 2015,Ascot,Fort Leney,PU,8-1,3/1,Dreaper,
"""


def finish(row: dict[str, Any], cells: Mapping[str, str], store: Store) -> None:
    row["status"], row["position"] = parsers.finish(cells.get("place"))
    if cells["track"] == "Nowhere":
        raise Refused("no such course", "Nowhere is no course: correct it")


COLUMNS: dict[str, str | tuple[str, Reader]] = {
    "race_id": "race",
    "race_date": ("day", parsers.day),
    "course": "track",
    "horse": "horse",
    "weight_lbs": ("weight", parsers.pounds),
    "sp_decimal": ("odds", parsers.odds),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path / "home")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "example.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.fixture
def example() -> ResultsImporter:
    return csv_importer("example", "Load results from Example's CSV files.", COLUMNS, finish)


def test_a_csv_importer_maps_reads_and_keeps_every_column(store: Store, file: Path, example: ResultsImporter) -> None:
    """8-12 is 124 lb, 5/2 is 3.5; keys are names; a column that is not mapped is kept, under `source_` where it is ours."""
    parsed = example.read([file], store)
    (result,) = parsed.messages
    assert (result.race_id, result.race.race_date, result.race.course) == ("A1", date(2015, 4, 26), "Ascot")
    first, second = result.runners
    assert (first.horse_id, first.status, first.position) == ("arkle", "FINISHED", 1)
    assert (first.weight_lbs, first.sp_decimal, second.sp_decimal) == (124.0, 3.5, 2.0)
    assert first.kept == {"place": "1", "source_trainer": "Dreaper", "note": "won well"}
    assert (first.trainer, second.kept) == (None, {"place": "2", "source_trainer": "Walwyn"})


def test_a_value_that_cannot_be_read_refuses_its_race_and_the_header_again_is_counted(
    store: Store, file: Path, example: ResultsImporter
) -> None:
    """Stones and pounds have 13 pounds at most. All four rows are accounted for: two in the result, two in the letter."""
    parsed = example.read([file], store)
    (letter,) = parsed.refused
    assert (letter.source, letter.race_id, letter.reason) == ("example", "A2", "bad value")
    assert "weight_lbs is '8-99'" in letter.detail
    assert [row["horse"] for row in letter.rows] == ["Flyingbolt", "Fort Leney"]
    assert parsed.rows == 4
    assert parsed.warnings == {"header in the middle of a file, left out": 1}


def test_a_refusal_of_the_importer_and_a_race_without_a_status_go_to_the_dead_letters(
    store: Store, tmp_path: Path, example: ResultsImporter
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(
        "race,day,track,horse,place,weight,odds\nB1,2015-04-26,Nowhere,Arkle,1,8-1,2/1\nB2,2015-04-26,Ascot,Arkle,,,\n"
    )
    parsed = example.read([path], store)
    assert [(refusal.race_id, refusal.reason) for refusal in parsed.refused] == [
        ("B1", "no such course"),
        ("B2", "no status"),
    ]


def test_a_file_without_a_required_column_is_refused_in_a_line(
    store: Store, tmp_path: Path, example: ResultsImporter
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("race,day,horse\nA1,2015-04-26,Arkle\n")
    with pytest.raises(UserError, match="has no column track, which a example file needs"):
        example.read([path], store)


def test_a_corrected_dead_letter_passes_through_the_same_mapping(
    store: Store, file: Path, example: ResultsImporter
) -> None:
    (letter,) = example.read([file], store).refused
    rows = [dict(row) | ({"weight": "8-9"} if row["weight"] == "8-99" else {}) for row in letter.rows]
    (result,) = example.read_rows(rows, store).messages
    assert [(runner.horse, runner.weight_lbs, runner.status) for runner in result.runners] == [
        ("Flyingbolt", 121.0, "FINISHED"),
        ("Fort Leney", 113.0, "PU"),
    ]


def test_a_mapping_to_a_column_that_the_runner_table_does_not_have_is_a_mistake_of_the_importer() -> None:
    with pytest.raises(ValueError, match="maps wieght, which the runner table does not have"):
        csv_importer("example", "", {"wieght": "weight"})


def test_the_shipped_importers_are_listed_and_have_a_source_and_a_help() -> None:
    assert {"betfair-sp", "raceform", "rpscrape-cards", "runners", "runners-cards"} <= set(registry.names())
    for name in registry.names():
        shipped = registry.importer(name)
        assert shipped.source
        assert shipped.help.endswith(".")


def test_only_importers_of_results_replay_and_rebuild() -> None:
    assert registry.results_importer("raceform") is registry.importer("raceform")
    assert [registry.results_importer(name) for name in ("betfair-sp", "runners-cards", "cards", "nobody")] == [
        None
    ] * 4


def velo_with(package: Path, *argv: object, home: Path) -> "subprocess.CompletedProcess[str]":
    """`velo` in a process of its own, with another package's folder on the path."""
    environ = {"PATH": "", "PYTHONPATH": f"{package}:{REPO}", "VELO_HOME": str(home)}
    command = [sys.executable, "-m", "velo.cli", *map(str, argv)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def a_package(folder: Path, *points: str) -> Path:
    """An installed package that declares importers."""
    info = folder / "example-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[velo.importers]\n" + "\n".join(points) + "\n")
    (folder / "example_package.py").write_text(EXAMPLE)
    return folder


def test_an_importer_of_another_package_is_a_command_and_its_dead_letters_replay(tmp_path: Path, file: Path) -> None:
    """By its entry point alone: help, load, rebuild and replay, in real processes."""
    package = a_package(tmp_path / "package", "example = example_package:IMPORTER")
    home = tmp_path / "home"
    listed = velo_with(package, "ingest", "--help", home=home)
    assert "Load results from Example's CSV files." in listed.stdout, listed.stderr
    loaded = velo_with(package, "ingest", "example", file, home=home)
    assert loaded.returncode == 0, loaded.stderr
    store = Store.open(Settings(home=home))
    assert [message.race_id for message in held(store) if isinstance(message, Result)] == ["A1"]
    assert [letter.source for letter in dead_letters.read(store.home)] == ["example"]
    export = tmp_path / "export.csv"
    assert velo_with(package, "dead-letters", "export", export, home=home).returncode == 0
    export.write_text(export.read_text().replace("8-99", "8-9"))
    replayed = velo_with(package, "dead-letters", "replay", "--file", export, "--late", home=home)
    assert replayed.returncode == 0, replayed.stderr
    assert dead_letters.read(store.home) == []
    assert [message.race_id for message in held(store) if isinstance(message, Result)] == ["A1", "A2"]


def test_a_broken_importer_of_another_package_is_reported_in_a_line_and_harms_no_other(
    tmp_path: Path, file: Path
) -> None:
    package = a_package(
        tmp_path / "package",
        "gone = example_package:NOTHING",
        "text = example_package:__name__",
        "other = example_package:IMPORTER",
    )
    home = tmp_path / "home"
    assert velo_with(package, "ingest", "--help", home=home).returncode == 0
    for name, words in (
        ("gone", "cannot be loaded from example_package:NOTHING"),
        ("text", "has no method load"),
        ("other", "has the source 'example'"),
    ):
        refused = velo_with(package, "ingest", name, file, home=home)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused.stderr
        assert words in refused.stderr


def test_two_importers_of_one_name_are_refused() -> None:
    points = [EntryPoint("mine", "a:B", registry.GROUP), EntryPoint("mine", "c:D", registry.GROUP)]
    with pytest.raises(UserError, match=r"the entry point mine = c:D .* has the name of an importer of a:B: rename it"):
        registry._by_name(points, ())
    with pytest.raises(UserError, match="has the name of an importer of VÉLØ"):
        registry._by_name(points[:1], ["mine"])


def test_a_source_that_no_importer_has_is_refused_by_rebuild_in_a_line(tmp_path: Path, file: Path) -> None:
    velo("log", "rebuild", file, "--source", "nobody", home=tmp_path / "home").told(
        "--source is 'nobody'", "which is not an importer of results: use", "raceform"
    )


# Files by the name of an importer or by a mapping


def test_files_are_checked_and_loaded_by_the_name_of_an_importer(tmp_path: Path) -> None:
    path, home = tmp_path / "anz.csv", tmp_path / "home"
    path.write_text(ANZ, encoding="utf-8")
    checked = velo("ingest", path, "--as", "betfair-anz", "--check", "--json", home=home).document
    assert isinstance(checked, dict)
    assert (checked["rows"], checked["accepted_rows"], checked["refused_rows"]) == (4, 3, 1)
    assert len(checked["spots"]) == 20
    assert velo("dead-letters", "--json", home=home).document == []
    loaded = velo("ingest", "--as=betfair-anz", path, "--json", home=home).document
    assert isinstance(loaded, dict)
    assert (loaded["races"], loaded["appended"], loaded["refused"]) == (2, 1, {"no winner": 1})
    assert velo("ingest", "betfair-anz", path, "--json", home=home).document == loaded | {
        "appended": 0, "identical": 1, "dead_letters": 0
    }  # fmt: skip


def test_an_unknown_file_is_inspected_and_loads_by_the_draft(tmp_path: Path) -> None:
    path, draft, home = tmp_path / "club.csv", tmp_path / "draft.toml", tmp_path / "home"
    path.write_text(UNKNOWN, encoding="utf-8")
    shown = velo("inspect", path, "--out", draft, home=home)
    assert shown.code == 0
    assert "unknown" in shown.out
    assert "st-lb" in shown.out
    loaded = velo("ingest", path, "--as", draft, "--json", home=home).document
    assert isinstance(loaded, dict)
    assert (loaded["source"], loaded["races"], loaded["appended"]) == ("my-source", 2, 2)
    velo("inspect", tmp_path / "none.csv", home=home).told("none.csv cannot be read")
    velo("ingest", path, "--as", "nobody", home=home).told("'nobody' is not an importer")
    velo("ingest", path, "--as", "betfair-sp", "--check", home=home).told("they cannot be checked")
    velo("ingest", path, "--as", "hkjc", home=home).told("has no column date or race_date")
