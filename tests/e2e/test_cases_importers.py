"""The shared cases of the importers give the values their READMEs expect: small files that once came out wrong."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.cli import velo
from tests.support.shared import shared_file


def records(home: Path, kind: str = "result") -> list[dict[str, Any]]:
    """The log's records of a type, in its order."""
    lines = (line for part in sorted(home.glob("log/*.ndjson")) for line in part.read_bytes().splitlines())
    return [record for line in lines if (record := orjson.loads(line))["type"] == kind]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_case_01_a_foreign_morning_off_is_the_instant_that_the_24_hour_clock_says(home: Path) -> None:
    ran = velo("ingest", "raceform", shared_file("cases/01-morning-off/results.csv"), "--json", home=home)
    assert (ran.document["appended"], ran.document["warnings"]) == (2, {})
    offs = {result["race_id"]: (result["off_time"], result["race_date"]) for result in records(home)}
    assert offs == {
        "700001": ("2026-01-04T09:15:00.000000Z", "2026-01-04"),
        "700002": ("2026-01-04T10:25:00.000000Z", "2026-01-04"),
    }


def test_case_02_a_card_without_regions_meets_the_only_horses_of_those_names(home: Path) -> None:
    folder = shared_file("cases/02-card-without-region")
    assert velo("ingest", "raceform", folder / "results.csv", home=home).code == 0
    ran = velo("cards", "rpscrape", folder / "card.json", "--json", home=home)
    assert ran.document["warnings"] == {
        "race without regions of its runners": 1,
        "runner without region, found in the log by the only such name": 2,
    }
    (card,) = records(home, "racecard")
    assert [runner["horse_id"] for runner in card["runners"]] == ["alpha one (ire)", "beta two (gb)"]


def test_case_08_no_surface_is_invented(home: Path) -> None:
    ran = velo("ingest", "raceform", shared_file("cases/08-surface-invented/results.csv"), "--json", home=home)
    assert ran.document["appended"] == 5
    assert {result["course"]: result.get("surface") for result in records(home)} == {
        "kempton-aw": "AW",
        "Chelmsford City": "AW",
        "Meydan (UAE)": "Dirt",
        "Chantilly (FR)": "AW",
        "Saratoga (USA)": "Dirt",
    }


def test_case_14_a_zip_archive_is_recognised(home: Path) -> None:
    path = shared_file("cases/14-zip-message/results.zip")
    velo("ingest", "raceform", path, home=home).told(str(path), "is a zip archive", "unpack it")


def test_case_18_lengths_are_read_as_printed(home: Path) -> None:
    ran = velo("ingest", "raceform", shared_file("cases/18-lengths-as-printed/results.csv"), "--json", home=home)
    assert ran.document["warnings"] == {}
    (result,) = records(home)
    assert [runner["beaten_lengths"] for runner in result["runners"]] == [0, 0.5, 1.25, 0.4, 0.4, 2]


def test_case_17_the_columns_of_an_older_rpscrape_are_read(home: Path) -> None:
    path = shared_file("cases/17-old-rpscrape-columns/results.csv")
    assert velo("ingest", "raceform", path, "--json", home=home).document["warnings"] == {}
    (result,) = records(home)
    assert (result["race_name"], result["handicap"], result["surface"]) == ("Alpha Handicap", True, "AW")
