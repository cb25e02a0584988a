"""What a day brings the service: a Redis that stops in the middle of it, results amended, a model that failed its gate."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from tests.support.cli import velo
from tests.support.seasons import BUILT_AT, opened
from tests.support.services import (
    NOW,
    OFF,
    RUNNERS,
    SCORE,
    a_client,
    a_hurried_service,
    a_service,
    in_a_quarter_of_a_second,
    refused,
    tell,
)
from velo.racing.messages import JockeyChange, Market, NonRunner, Result
from velo.serving.api.schemas import Day
from velo.serving.paper_trading.trader import trader_of
from velo.serving.scoring.render import race_card
from velo.serving.scoring.score_audit import audit_scores
from velo.serving.scoring.scored import ScoredRace
from velo.storage.log import reader
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.training import bundle
from velo.training.registry import bundle_writing


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


class Clock:
    """The time of one day, which its tests share: messages are known at it, so it never goes back."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@contextmanager
def stopped(store: Store) -> Iterator[None]:
    """The store's own Redis, as a machine leaves it that has no time for it: it is there, and says nothing."""
    redis: Any = a_service(store).scorer.online.redis.client
    process = int(redis.info("server")["process_id"])
    redis.close()
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_redis_that_stops_is_said_within_a_quarter_of_a_second_and_once_it_goes_on_so_does_the_service(
    store: Store, clock: Clock
) -> None:
    """Over connections that were just answered on, and those made while it stands still."""
    client = a_client(a_hurried_service(store, clock))
    before = client.get(SCORE).json()
    with stopped(store):
        for path in (SCORE, "/v1/races", "/v1/races/to%20come", SCORE):

            def ask(path: str = path) -> None:
                refused(client.get(path), 503, "does not answer")

            in_a_quarter_of_a_second(ask)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert client.get("/healthz").status_code == 200
    until = time.monotonic() + 10.0
    while (after := client.get(SCORE)).status_code != 200:
        assert time.monotonic() < until, after.text
    assert after.json()["fingerprint"] == before["fingerprint"]


def test_scores_served_before_and_after_results_are_amended_are_all_made_again(store: Store, clock: Clock) -> None:
    """An amendment changes what horses of a race to come have done: what was served before it stays what was known then."""
    client = a_client(a_service(store, clock))
    ran = [each for _, each in reader.messages(store.home) if isinstance(each, Result)]
    horses = {runner.horse_id for runner in RUNNERS}
    last = max(
        (race for race in ran if horses & {each.horse_id for each in race.runners}), key=lambda each: each.race.off_time
    )
    starters = len([runner for runner in last.runners if runner.started])
    turned = tuple(
        replace(runner, position=starters + 1 - runner.position) if runner.position else runner
        for runner in last.runners
    )
    first = last.result_version + 1
    served = []
    for message in (
        None,
        replace(last, result_version=first, runners=turned, known_at=None),
        Market("to come", {"horse 1": 4.0, "horse 2": 6.5}, "show"),
        replace(last, result_version=first + 1, known_at=None),
        NonRunner("to come", "horse 5", "lame"),
        JockeyChange("to come", "horse 2", "jockey 7", "Jockey 7"),
    ):
        clock.now += timedelta(minutes=1)
        if message is not None:
            tell(store, message, at=clock.now)
        answer = client.get(SCORE)
        assert answer.status_code == 200, answer.text
        served.append(answer.json()["fingerprint"])
    assert served[1] != served[0], "the amendment reached a horse of the race"
    assert served[2] == served[1], "odds are no feature"
    assert served[3] == served[0], "the second amendment takes back the first"
    assert len({*served[3:]}) == 3
    build(store, BUILT_AT)
    fresh = opened(store.home.root)
    report = audit_scores(a_service(fresh).scorer, OFF + timedelta(hours=3))
    assert (report.found, report.later) == (0, 0), report.differences
    assert report.scores == report.same >= 6


@pytest.mark.parametrize(
    ("verdict", "mode"),
    [("FAIL", bundle.PAPER), ("NOT ENOUGH DATA", bundle.PAPER), ("PASS", bundle_writing.PASSED_MODE)],
)
def test_what_the_gate_said_of_a_model_is_said_wherever_its_chances_are(
    store: Store, clock: Clock, verdict: str, mode: str
) -> None:
    """Day, score, card of the terminal, JSON of the command, paper trader; the desk and its paper have tests of their own."""
    version = bundle.current(store.home)
    gate = store.home.models / version / bundle.GATE
    bundle_writing.judged(store.home, version, verdict, {})
    try:
        client = a_client(a_service(store, clock))
        day = Day.model_validate_json(client.get("/v1/races").content)
        assert day.model is not None
        assert (day.model.gate, day.model.mode) == (verdict, mode)
        scored = TypeAdapter(ScoredRace).validate_json(client.get(SCORE).content)
        assert (scored.gate, scored.mode) == (verdict, mode)
        posted = client.post("/v1/score", json=a_posted_card()).json()
        assert (posted["gate"], posted["mode"]) == (verdict, mode)
        console = Console(width=200, record=True, file=StringIO())
        console.print(race_card(a_service(store).scorer.score("to come", clock.now)))
        assert f"gate: {verdict} · {mode}" in console.export_text()
        *_, run = (message.race_id for _, message in reader.messages(store.home) if isinstance(message, Result))
        report = velo("score", run, "--json", home=store.home.root).document
        assert (report["gate"], report["mode"]) == (verdict, mode)
        assert trader_of(store.home).mode == mode
    finally:
        gate.unlink()


def a_posted_card() -> dict[str, Any]:
    runners = [{"horse_id": runner.horse_id, "trainer_id": runner.trainer_id} for runner in RUNNERS]
    return {"race_date": "2023-06-01", "off_time": OFF.isoformat(), "course": "Ascot", "runners": runners}
