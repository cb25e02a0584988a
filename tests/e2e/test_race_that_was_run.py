"""A race that was run is never scored from today's features: they know its result. The log decides, not the card in Redis."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import velo
from tests.support.desks import RACE as RACE_PAGE
from tests.support.desks import ROWS, page_of, served, shows_live
from tests.support.made_once import copied
from tests.support.race_days import Day, a_day
from tests.support.seasons import BUILT_AT, opened
from tests.support.services import (
    NOW,
    OFF,
    RACE,
    RUNNERS,
    SCORE,
    a_client,
    a_service,
    posted,
    refused,
    registered,
    tell,
)
from velo.feature_repo.stores.embedded_redis import down, ensure
from velo.feature_repo.stores.race_cards import race_key
from velo.racing.messages import Message, Racecard, Result, Runner
from velo.serving.api.service import Service
from velo.serving.scoring.redis_reader import Answers, ReadRequest, RedisReader
from velo.serving.scoring.score_audit import DAMAGED, FUTURE, LEAK, NOT_REPRODUCIBLE, audit_scores
from velo.serving.scoring.score_log import ScoreLog
from velo.serving.scoring.scored import scored_race
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LEAD = timedelta(minutes=5)
SECOND = timedelta(seconds=1)


@pytest.fixture
def store(streamed_folder: Path, tmp_path: Path) -> Iterator[Store]:
    """A store for one test alone, with a Redis of its own that holds what a stream filled it with."""
    made = registered(copied(streamed_folder, tmp_path / "home"))
    ensure(made.home)
    yield made
    down(made.home)


def ran(status: str = "FINISHED") -> tuple[Runner, ...]:
    """The declared runners but the one withdrawn, in the order of their numbers."""
    field = [runner for runner in RUNNERS if runner.horse_id != "horse 7"]
    places = [at + 1 if status == "FINISHED" else None for at in range(len(field))]
    return tuple(
        replace(runner, status=status, position=at, sp_decimal=4.0) for runner, at in zip(field, places, strict=True)
    )


FIRST = Result(RACE, ran())
TURNED = Result(RACE, tuple(replace(race, position=8 - (race.position or 0)) for race in ran()), 2)
VOID = Result(RACE, ran("VOID"), 2)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def is_of_the_decision_time(answer: Any, decided: datetime, fingerprint: str) -> None:
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert report["features_from"] == "offline history"
    assert datetime.fromisoformat(report["as_of"]) == decided
    assert report["fingerprint"] == fingerprint
    assert any("scored as of its decision time" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("minutes", "messages", "decided"),
    [
        pytest.param(10, [FIRST], OFF - LEAD, id="late"),
        pytest.param(-20, [FIRST], OFF - timedelta(minutes=25), id="before its scheduled off"),
        pytest.param(10, [FIRST, TURNED], OFF - LEAD, id="amended"),
        pytest.param(10, [FIRST, VOID], OFF - LEAD, id="void"),
        pytest.param(10, [TURNED], OFF - LEAD, id="the second version alone"),
    ],
)
def test_the_first_answer_after_a_result_and_every_later_one_is_that_of_the_decision_time(
    store: Store, minutes: int, messages: list[Message], decided: datetime
) -> None:
    """Asked before, so that the service has the race at hand without its result, as a desk that is open has."""
    clock = Clock(NOW)
    client = a_client(a_service(store, clock))
    before = client.get(SCORE).json()
    assert before["features_from"] == "redis"
    for at, message in enumerate(messages):
        clock.now = OFF + timedelta(minutes=minutes + at)
        tell(store, message, at=clock.now)
        for _ in range(2):
            clock.now += SECOND
            is_of_the_decision_time(client.get(SCORE), decided, before["fingerprint"])
    is_of_the_decision_time(a_client(a_service(store, clock)).get(SCORE), decided, before["fingerprint"])


def test_a_request_that_began_before_the_result_and_one_by_a_clock_that_is_behind_do_not_see_it(store: Store) -> None:
    """The result is known at an instant after the request's own: it is a race that was run all the same."""
    before = a_client(a_service(store)).get(SCORE).json()
    known_at = OFF + timedelta(minutes=10)
    tell(store, FIRST, at=known_at)
    for now in (known_at - timedelta(microseconds=1), known_at - SECOND, OFF):
        is_of_the_decision_time(a_client(a_service(store, Clock(now))).get(SCORE), OFF - LEAD, before["fingerprint"])
    # a clock before the decision time cannot give its score: that would be of an instant to come
    refused(a_client(a_service(store, Clock(OFF - LEAD - SECOND))).get(SCORE), 503, "ahead of this machine's")


