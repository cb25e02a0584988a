"""The shared cases of the importers give the values their READMEs expect: small files that once came out wrong."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli import velo
from tests.shared import shared_file


def records(home: Path, kind: str = "result") -> list[dict[str, Any]]:
    """The log's records of a type, in its order."""
    lines = (line for part in sorted(home.glob("log/*.ndjson")) for line in part.read_bytes().splitlines())
    return [record for line in lines if (record := orjson.loads(line))["type"] == kind]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_case_14_a_zip_archive_is_told_to_be_one(home: Path) -> None:
    path = shared_file("cases/14-zip-message/results.zip")
    velo("ingest", "raceform", path, home=home).told(str(path), "is a zip archive", "unpack it")


def test_case_18_lengths_are_read_as_printed(home: Path) -> None:
    ran = velo("ingest", "raceform", shared_file("cases/18-lengths-as-printed/results.csv"), "--json", home=home)
    assert ran.document["warnings"] == {}
    (result,) = records(home)
    assert [runner["beaten_lengths"] for runner in result["runners"]] == [0, 0.5, 1.25, 0.4, 0.4, 2]
