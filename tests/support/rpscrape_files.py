"""Racecards as rpscrape writes them, for tests."""

import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from velo.racing.messages import Racecard
from velo.settings import KeyPolicy, Settings
from velo.storage.store import Store
from velo.streams.importers.declare import ParsedCards
from velo.streams.importers.sources.rpscrape_cards import read_rpscrape_cards

RUNNER = {
    "name": "Plain Sailing",
    "region": "IRE",
    "horse_id": 1001,
    "number": 4,
    "draw": 2,
    "jockey": "A Rider",
    "jockey_id": 2001,
    "trainer": "B Trainer",
    "trainer_id": 3001,
    "age": 4,
    "sex": None,
    "sex_code": "G",
    "lbs": 129,
    "ofr": 92,
    "headgear": "tp",
    "rpr": 101,
    "ts": None,
    "non_runner": False,
    "reserve": False,
    "medical": [],
}
OTHER = RUNNER | {
    "name": "Second Thoughts", "region": "GB", "horse_id": 1002, "number": 1, "draw": 1,
    "jockey": "D Rider", "jockey_id": 2002,
}  # fmt: skip
RACE = {
    "course": "Sandown",
    "course_id": 52,
    "date": "2026-07-04",
    "distance": "1m1f209y",
    "distance_y": 2189,
    "going": "Good To Firm",
    "handicap": True,
    "off_time": "15:35",
    "race_class": 2,
    "race_id": 733000,
    "race_name": "Coral Summer Stakes",
    "race_type": "Flat",
    "rating_band": "0-105",
    "region": "GB",
    "surface": "Turf",
}


def a_store(folder: Path, zone: str = "Europe/London", keys: KeyPolicy | None = None) -> Store:
    return Store.open(Settings(home=folder / "home", timezone=ZoneInfo(zone), keys=keys, redis_url=None))


def a_race(*runners: Any, **changed: Any) -> dict[str, Any]:
    return RACE | changed | {"runners": list(runners or (RUNNER, OTHER))}


def a_file(folder: Path, *races: Any, region: str = "GB", course: str = "Sandown") -> Path:
    """Races in rpscrape's tree, the off of each as its key."""
    path = folder / "cards.json"
    offs = {str((race or {}).get("off_time") if isinstance(race, dict) else at): race for at, race in enumerate(races)}
    assert len(offs) == len(races)
    path.write_text(json.dumps({region: {course: offs}}))
    return path


def read(store: Store, folder: Path, *races: Any, **place: str) -> ParsedCards:
    return read_rpscrape_cards([a_file(folder, *races, **place)], store)


def only(parsed: ParsedCards) -> Racecard:
    assert [refusal.detail for refusal in parsed.refused] == []
    (card,) = parsed.messages
    return card
