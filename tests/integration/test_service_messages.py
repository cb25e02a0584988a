"""Withdrawals and reinstatements that are posted, and what the service answers to messages about nobody."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from tests.support.logs import held
from tests.support.seasons import BUILT_AT
from tests.support.services import (
    NOW,
    RACE,
    RUNNERS,
    SCORE,
    WRITES,
    a_client,
    a_service,
    refused,
    tell,
)
from tests.support.streaming import streamed
from velo.racing.messages import GoingChange, NonRunner, Racecard
from velo.serving.api.schemas import Card, Day
from velo.storage.store import Store
from velo.streams.batch.build import build


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


class Clock:
    """Goes on by a second each time it is read: what is sent now is known to who asks next."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> datetime:
        self.seconds += 1
        return NOW + timedelta(seconds=self.seconds)


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def client(store: Store, clock: Clock) -> TestClient:
    return a_client(a_service(store, clock))


def test_a_withdrawal_that_is_posted_takes_a_horse_out_and_a_reinstatement_puts_it_in(
    store: Store, client: TestClient, clock: Clock
) -> None:
    """Each is on its way at once and in effect when the stream has it; time travel shows all three states."""
    as_of = {}
    for path, body, out in (
        ("withdrawals", {"horse_id": "horse 5", "reason": "lame", "reduction_factor": 20.5}, ["Horse 5", "Horse 7"]),
        ("reinstatements", {"horse_id": "horse 5"}, ["Horse 7"]),
    ):
        as_of[path] = client.get(SCORE).json()
        answer = client.post(f"/v1/races/to%20come/{path}", json=body, headers=WRITES)
        assert (answer.status_code, answer.json()["into"]) == (202, "log")
        streamed(store, online=True, clock=clock)
        scored = client.get(SCORE).json()
        assert sorted(scored["withdrawn"]) == out
        assert sum(runner["probability"] for runner in scored["runners"]) == pytest.approx(1.0, abs=1e-9)
        again = client.post(f"/v1/races/to%20come/{path}", json=body, headers=WRITES)
        assert (again.status_code, again.json()["seq"]) == (202, None), "what stands is not told twice"
    messages = held(store)
    assert [each.reduction_factor for each in messages if isinstance(each, NonRunner)][-1] == 20.5
    build(store, BUILT_AT)
    for before in as_of.values():
        then = client.get(SCORE, params={"as_of": before["as_of"]}).json()
        assert (then["withdrawn"], then["runners"]) == (before["withdrawn"], before["runners"])


@pytest.mark.parametrize("factor", [-0.5, 100, "20.5", True])
def test_a_reduction_factor_that_is_no_percentage_is_refused(client: TestClient, factor: object) -> None:
    body = {"horse_id": "horse 5", "reduction_factor": factor}
    refused(client.post("/v1/races/to%20come/withdrawals", json=body, headers=WRITES), 422, "reduction_factor")


@pytest.mark.parametrize("path", ["withdrawals", "reinstatements"])
def test_a_withdrawal_of_nobody_is_refused_with_the_nearest_name_and_none_is_taken_without_the_token(
    client: TestClient, path: str
) -> None:
    to = f"/v1/races/to%20come/{path}"
    refused(
        client.post(to, json={"horse_id": "hors 5"}, headers=WRITES),
        422,
        "'hors 5'",
        "the nearest declared is 'horse 5'",
    )
    refused(client.post(to, json={"horse_id": "5", "more": 1}, headers=WRITES), 422, "more")
    refused(client.post(to, json={"horse_id": "horse 5"}), 401, "token")
    refused(client.post(f"/v1/races/nope/{path}", json={"horse_id": "a"}, headers=WRITES), 404, "'nope'")


def test_the_day_and_the_race_say_what_is_about_nobody_until_a_card_declares_it(
    store: Store, client: TestClient, clock: Clock
) -> None:
    other = replace(RACE, race_id="to come too")
    tell(store, NonRunner("to come", "hors 5"), GoingChange("to come too", "Heavy"), at=clock())
    day = Day.model_validate_json(client.get("/v1/races").content)
    assert [(report.race_id, report.horses, report.nearest) for report in day.undeclared] == [
        ("to come", ["hors 5"], "horse 5"),
        ("to come too", [], "to come"),
    ]
    card = Card.model_validate_json(client.get("/v1/races/to%20come").content)
    assert [report.horses for report in card.undeclared] == [["hors 5"]]
    tell(store, Racecard(other, RUNNERS), at=clock())
    day = Day.model_validate_json(client.get("/v1/races").content)
    assert [report.race_id for report in day.undeclared] == ["to come"]
    late = Card.model_validate_json(client.get("/v1/races/to%20come%20too").content)
    assert late.going == "Heavy", "what waited for the card took effect with it"
    assert [report.declared_at is None for report in late.undeclared] == [False]
