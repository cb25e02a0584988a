"""Mappings of the user's own: every entry, every wrong entry in a line, and files that are not what the mapping reads."""

import bz2
import csv
import gzip
import io
import json
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from velo.errors import UserError
from velo.settings import Settings
from velo.storage.log.reader import end
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.check import check
from velo.streams.importers.dead_letters import read as letters_of
from velo.streams.importers.frames import frames
from velo.streams.importers.guess import guesses
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.mapping import mapping_of, parse_mapping
from velo.streams.importers.replay import replay
from velo.streams.importers.results import Parsed

_KEYS = [
    *((entry,) for entry in ("name", "help", "kind", "keys", "needs", "rows", "encoding", "optional", "keep", "blank", "repeated_rows")),
    *(("clock", entry) for entry in ("instant", "time", "hours", "zone", "zone_column", "zones")),
    *(("columns", column) for column in ("race_id", "race_date", "weight_lbs", "handicap")),
    *(("columns", "weight_lbs", entry) for entry in ("column", "columns", "join", "value", "unit", "stake", "format", "decimal")),
    *(("columns", "sex", entry) for entry in ("pattern", "codes", "otherwise", "matches")),
    ("join",), ("clock",), ("columns",), ("finish",),
]  # fmt: skip
NOW = datetime(2025, 1, 1, tzinfo=UTC)
OWN = """
name = "own"
needs = ["Race", "Fin"]
optional = ["headgear"]
[clock]
time = "Off"
zone_column = "State"
zones = { N = "Australia/Sydney", W = "Australia/Perth" }
[columns]
race_id = "Race"
race_date = { column = "Day", format = "%d.%m.%Y" }
course = "Track"
country = { value = "AUS" }
horse = "Horse"
weight_lbs = { column = "Kilos", unit = "kg", decimal = "," }
sp_decimal = { column = "Div", unit = "tote", stake = 2 }
headgear = "Gear"
sex = { column = "Sex", codes = { g = "G", m = "M" } }
[[finish]]
column = "Fin"
codes = { LR = "UR", SCR = "NR" }
"""
ROWS = """Race;Day;Off;State;Track;Horse;Kilos;Div;Sex;Fin;Note
R1;05.01.2024;14:30;N;Alpha;Arkle;57,5;5.00;g;1;won
R1;05.01.2024;14:30;N;Alpha;Beta;58;7.40;m;LR;
R1;05.01.2024;14:30;N;Alpha;Gamma;58;;m;SCR;
Race;Day;Off;State;Track;Horse;Kilos;Div;Sex;Fin;Note
R2;05.01.2024;14:30;W;Beta;Delta;57,5;5.00;g;1;
R3;05.01.2024;15:30;W;Beta;Epsilon;57,5;5.00;colt;1;
R4;05.01.2024;15:30;X;Beta;Zeta;57,5;5.00;g;1;
R5;05.01.2024;16:30;W;Beta;Eta;57,5;5.00;g;LOST;
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def read(name: str, path: Path, store: Store) -> Parsed:
    importer = registry.importer(name)
    assert isinstance(importer, ResultsImporter)
    return importer.read([path], store)


def written(tmp_path: Path, content: str | bytes, name: str = "own.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_mapping_reads_units_codes_and_the_clock_of_each_state(tmp_path: Path, store: Store, own: str) -> None:
    parsed = read(own, written(tmp_path, ROWS), store)
    first, second = parsed.messages
    assert first.race.off_time == datetime(2024, 1, 5, 3, 30, tzinfo=UTC), "half past two in Sydney's summer"
    assert second.race.off_time == datetime(2024, 1, 5, 6, 30, tzinfo=UTC), "half past two in Perth"
    assert first.race.race_date == date(2024, 1, 5)
    arkle, beta, gamma = first.runners
    assert (arkle.weight_lbs, arkle.sp_decimal, arkle.sex, arkle.position) == (126.77, 2.5, "G", 1)
    assert (beta.status, gamma.status, gamma.sp_decimal) == ("UR", "NR", None)
    assert (arkle.horse_id, arkle.kept["Note"]) == ("arkle", "won")
    assert {letter.race_id: letter.detail.split(":")[0] for letter in parsed.refused} == {
        "R3": "sex is 'colt', but holds text",
        "R4": "the clock has no zone for 'X'",
        "R5": "Fin is 'LOST', which is no position and no code of the mapping",
    }
    assert parsed.warnings["header in the middle of a file, left out"] == 1
    assert parsed.rows == 7


def test_a_header_may_have_line_breaks_and_signs_in_its_names(tmp_path: Path) -> None:
    """Cells stay the text that they are: a code of digits keeps its zeros."""
    (frame,) = frames(written(tmp_path, '"Horse\nName";#;Code\nArkle;7;007\n'))
    assert [*frame.columns] == ["Horse\nName", "#", "Code"]
    assert frame.columns["Code"].cells() == ["007"]
    assert frame.name_of(("horse name",)) == "Horse\nName"
    assert frame.name_of(("%",)) is None
    assert frame.name_of(("#",)) == "#"


@pytest.mark.parametrize("form", ["gzip", "bzip2", "zip", "utf-16", "bom"])
def test_a_file_is_read_in_every_packing(form: str, tmp_path: Path, store: Store, own: str) -> None:
    path = tmp_path / "packed"
    content = ROWS.encode()
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/own.csv", content)
            archive.writestr("__MACOSX/own.csv", b"junk")
    else:
        packed = {
            "gzip": gzip.compress(content),
            "bzip2": bz2.compress(content),
            "utf-16": ROWS.encode("utf-16"),
            "bom": b"\xef\xbb\xbf" + content,
        }
        path.write_bytes(packed[form])
    assert [result.race_id for result in read(own, path, store).messages] == ["R1", "R2"]


def test_a_nested_list_and_one_race_a_line_read_alike(tmp_path: Path, store: Store) -> None:
    mapping = written(
        tmp_path,
        'name = "nested"\nrows = "runners"\n[columns]\nrace_id = "id"\nrace_date = "day"\ncourse = "track.name"\n'
        'horse = "runners.name"\n[[finish]]\ncolumn = "runners.fin"\n',
        "nested.toml",
    )
    docs = [
        {
            "id": at,
            "day": "2024-01-05",
            "track": {"name": "Alpha"},
            "runners": [{"name": "A", "fin": 1}, {"name": "B", "fin": "PU"}],
        }
        for at in (1, 2)
    ]
    whole = read(str(mapping), written(tmp_path, json.dumps(docs), "whole.json"), store)
    lines = read(str(mapping), written(tmp_path, "\n".join(map(json.dumps, docs)), "lines.ndjson"), store)
    assert whole.messages == lines.messages
    assert [(result.race_id, result.race.course) for result in whole.messages] == [("1", "Alpha"), ("2", "Alpha")]
    assert [runner.status for runner in whole.messages[0].runners] == ["FINISHED", "PU"]


WRONG = {
    "no TOML": ("name = ", "is no TOML"),
    "an unknown entry": (OWN + "\ncolour = 1", "has the entry 'colour'"),
    "an unknown column of the table": (OWN.replace("horse =", "hors ="), "hors is no column of the runner table"),
    "an unknown unit": (OWN.replace('"kg"', '"stone"'), "has the unit 'stone', but its units are lb, kg, st-lb"),
    "a unit of no measure": (
        OWN.replace('course = "Track"', 'course = { column = "Track", unit = "kg" }'),
        "units are none",
    ),
    "an unknown status": (OWN.replace('"UR"', '"FELL"'), "[[finish]] 1 code 'LR' is 'FELL'"),
    "an unknown zone": (OWN.replace("Australia/Perth", "Australia/Nowhere"), "[clock] zones W is 'Australia/Nowhere'"),
    "a clock without a zone": ('zone_column = "State"', "[clock] needs a zone"),
    "thirteen hours": (OWN.replace('time = "Off"', 'time = "Off"\nhours = 13'), "[clock] hours is 13"),
    "a broken pattern": (
        OWN.replace('horse = "Horse"', 'horse = { column = "Horse", pattern = "(" }'),
        "regular expression",
    ),
    "a pattern without a group": (
        OWN.replace('horse = "Horse"', 'horse = { column = "Horse", pattern = "x" }'),
        "one group",
    ),
    "no finish": (OWN[: OWN.index("[[finish]]")], "has no [[finish]]"),
    "no course": (OWN.replace('course = "Track"', ""), "[columns] lacks course"),
    "both a column and a value": (
        OWN.replace('{ value = "AUS" }', '{ value = "AUS", column = "x" }'),
        "exactly one of",
    ),
    "a status among the columns": (
        OWN.replace('horse = "Horse"', 'horse = "Horse"\nposition = "Fin"'),
        "declared in [[finish]]",
    ),
    "a stake of nothing": (OWN.replace("stake = 2", "stake = 0"), "stake is 0"),
    "a name for a path": (OWN.replace('name = "own"', 'name = "../own"'), "name is '../own'"),
    "an unknown encoding": (OWN.replace('name = "own"', 'name = "own"\nencoding = "klingon"'), "encoding is 'klingon'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_mapping_is_refused_in_one_line_that_names_the_entry(case: str) -> None:
    text, said = WRONG[case]
    if case == "a clock without a zone":
        text = OWN.replace('zone_column = "State"\n', "").replace(
            'zones = { N = "Australia/Sydney", W = "Australia/Perth" }\n', ""
        )
    if case == "an unknown entry":
        text = "colour = 1\n" + OWN
    with pytest.raises(UserError) as refused:
        parse_mapping(text, "own.toml")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def _tar(*, links: bool = False) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("own.csv")
        member.size = 0 if links else len(ROWS.encode())
        member.type, member.linkname = (tarfile.SYMTYPE, "/etc/passwd") if links else (tarfile.REGTYPE, "")
        archive.addfile(member, io.BytesIO(ROWS.encode()))
    return file.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "of another source": (lambda: b"rid,name\n1,x\n", "has no column Race, Fin, which a own file has"),
    "lacking a mapped column": (
        lambda: ROWS.replace("Kilos", "Stones").encode(),
        "has no column Kilos, which the mapping own reads",
    ),
    "with a column of another unit": (
        lambda: ROWS.replace(";57,5;", ";heavy;").replace(";58;", ";light;").encode(),
        "Kilos is 'heavy'",
    ),
    "with a short line": (lambda: ROWS.encode() + b"R9;05.01.2024\n", "line 10 has 2 cells, the header 11"),
    "half a bzip2": (lambda: bz2.compress(ROWS.encode() * 50)[:200], "is damaged"),
    "half a gzip": (lambda: gzip.compress(ROWS.encode() * 50)[:100], "is damaged"),
    "a bomb": (lambda: gzip.compress(b"a" * (1 << 26)), "unpacks to more than"),
    "a bomb in a bomb": (
        lambda: gzip.compress(gzip.compress(gzip.compress(ROWS.encode()))),
        "an archive in an archive",
    ),
    "half a tar": (lambda: _tar()[:600], "is damaged"),
    "a tar of nothing": (lambda: _tar(links=True), "holds no file"),
    "half a JSON": (lambda: b'[{"Race": 1, "Fin"', "is no JSON"),
    "deep JSON": (lambda: b'{"Race": 1, "Fin": ' + _nested(40) + b"}", "nested more than 12 deep"),
    "very deep JSON": (lambda: _nested(100_000), "is no JSON"),
    "a list of numbers": (lambda: b"[1, 2, 3]", "holds 1 where an object belongs"),
    "a web page": (lambda: b"<!DOCTYPE html><html></html>", "is a web page"),
    "an empty file": (lambda: b" \n", "is empty"),
    "a header alone": (lambda: ROWS.split("\n")[0].encode() + b"\n", "has no rows"),
    "a column twice": (lambda: b"Race,race,Fin\n1,1,1\n", "more than once"),
    "binary": (lambda: b"Race,Fin\n\0\0\0", "is a binary file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_not_the_sources_is_refused_in_one_line_and_nothing_is_loaded(
    case: str, tmp_path: Path, store: Store, own: str
) -> None:
    make, said = FILES[case]
    path = written(tmp_path, make(), "file")
    with pytest.raises(UserError) as refused:
        registry.importer(own).load(store, [path], late=False, clock=lambda: NOW, progress=lambda done, total: None)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert end(store.home).next_seq == 0
    assert letters_of(store.home) == []


def test_two_races_of_one_key_in_the_races_file_are_refused(tmp_path: Path, store: Store) -> None:
    races = "race_id,date,venue,race_no,config,surface,distance,going,horse_ratings,race_class\n1,2005-03-06,ST,1,A,0,1200,GOOD,60-40,4\n"
    paths = [written(tmp_path, races + "1,2005-03-07,ST,1,A,0,1200,GOOD,60-40,4\n", "races.csv")]
    importer = registry.importer("kaggle-hk")
    assert isinstance(importer, ResultsImporter)
    with pytest.raises(UserError, match="no file of runners is named"):
        importer.read(paths, store)
    header = "race_id,horse_no,horse_id,result,lengths_behind,horse_age,horse_type,horse_rating,horse_gear,declared_weight,actual_weight,draw,finish_time,win_odds,trainer_id,jockey_id"
    paths.append(written(tmp_path, f"{header}\n1,1,7,1,0,3,G,60,--,1000,120,1,70.1,3.4,1,2\n", "runs.csv"))
    with pytest.raises(UserError, match="two different races with race_id '1'"):
        importer.read(paths, store)


def test_a_check_accounts_for_every_row_shows_twenty_values_and_loads_nothing(
    tmp_path: Path, store: Store, own: str
) -> None:
    report = check(own, [written(tmp_path, ROWS)], store)
    assert (report.rows, report.accepted_rows, report.refused_rows, report.long_rows, report.races) == (7, 4, 3, 0, 2)
    assert report.refused == {"bad value": 3}
    assert report.warnings["header in the middle of a file, left out"] == 1
    shown = {(spot.column, spot.written, spot.value) for spot in report.spots}
    assert ("weight_lbs", "57,5", 126.77) in shown
    assert {value for column, written, value in shown if (column, written) == ("sp_decimal", "5.00")} == {2.5}
    assert len(report.spots) == 20
    assert end(store.home).next_seq == 0


def test_a_refused_race_of_an_own_mapping_replays_from_the_mapping_that_the_store_keeps(
    tmp_path: Path, store: Store, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import velo

    opened = velo.open(store.home.root, clock=lambda: NOW)
    opened.ingest(written(tmp_path, ROWS), kind=own)
    assert len(letters_of(store.home)) == 3
    Path(own).unlink()
    kept = store.home.mappings / "own.toml"
    kept.write_text(kept.read_text(encoding="utf-8").replace('m = "M" }', 'm = "M", colt = "C" }'), encoding="utf-8")
    report = replay(Store.open(Settings(home=store.home.root)), late=True, clock=lambda: NOW)
    assert (report.tried, report.taken) == (3, 1)


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
CELLS = some.text(some.characters(blacklist_categories=["Cs"]), max_size=6)
CONTENT = (
    some.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | some.lists(some.lists(CELLS, min_size=1, max_size=4), max_size=4).map(
        lambda rows: "\n".join(",".join(cells) for cells in rows).encode("utf-8", "replace")
    )
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENT, some.sampled_from(["plain", "gzip", "bzip2", "zip"]), some.sampled_from([None, "", "a.b"]))
def test_any_content_is_a_frame_or_an_error_of_one_line(
    tmp_path: Path, content: bytes, form: str, rows_at: str | None
) -> None:
    path = tmp_path / "any"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("any.csv", content)
    else:
        path.write_bytes(
            gzip.compress(content) if form == "gzip" else bz2.compress(content) if form == "bzip2" else content
        )
    try:
        read = list(frames(path, rows_at))
    except UserError as refused:
        read, said = [], str(refused)
    else:
        said = ""
    assert "\n" not in said
    for frame in read:
        assert frame.rows > 0
        assert {len(column.cells()) for column in frame.columns.values()} == {frame.rows}
        guesses(frame)


@settings(max_examples=60)
@given(some.sampled_from(sorted(_KEYS)), JSON)
def test_any_value_of_an_entry_is_taken_or_refused_in_one_line(key: tuple[str, ...], value: object) -> None:
    declared = tomllib.loads(OWN)
    table = declared
    for part in key[:-1]:
        table = table[part]
    table[key[-1]] = value
    said = ""
    try:
        mapping_of(declared, "own.toml")
    except UserError as refused:
        said = str(refused)
    assert "\n" not in said


ODD = [
    "",
    "-",
    "nan",
    "inf",
    "1e400",
    "9" * 400,
    "٣",
    "½",
    "1-1/4",
    "0x10",
    "-3",
    "9-14",
    "25:61",
    "31.02.2024",
    "a\nb",
    '"',
    "1",
    "LR",
]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.lists(some.lists(some.sampled_from(ODD), min_size=11, max_size=11), min_size=1, max_size=6))
def test_whatever_the_cells_hold_every_row_is_accounted_for(tmp_path: Path, cells: list[list[str]]) -> None:
    """Beside one good race, so that no column is another's."""
    good = list(csv.reader(ROWS.splitlines()[:4], delimiter=";"))
    mapping, path = tmp_path / "own.toml", tmp_path / "odd.csv"
    mapping.write_text(OWN, encoding="utf-8")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([*good, *good[1:] * 3, *cells])
    blank = sum(not any(row) for row in cells)
    try:
        report = check(str(mapping), [path], Store.open(Settings(home=tmp_path / "none")))
    except UserError as refused:
        pytest.fail(f"refused whole: {refused}")
    assert report.rows == report.accepted_rows + report.refused_rows
    assert report.rows in (12 + len(cells), 12 + len(cells) - blank)
