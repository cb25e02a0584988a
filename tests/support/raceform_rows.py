"""Rows as raceform writes them, for tests."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from velo.racing.messages import Result
from velo.streams.importers.raceform_row import parse_row
from velo.streams.importers.results import Parsed

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