@pytest.mark.parametrize("ask", ["by its id", "as a card"])
def test_a_request_that_is_held_up_before_each_read_takes_what_became_known_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """Each read waits while a result of the same horses becomes known: that value is not ahead of the clock."""
    clock = Clock(NOW)
    service = a_service(store, clock)
    service.scorer.online.redis.deadline.seconds = 120.0
    real, known = RedisReader.ask, list[datetime]()

    def held_up(reader: RedisReader, request: ReadRequest) -> Answers:
        clock.now += timedelta(minutes=1)
        known.append(clock.now)
        tell(store, Result(replace(RACE, race_id=f"other {len(known)}"), ran()), at=clock.now)
        return real(reader, request)

    monkeypatch.setattr(RedisReader, "ask", held_up)
    client = a_client(service)
    answer = client.get(SCORE) if ask == "by its id" else client.post("/v1/score", json=posted(race_id="a card"))
    assert answer.status_code == 200, answer.text
    score = answer.json()
    assert known == [NOW + timedelta(minutes=1)], "one read is enough"
    assert datetime.fromisoformat(score["as_of"]) == datetime.fromisoformat(score["scored_at"]) == known[0]
    monkeypatch.undo()
    assert client.get(SCORE).json()["fingerprint"] == score["fingerprint"] or ask == "as a card"


@pytest.mark.parametrize("how", ["gone", "as it was", "never written"])
def test_a_card_in_redis_that_lacks_the_result_has_nobody_score_on_it(store: Store, how: str) -> None:
    """Rows of the result and a card without it: whatever step wrote the one and not the other, the log has both."""
    service = a_service(store, Clock(OFF + timedelta(minutes=11)))
    redis: Any = service.scorer.online.redis.client
    asked: Callable[[Service], Any] = lambda of: a_client(of).get(SCORE)  # noqa: E731
    before = asked(a_service(store)).json()
    card = redis.dump(race_key("to come"))
    tell(store, FIRST, at=OFF + timedelta(minutes=10))
    redis.delete(race_key("to come"))
    if how == "as it was":
        redis.restore(race_key("to come"), 0, card)
    elif how == "never written":
        redis.restore(race_key("to come"), 0, card)
        asked(service)
    for each in (service, a_service(store, Clock(OFF + timedelta(minutes=12)))):
        is_of_the_decision_time(asked(each), OFF - LEAD, before["fingerprint"])


def test_a_result_in_the_log_alone_counts_before_any_stream_has_seen_it(store: Store) -> None:
    clock = Clock(OFF - timedelta(minutes=1))
    client = a_client(a_service(store, clock))
    before = client.get(SCORE).json()
    assert before["features_from"] == "redis"
    with LogWriter.open(store, clock=clock) as writer:
        writer.append(FIRST)
    clock.now += SECOND
    is_of_the_decision_time(client.get(SCORE), OFF - timedelta(minutes=6), before["fingerprint"])


def test_an_instant_at_or_past_the_first_result_is_refused_and_one_before_is_not(store: Store) -> None:
    known_at = OFF + timedelta(minutes=10)
    tell(store, FIRST, at=known_at)
    client = a_client(a_service(store, Clock(known_at + SECOND)))
    for late in (known_at, known_at + SECOND):
        answer = client.get(SCORE, params={"as_of": late.isoformat()})
        refused(answer, 422, "not before the first result of race 'to come'", "leave as_of out")
    before = client.get(SCORE, params={"as_of": OFF.isoformat()})
    assert before.status_code == 200
    assert datetime.fromisoformat(before.json()["as_of"]) == OFF
    card = client.post("/v1/score", json=posted(race_id="to come"))
    refused(card, 422, "race 'to come' has been run")


def test_an_answer_is_never_of_an_instant_to_come(store: Store) -> None:
    """The stores reach to an instant after the request's: all that was known by then is read, or it is refused."""
    other = replace(RACE, race_id="other")
    tell(store, Result(other, ran()), at=OFF + timedelta(minutes=20))
    client = a_client(a_service(store, Clock(OFF + timedelta(minutes=15))))
    card = posted(race_id="nobody's")
    refused(client.post("/v1/score", json=card), 503, "after this machine's clock", "set this machine's clock")
    strangers = [{**runner, "horse_id": f"stranger {n}"} for n, runner in enumerate(card["runners"])]
    for stranger in strangers:
        stranger |= {"jockey_id": "nobody", "trainer_id": "nobody"}
    strangers[0] |= {"jockey_id": "jockey 0"}
    answer = client.post("/v1/score", json=card | {"runners": strangers, "course": "Ripon"})
    assert answer.status_code == 200, answer.text
    assert datetime.fromisoformat(answer.json()["as_of"]) == OFF + timedelta(minutes=15)


