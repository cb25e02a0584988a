"""What `velo inspect` says of a file: its source, its columns, what a load would refuse, and a draft that then loads."""

import json
import zipfile
from pathlib import Path

import pytest

from tests.unit.test_shipped_mappings import ANZ, API_RACE, HK_RACES, HK_RUNS, HKJC_CHINESE, NETKEIBA, api_runner
from velo.errors import UserError
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.importer import ResultsImporter
from velo.streams.importers.inspect_file import inspect

RUNNERS = (
    "race_id,race_date,course,horse,status,position\nA,2024-05-01,Ascot,Alpha,FINISHED,1\nA,2024-05-01,Ascot,Beta,NR,\n"
)
RACEFORM = "date,course,off,horse,pos\n2024-05-01,Ascot,14:30,Alpha,1\n2024-05-01,Ascot,14:30,Beta,2\n"
RACEFORM_2019 = RACEFORM.replace("off,horse", "time,horse_name")
BETFAIR_SP = "EVENT_ID,MENU_HINT,EVENT_NAME,EVENT_DT,SELECTION_ID,SELECTION_NAME,WIN_LOSE,BSP\n1,GB / Ascot 1st May,1m Hcap,01-05-2024 14:30,2,Alpha,1,3.4\n"
API = json.dumps(
    {"results": [API_RACE | {"runners": [api_runner(1, "Alpha (IRE)", "1"), api_runner(2, "Beta (GB)", "2")]}]}
)
CARDS = json.dumps(
    {"GB": {"Ascot": {"14:30": {"date": "2024-05-01", "runners": [{"name": "Alpha"}, {"name": "Beta"}]}}}}
)
STREAM = json.dumps({"op": "mcm", "pt": 1, "mc": [{"id": "1.2", "rc": [{"ltp": 2.0, "id": 3}]}]})
UNKNOWN = """Contest,Meeting Date,Start Time,Racecourse,Distance,Runner,Rider,Weight,Price,Finishing Position,Remarks
17,31/05/2024,14:30,Alpha Park,1m2f,Plain Sailing,A Rider,9-7,5/2F,1,won well
17,31/05/2024,14:30,Alpha Park,1m2f,Second Thoughts,B Rider,8-12,Evens,2,
17,31/05/2024,14:30,Alpha Park,1m2f,Third Man,C Rider,9-0,12/1,PU,
18,31/05/2024,15:05,Alpha Park,6f,Fourth Estate,A Rider,8-8,4/1,1,
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


def written(tmp_path: Path, text: str, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "source", "release", "rows"),
    [
        (RUNNERS, "runners", None, 2),
        (RACEFORM, "raceform", None, 2),
        (RACEFORM_2019, "raceform", "2019", 2),
        (BETFAIR_SP, "betfair-sp", None, 1),
        (ANZ, "betfair-anz", None, 5),
        (HKJC_CHINESE, "hkjc", None, 6),
        (NETKEIBA, "netkeiba", None, 6),
        (API, "racing-api", None, 2),
        (CARDS, "rpscrape-cards", None, 2),
        (STREAM, "betfair-stream", None, 1),
        (UNKNOWN, None, None, 4),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_known_source_is_named_and_an_unknown_one_is_not(
    text: str, source: str | None, release: str | None, rows: int, tmp_path: Path, store: Store
) -> None:
    (file,) = inspect([written(tmp_path, text)], store).files
    assert (file.source, file.release, file.rows) == (source, release, rows)


def test_a_known_source_says_what_a_load_would_refuse_and_why(tmp_path: Path, store: Store) -> None:
    report = inspect([written(tmp_path, ANZ)], store)
    assert report.check is not None
    assert (report.check.races, report.check.refused, report.mapping) == (1, {"no winner": 1}, None)
    assert report.check.warnings == {"row repeated exactly, left out": 1}


def test_a_pair_of_files_in_a_zip_is_one_source(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("races.csv", HK_RACES)
        archive.writestr("runs.csv", HK_RUNS)
    report = inspect([path], store)
    assert [(file.source, file.rows) for file in report.files] == [("kaggle-hk", 4), ("kaggle-hk", 7)]
    assert report.check is not None
    assert (report.check.races, report.check.rows) == (2, 7)


def test_one_file_of_a_pair_says_that_the_other_is_missing(tmp_path: Path, store: Store) -> None:
    report = inspect([written(tmp_path, HK_RUNS)], store)
    assert report.sources == ["kaggle-hk"]
    assert report.why_not is not None
    assert "no file of races is named" in report.why_not


def test_columns_of_an_unknown_file_are_guessed_with_their_units(tmp_path: Path, store: Store) -> None:
    (file,) = inspect([written(tmp_path, UNKNOWN)], store).files
    meant = {guess.name: (guess.meaning, guess.unit) for guess in file.columns}
    assert meant == {
        "Contest": (None, None),
        "Meeting Date": ("race_date", "%d/%m/%Y"),
        "Start Time": ("off", None),
        "Racecourse": ("course", None),
        "Distance": ("distance_m", "miles-furlongs"),
        "Runner": ("horse", None),
        "Rider": ("jockey", None),
        "Weight": ("weight_lbs", "st-lb"),
        "Price": ("sp_decimal", "fractional"),
        "Finishing Position": ("finish", None),
        "Remarks": (None, None),
    }
    assert next(guess for guess in file.columns if guess.name == "Price").values == ("5/2F", "Evens", "12/1")
    assert (file.days, file.races) == (1, None)


def test_the_draft_of_an_unknown_file_loads_and_guesses_no_zone(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path, UNKNOWN)
    report = inspect([path], store)
    draft = report.mapping
    assert draft is not None
    assert report.check is not None
    assert (report.check.races, report.check.rows, report.check.refused) == (2, 4, {}), (
        "what a load by the draft would do"
    )
    assert "# zone =" in draft
    mapping = written(tmp_path, draft, "draft.toml")
    importer = registry.importer(str(mapping))
    assert isinstance(importer, ResultsImporter)
    parsed = importer.read([path], store)
    assert not parsed.refused
    first, second = parsed.messages
    assert (first.race_id, first.race.distance_m, first.race.course) == (
        "31/05/2024 Alpha Park 14:30",
        2012.0,
        "Alpha Park",
    )
    winner, beaten, pulled_up = first.runners
    assert (winner.weight_lbs, winner.sp_decimal, winner.position, beaten.sp_decimal) == (133.0, 3.5, 1, 2.0)
    assert pulled_up.status == "PU"
    assert second.race_id == "31/05/2024 Alpha Park 15:05"


def test_the_draft_of_nested_json_loads(tmp_path: Path, store: Store) -> None:
    meeting = {
        "Date": "2024-05-31", "Track": {"Name": "Alpha Park"},
        "Events": [{"RaceNo": 1, "Runners": [{"Name": "Arkle", "Place": 1, "Odds": "5/2"}, {"Name": "Flyingbolt", "Place": "PU", "Odds": "Evens"}]}],
    }  # fmt: skip
    path = written(tmp_path, json.dumps([meeting]))
    report = inspect([path], store)
    assert report.mapping is not None
    assert 'rows = "Events.Runners"' in report.mapping
    meant = {guess.name: guess.meaning for guess in report.files[0].columns}
    assert meant["Events.Runners.Name"] == "horse"
    assert (meant["Track.Name"], meant["Date"], meant["Events.Runners.Place"]) == ("course", "race_date", "finish")
    assert report.check is not None
    assert (report.check.races, report.check.rows) == (1, 2)


MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(path: Path, *rows: str, first: str = "") -> Path:
    """A workbook as Excel writes it: shared strings, a style for dates (1), one of the user's own for times (2)."""
    strings = (
        "Contest",
        "Day",
        "Off",
        "Track",
        "Horse",
        "Weight",
        "Fin",
        "Alpha Park",
        "Plain Sailing",
        "Second Thoughts",
    )
    shared = "".join(f"<si><t>{text}</t></si>" for text in strings)
    parts = {
        "[Content_Types].xml": "<Types/>",
        "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets><sheet name="Results" sheetId="1" r:id="rId7"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships xmlns="x"><Relationship Id="rId7" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/sharedStrings.xml": f"<sst {MAIN}>{shared}</sst>",
        "xl/styles.xml": f'<styleSheet {MAIN}><numFmts><numFmt numFmtId="164" formatCode="h:mm"/></numFmts><cellXfs><xf numFmtId="0"/>'
        '<xf numFmtId="14"/><xf numFmtId="164"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f"{first}<worksheet {MAIN}><sheetData>{''.join(rows)}</sheetData></worksheet>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


HEADER_ROW = "<row>" + "".join(f'<c r="{"ABCDEFG"[at]}1" t="s"><v>{at}</v></c>' for at in range(7)) + "</row>"


def result_row(number: int, horse: int, fin: str) -> str:
    return (
        f'<row><c r="A{number}"><v>17</v></c><c r="B{number}" s="1"><v>45443</v></c><c r="C{number}" s="2"><v>0.60416666666666663</v></c>'
        f'<c r="D{number}" t="s"><v>7</v></c><c r="E{number}" t="s"><v>{horse}</v></c><c r="F{number}" t="inlineStr"><is><t>9-7</t></is></c>'
        f"{fin}</row>"
    )


def test_a_workbook_is_read_with_its_dates_times_and_blanks(tmp_path: Path, store: Store) -> None:
    path = workbook(
        tmp_path / "club.xlsx",
        HEADER_ROW,
        result_row(2, 8, '<c r="G2"><v>1</v></c>'),
        result_row(3, 9, '<c r="G3" t="str"><v>PU</v></c>'),
    )
    report = inspect([path], store)
    (file,) = report.files
    assert (file.label, file.source, file.rows, file.days) == (f"{path}/Results", None, 2, 1)
    values = {guess.name: guess.values for guess in file.columns}
    assert (values["Day"], values["Off"], values["Contest"]) == (("2024-05-31",), ("14:30:00",), ("17",))
    assert report.mapping is not None
    importer = registry.importer(str(written(tmp_path, report.mapping, "draft.toml")))
    assert isinstance(importer, ResultsImporter)
    (result,) = importer.read([path], store).messages
    assert [(runner.horse, runner.status, runner.weight_lbs) for runner in result.runners] == [
        ("Plain Sailing", "FINISHED", 133.0),
        ("Second Thoughts", "PU", 133.0),
    ]


@pytest.mark.parametrize(
    ("rows", "first", "said"),
    [
        ([HEADER_ROW], "", "has no sheet with a header and rows"),
        ([HEADER_ROW, '<row><c r="A2" t="s"><v>99</v></c></row>'], "", "cannot be read"),
        ([HEADER_ROW, "<row>"], "", "cannot be read"),
        ([HEADER_ROW, '<row><c r="ZZZ2"><v>1</v></c></row>'], "", "cannot be read"),
        (
            [HEADER_ROW, '<row><c r="A2"><v>1</v></c></row>'],
            "<!DOCTYPE x [<!ENTITY a 'b'>]>",
            "is no workbook that Excel wrote",
        ),
    ],
)
def test_a_broken_workbook_is_refused_in_one_line(
    rows: list[str], first: str, said: str, tmp_path: Path, store: Store
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        inspect([workbook(tmp_path / "club.xlsx", *rows, first=first)], store)
    assert "\n" not in str(refused.value)
