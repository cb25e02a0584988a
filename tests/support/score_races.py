"""Two races to come after a made-up season: one of known horses and a debutant, one of strangers abroad."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from tests.support.seasons import a_card, opened
from velo.racing.cards import Declared, decision_time, declared_at
from velo.racing.messages import Market, NonRunner, Race, Runner
from velo.serving.scoring.race_messages import messages_of_race
from velo.storage.store import Store

LEAD = timedelta(minutes=5)
OFF = datetime(2023, 6, 1, 14, 0, tzinfo=UTC)
NOW = OFF - timedelta(hours=1)
TO_COME = Race("to come", date(2023, 6, 1), OFF, "Ascot", race_class=3, surface="Turf", going="Soft", distance_m=1609.0)


def entered(n: int, horse: str | None = None) -> Runner:
    return Runner(
        horse or f"horse {n}", f"Horse {n}", runner_no=n, draw=n, jockey_id=f"jockey {n}", trainer_id=f"trainer {n}",
        weight_lbs=126.0 + n, official_rating=60 + n, body_weight_lbs=1000.0 + 10 * n,
    )  # fmt: skip


RUNNERS = (*(entered(n) for n in range(1, 8)), entered(8, "a debutant"))
ABROAD = Race("abroad", date(2023, 6, 1), OFF, "Deauville", surface="Turf", going="Soft", distance_m=1609.0)
STRANGERS = tuple(
    Runner(f"stranger {n}", f"Stranger {n}", n, n, f"rider {n}", f"Rider {n}", "nobody", "Nobody") for n in range(1, 4)
)
AFTER = (
    a_card(ABROAD, STRANGERS, OFF - timedelta(hours=6)),
    a_card(TO_COME, RUNNERS, OFF - timedelta(hours=5)),
    Market("to come", {"horse 1": 3.5, "horse 2": 1.0}, "show", OFF - timedelta(hours=2)),
    NonRunner("to come", "horse 7", "lame", OFF - timedelta(hours=1, minutes=30)),
)


def a_copy(store: Store, folder: Path) -> Store:
    """The same store in another home, its Redis left out."""
    shutil.copytree(store.home.root, folder / "home", symlinks=True, ignore=shutil.ignore_patterns("redis"))
    return opened(folder / "home")


def stood(store: Store, race_id: str, instant: datetime | None = None) -> Declared:
    messages = messages_of_race(store.home, race_id).messages
    at = instant or decision_time(messages, LEAD)
    assert at is not None
    race = declared_at(messages, at)
    assert race is not None
    return race
