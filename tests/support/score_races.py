"""Two races to come after a made-up season, one of known horses and a debutant, one of strangers abroad; and a score made by hand."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from tests.support.seasons import a_card, opened
from velo.racing.cards import Declared, decision_time, declared_at
from velo.racing.messages import Market, NonRunner, Race, Runner
from velo.serving.scoring.race_messages import messages_of_race
from velo.serving.scoring.scored import ScoredRace, ScoredRunner
from velo.storage.store import Store

LEAD = timedelta(minutes=5)
OFF = datetime(2023, 6, 1, 14, 0, tzinfo=UTC)
NOW = OFF - timedelta(hours=1)
SCORED_AT = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
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


def a_score(
    race_id: str = "R",
    scored_at: datetime = SCORED_AT,
    as_of: datetime = SCORED_AT,
    fingerprint: str = "f",
    model: str = "m",
) -> ScoredRace:
    """The score of a race of one horse."""
    runner = ScoredRunner(
        runner_no=1, draw=1, horse_id="h", horse="H", jockey="J", trainer="T", probability=1.0, fair_odds=1.0,
        blended=None, market_odds=None, market_source=None, drivers=(), missing=(), stale=(), jockey_id=None, trainer_id=None,
        interval=None, blended_interval=None, place=None, each_way=None, figures=None, moves=None, unknown_moves=None,
    )  # fmt: skip
    return ScoredRace(
        race_id=race_id, race_name=None, course="Ascot", going=None, distance_m=None, off_time=SCORED_AT, as_of=as_of,
        scored_at=scored_at, declared_by="racecard", features_from="redis", odds_known_at=None, model=model, gate="g",
        mode="paper", fingerprint=fingerprint, missing=(), stale=(), runners=(runner,), withdrawn=(), notes=(),
    )  # fmt: skip