def test_a_race_polled_through_its_result_beside_a_stream_is_never_scored_with_the_result(store: Store) -> None:
    """Late, early, amended and void, every 20 ms and without a pause between; `velo bench poll` does it for ten minutes."""
    races = {
        kind: replace(RACE, race_id=kind, off_time=OFF + timedelta(hours=number))
        for number, kind in enumerate(("late", "early", "amended", "void"))
    }
    minutes = {"late": [10], "early": [-20], "amended": [9, 12], "void": [9, 12]}
    versions = {"amended": TURNED, "void": VOID}
    answers: list[tuple[str, str, int, Any]] = []
    at: dict[str, Any] = {"race": "", "told": 0}
    over = threading.Event()
    with a_day(store, NOW) as day:
        client = a_client(a_service(store, lambda: day.now))

        def poll() -> None:
            while not over.wait(0.02):
                race_id, found = at["race"], at["told"]
                if race_id:
                    answer = client.get(f"/v1/races/{race_id}/score")
                    answers.append((race_id, str(day.now), found, answer))

        def seen(race_id: str, said: int) -> bool:
            return any((of, then, answer.status_code) == (race_id, said, 200) for of, _, then, answer in answers)

        polling = threading.Thread(target=poll)
        polling.start()
        try:
            for kind, race in races.items():
                day.tell(Racecard(race, RUNNERS), race.off_time - timedelta(minutes=40))
                at |= {"race": kind, "told": 0}
                until(day, partial(seen, kind, 0))
                results = [replace(each, race=race) for each in (FIRST, versions.get(kind)) if each is not None]
                for result, after in zip(results, minutes[kind], strict=True):
                    other = replace(race, race_id=f"beside {kind} {after}", race_no=None)
                    day.tell(Result(other, ran()), race.off_time + timedelta(minutes=after - 1))
                    day.tell(result, race.off_time + timedelta(minutes=after))
                    at["told"] += 1
                    until(day, partial(seen, kind, at["told"]))
        finally:
            over.set()
            polling.join()
    build(store, BUILT_AT)
    scorer = a_service(opened(store.home.root)).scorer
    for kind, race in races.items():
        known_at = race.off_time + timedelta(minutes=minutes[kind][0])
        decided = min(race.off_time, known_at) - LEAD
        then = scorer.score(kind, BUILT_AT, decided, with_drivers=False)
        mine = [(found, each.json()) for of, _, found, each in answers if of == kind and each.status_code == 200]
        for found, answer in mine:
            assert datetime.fromisoformat(answer["as_of"]) < known_at, kind
            if found:
                assert (datetime.fromisoformat(answer["as_of"]), answer["fingerprint"]) == (decided, then.fingerprint)
        assert {given for given, _ in mine} >= set(range(1, len(minutes[kind]) + 1)), "answered after each version"
    assert {each.status_code for *_, each in answers} <= {200, 404, 503}
    report = audit_scores(scorer, BUILT_AT)
    assert (report.found, report.later) == (0, 0), report.differences


def until(day: Day, done: Callable[[], bool]) -> None:
    """Wait for what another thread does while the day goes on: a stream says by its clock how far it has sealed."""
    deadline = time.monotonic() + 60.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
        day.now += timedelta(milliseconds=20)


def test_the_audit_distinguishes_a_leak_a_score_of_the_future_and_one_not_made_again(store: Store) -> None:
    """Each written as an earlier version served it: the leak is made again to the last bit, and is one all the same."""
    known_at = OFF + timedelta(minutes=10)
    scorer, keep = a_service(store).scorer, ScoreLog(store.home)
    good = scorer.score("to come", NOW)
    tell(store, FIRST, at=known_at)
    model = scorer.bundles.current()
    past = known_at + SECOND
    keep(good)
    keep(replace(scorer.score("to come", past), scored_at=past))
    keep(scored_race(model, scorer.history.snapshot(scorer.history.messages("to come").messages, known_at), past))
    keep(replace(good, scored_at=good.as_of - SECOND))
    keep(replace(good, fingerprint="0" * 32))
    keep(replace(good, as_of=past, scored_at=known_at))
    keep.close()
    report = audit_scores(a_service(opened(store.home.root)).scorer, past)
    assert (report.scores, report.same, report.later) == (6, 2, 0)
    assert report.kinds == {LEAK: 2, FUTURE: 2, NOT_REPRODUCIBLE: 2, DAMAGED: 0}
    assert report.found == 6
    by_line = [(difference.where.partition(":")[2], difference.kind) for difference in report.differences]
    assert by_line == [
        ("3", LEAK),
        ("4", FUTURE),
        ("5", NOT_REPRODUCIBLE),
        ("6", LEAK),
        ("6", FUTURE),
        ("6", NOT_REPRODUCIBLE),
    ]
    said = velo("audit", "--scores", home=store.home.root)
    assert said.code == 1
    for words in ("leak", "its race's first result was known at 2023-06-01T14:10:00", "future", "not reproducible"):
        assert words in said.out


def test_the_desk_says_of_a_race_that_was_run_what_instant_its_chances_are_of(browser: "Browser", store: Store) -> None:
    """While the service refuses, the page still shows the chances from before: it does not call them the decision time's."""
    with served(store) as desk, page_of(browser, desk, RACE_PAGE) as page:
        page.wait_for_selector(ROWS)
        shows_live(page)
        page.route(
            "**/score?**", lambda route: route.fulfill(status=503, json={"title": "", "status": 503, "detail": "soon"})
        )
        tell(store, FIRST, at=desk.clock())
        notice = page.locator("ul.notices li")
        notice.filter(has_text="these chances are of").wait_for(timeout=20_000)
        assert "before its result" in notice.first.inner_text()
        assert page.get_by_text("these are the chances of its decision time").count() == 0
        page.unroute("**/score?**")
        notice.filter(has_text="these are the chances of its decision time").wait_for(timeout=20_000)
        assert page.get_by_text("before its result").count() == 0
