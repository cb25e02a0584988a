"""A service for tests: a season, a race to come, a small model, everything streamed; and the app over it."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi.testclient import TestClient

from tests.support.seasons import BUILT_AT, a_card, a_season, opened
from tests.support.streaming import streamed
from velo.commands.serve import service_of
from velo.feature_repo import feast_store
from velo.feature_repo.stores import embedded_redis
from velo.racing.messages import Market, Message, NonRunner, Race, Runner
from velo.serving.api.app import app_of
from velo.serving.api.service import Service
from velo.serving.scoring.request_deadline import DEADLINE_S
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.training.model.trees import ModelOptions
from velo.training.train import train

OFF = datetime(2023, 6, 1, 14, 0, tzinfo=UTC)
NOW = OFF - timedelta(hours=1)
RACE = Race("to come", date(2023, 6, 1), OFF, "Ascot", race_class=3, surface="Turf", going="Soft", distance_m=1609.0)
SCORE = "/v1/races/to%20come/score"
ODDS = "/v1/races/to%20come/odds"
TOKEN = "a token"
PATIENCE_S = 5.0
HOSTILE = "<img src=x onerror=alert(1)>\u202eJ. O'Key"
"""A name that breaks whatever takes it for more than text."""
WRITES = {"Authorization": f"Bearer {TOKEN}"}


def entered(n: int) -> Runner:
    return Runner(
        f"horse {n}", f"Horse {n}", runner_no=n, draw=n, jockey_id=f"jockey {n % 9}", trainer_id=f"trainer {n % 9}",
        weight_lbs=126.0 + n, official_rating=60 + n, body_weight_lbs=1000.0 + 10 * n,
    )  # fmt: skip


RUNNERS = tuple(entered(n) for n in range(1, 9))
STORY: tuple[Message, ...] = (
    a_card(RACE, RUNNERS, OFF - timedelta(hours=5)),
    Market("to come", {f"horse {n}": 12.0 - n for n in range(1, 9)}, "show", OFF - timedelta(hours=2, minutes=10)),
    Market("to come", {f"horse {n}": 4.0 + n for n in range(1, 7)}, "show", OFF - timedelta(hours=2)),
    Market("to come", {f"horse {n}": 3.0 + n for n in range(1, 9)}, "show", OFF - timedelta(hours=1, minutes=40)),
    NonRunner("to come", "horse 7", "lame", OFF - timedelta(hours=1, minutes=30)),
)


def a_streamed_store(home: Path) -> None:
    """Make both stores as a stream leaves them, the tables built, a model trained; its Redis is stopped."""
    store = opened(home).save()
    with LogWriter.open(store, clock=lambda: BUILT_AT) as writer:
        writer.load([*a_season(88), *STORY])
    streamed(store, online=True, clock=lambda: NOW)
    build(store, BUILT_AT)
    store = opened(home)
    few = ModelOptions(rounds=20, leaves=6, threads=1)
    train(store, now=BUILT_AT, model=few, validate_from=date(2023, 4, 23), test_from=date(2023, 5, 11))
    embedded_redis.down(store.home)


def registered(home: Path) -> Store:
    """The store at a copied home, its tables registered with Feast again."""
    store = opened(home)
    feast_store.apply(store)
    return store


def a_service(store: Store, clock: Callable[[], datetime] = lambda: NOW) -> Service:
    """A service that waits 5 s for Redis: on a busy machine 200 ms may pass without an answer."""
    service = a_hurried_service(store, clock)
    service.scorer.online.redis.deadline.seconds = PATIENCE_S
    return service


def a_hurried_service(store: Store, clock: Callable[[], datetime] = lambda: NOW) -> Service:
    """A service with the deadline that it has in use."""
    return service_of(store, clock=clock)


def a_client(service: Service, token: str | None = TOKEN) -> TestClient:
    return TestClient(app_of(service, token), base_url="http://localhost", raise_server_exceptions=False)


def posted(**changed: Any) -> dict[str, Any]:
    """The race to come as a card that is posted."""
    runners = [
        {name: getattr(runner, name) for name in ("horse_id", "jockey_id", "trainer_id", "draw", "weight_lbs")}
        for runner in RUNNERS
    ]
    race = {"race_date": "2023-06-01", "off_time": OFF.isoformat(), "course": "Ascot", "surface": "Turf"}
    return race | {"going": "Soft", "distance_m": 1609.0, "runners": runners} | changed


def refused(answer: Any, status: int, *words: str) -> None:
    """A refusal is one line of JSON with its status and these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "\n" not in answer.text
    problem = answer.json()
    assert problem.keys() == {"title", "status", "detail"}
    assert problem["status"] == status
    for word in words:
        assert word in problem["detail"], problem


def in_a_quarter_of_a_second(ask: Callable[[], object], tries: int = 20) -> None:
    """Asking waits for the online store no longer than its deadline.

    The quickest of the tries counts: a busy machine adds to some, a longer wait to all.
    """
    assert DEADLINE_S < 0.25
    quickest = inf
    for _ in range(tries):
        begun = monotonic()
        ask()
        quickest = min(quickest, monotonic() - begun)
        if quickest < 0.25:
            return
    raise AssertionError(f"the quickest of {tries} took {quickest:.3f} s")


def tell(store: Store, *messages: Message, at: datetime = NOW) -> None:
    """Messages into the log, and through the stream."""
    with LogWriter.open(store, clock=lambda: at) as writer:
        for message in messages:
            writer.append(message)
    streamed(store, online=True, clock=lambda: at)
