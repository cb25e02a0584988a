"""Cards in Redis: a message takes its place once, whoever sends it, and a Redis that forgot gets it again."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from tests.support.seasons import BUILT_AT, a_season, opened
from tests.support.streaming import streamed
from velo.feature_repo.stores.embedded_redis import down
from velo.feature_repo.stores.race_cards import KEEP, RaceCards, RaceUpdate
from velo.feature_repo.stores.redis_client import connect
from velo.racing.cards import Declared, declared_at, odds_at
from velo.racing.going import draw_cell
from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Result,
    Runner,
    to_record,
)
from velo.storage.log.reader import messages
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.cards_sink import fill

OFF = datetime(2023, 6, 1, 14, 0, tzinfo=UTC)
NOW = OFF - timedelta(hours=1)
TO_COME = Race("R1", date(2023, 6, 1), OFF, "Ascot", surface="Turf", going="Good", distance_m=1609.0)
RUNNERS = tuple(Runner(f"horse {n}", runner_no=n, draw=n, jockey_id=f"jockey {n}", trainer_id="T") for n in range(1, 7))


def instant(after: timedelta) -> datetime:
    return OFF - timedelta(hours=5) + after


STORY: tuple[Message, ...] = (
    Racecard(TO_COME, RUNNERS, instant(timedelta())),
    Market("R1", {"horse 1": 3.5}, "show", instant(timedelta(minutes=1))),
    NonRunner("R1", "horse 6", "lame", instant(timedelta(minutes=2))),
    JockeyChange("R1", "horse 2", "jockey 9", "Jockey 9", instant(timedelta(minutes=3))),
    GoingChange("R1", "Soft", instant(timedelta(minutes=4))),
    Market("R1", {"horse 1": 4.5, "horse 2": 2.0}, "show", instant(timedelta(minutes=5))),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = opened(tmp_path / "home").save()
    with LogWriter.open(made, clock=lambda: BUILT_AT) as writer:
        writer.load([*a_season(9), *STORY])
    yield made
    down(made.home)


def cards_of(store: Store) -> RaceCards:
    return RaceCards(connect(store.home))


def now_live(store: Store, *more: Message, at: datetime = NOW) -> None:
    with LogWriter.open(store, clock=lambda: at) as writer:
        for each in more:
            writer.append(each)
    streamed(store, online=True, clock=lambda: at)


def test_the_stream_keeps_a_race_as_the_log_has_it(store: Store) -> None:
    """The card in Redis is that of all the race's messages of the log, with its odds and those that they are compared with."""
    now_live(store)
    kept = cards_of(store).race("R1")
    assert kept is not None
    from_log = [message for _, message in messages(store.home) if message.race_id == "R1"]
    assert declared_at(kept.messages, NOW) == declared_at(from_log, NOW)
    assert len(kept.messages) == len(from_log)
    assert cards_of(store).races(NOW, OFF + timedelta(hours=1)) == ["R1"]


def test_of_many_snapshots_redis_keeps_the_few_that_the_odds_and_their_drift_need(store: Store) -> None:
    """One every 20 seconds for three hours, of two sources: the same odds at any later instant, from one a minute for an hour."""
    cards = cards_of(store)
    shown = [
        Market(
            "R1",
            {"horse 1": 2.0 + number, "horse 2": 3.0},
            "tote" if number % 3 else "to:te",
            instant(timedelta(seconds=20 * number)),
        )
        for number in range(540)
    ]
    offers = [
        RaceUpdate(
            100 + at,
            "market",
            "R1",
            instant(timedelta(seconds=20 * at)),
            orjson.dumps(to_record(each)),
            source=each.source,
        )
        for at, each in enumerate(shown)
    ]
    card = RaceUpdate(99, "racecard", "R1", instant(timedelta()), orjson.dumps(to_record(STORY[0])), OFF)
    for batch in (offers[:400], offers[300:], offers[350:360]):
        cards.offer(0, [card, *batch], NOW)
    kept = cards.race("R1")
    assert kept is not None
    held = [message for message in kept.messages if isinstance(message, Market)]
    assert len(held) <= 2 * 63
    for seconds in (0, 1, 59, 60, 61, 1800, 3599, 3600, 3661, 7200):
        at = instant(timedelta(seconds=20 * 539 + seconds))
        assert odds_at(kept.messages, at) == odds_at(shown, at), seconds


def test_a_change_follows_and_draw_cells_follow_it(store: Store) -> None:
    """A withdrawal moves the draw thirds, a going change the cell: of everyone left."""
    now_live(store)
    cells: list[str | None] = []
    races: list[Declared] = []
    for change in ((), (GoingChange("R1", "Heavy"),), (NonRunner("R1", "horse 1"), NonRunner("R1", "horse 2"))):
        now_live(store, *change)
        kept = cards_of(store).race("R1")
        race = declared_at(kept.messages, OFF) if kept else None
        assert race is not None
        races.append(race)
        cells.append(race.entity_keys()[-1]["draw_cell"])
        assert race.entity_keys()[0]["going_group"] == "soft"
    assert cells == [draw_cell("Ascot", "Turf", 1609.0, "Soft", 3)] * 3
    assert races[-1].draw_thirds == (1, 2, 3)
    assert [runner.horse_id for runner in races[-1].withdrawn] == ["horse 1", "horse 2", "horse 6"]


def test_sent_again_in_any_order_nothing_changes(store: Store) -> None:
    now_live(store)
    cards = cards_of(store)
    before, events = cards.race("R1"), cards.events("0-0")
    offers = []
    for seq, message in messages(store.home):
        if message.race_id == "R1" and message.known_at is not None:
            off = message.race.off_time if isinstance(message, Racecard | Result) else None
            kind = str(to_record(message)["type"])
            source = message.source if isinstance(message, Market) else None
            offers.append(
                RaceUpdate(seq, kind, "R1", message.known_at, orjson.dumps(to_record(message)), off, source=source)
            )
    assert cards.offer(0, offers[::-1], NOW) == 0
    assert cards.race("R1") == before
    assert cards.events("0-0") == events


def test_events_are_the_live_messages_once_each(store: Store) -> None:
    now_live(store)
    last = cards_of(store).events("0-0")[-1].id
    now_live(store, NonRunner("R1", "horse 5"))
    streamed(store, online=True, clock=lambda: NOW)
    found = cards_of(store).events(last)
    assert [(each.kind, each.race_id) for each in found] == [("non_runner", "R1")]


@pytest.mark.parametrize("how", ["the next stream", "rebuild"])
def test_a_redis_that_forgot_gets_the_open_races_without_a_replay(store: Store, how: str) -> None:
    now_live(store)
    before, head = cards_of(store).race("R1"), cards_of(store).head()
    cards_of(store).clear()
    assert cards_of(store).race("R1") is None
    if how == "rebuild":
        assert fill(store.home, cards_of(store), NOW) == len(STORY)
    else:
        streamed(store, online=True, clock=lambda: NOW)
        assert cards_of(store).head() == head
    assert cards_of(store).race("R1") == before


def test_a_redis_of_an_earlier_form_is_given_the_open_races_again(store: Store) -> None:
    """Then it held the latest card alone, which does not show who was declared before a message came."""
    now_live(store, Racecard(TO_COME, RUNNERS[:5]), Racecard(TO_COME, RUNNERS))
    cards = cards_of(store)
    before = cards.race("R1")
    assert before is not None
    assert sum(isinstance(message, Racecard) for message in before.messages) == 3
    earlier = [name for name in cards.client.hkeys("{velo}:race:R1") if name.startswith(b"c:")]
    cards.client.hdel("{velo}:race:R1", *earlier)
    cards.client.hdel("{velo}:head", "form")
    assert cards.race("R1") != before
    streamed(store, online=True, clock=lambda: NOW)
    after = cards.race("R1")
    assert after is not None
    assert sorted(map(str, after.messages)) == sorted(map(str, before.messages))


def test_what_is_known_of_a_race_without_a_card_waits_for_it_and_is_listed_until_it_comes(store: Store) -> None:
    """At the log's end, and in a Redis that forgot: the card comes and finds it."""
    other = replace(TO_COME, race_id="R9")
    now_live(store, GoingChange("R9", "Heavy"), NonRunner("R9", "horse 1"))
    cards = cards_of(store)
    assert cards.waiting() == ["R9"]
    cards.clear()
    assert fill(store.home, cards, NOW) == len(STORY) + 2
    assert cards.waiting() == ["R9"]
    now_live(store, Racecard(other, RUNNERS))
    assert cards.waiting() == []
    kept = cards.race("R9")
    race = declared_at(kept.messages, OFF) if kept else None
    assert race is not None
    assert (race.race.going, [runner.horse_id for runner in race.withdrawn]) == ("Heavy", ["horse 1"])
    left = cards.client.pttl("{velo}:race:R9") / 1000
    assert left == pytest.approx((KEEP + OFF - NOW).total_seconds(), rel=0.01)


def test_a_stream_that_catches_up_keeps_nothing_of_races_long_run(store: Store) -> None:
    """A season's odds, withdrawals and changes wait for no card: theirs was known, and their off is past."""
    now_live(store)
    cards = cards_of(store)
    assert list(cards.client.scan_iter(match="{velo}:race:*")) == [b"{velo}:race:R1"]
    assert cards.waiting() == []


def test_a_stream_that_takes_over_from_a_build_has_the_open_cards(store: Store) -> None:
    """Nothing of the log is replayed, yet the race to come is there."""
    build(store, BUILT_AT)
    telemetry = streamed(store, online=True, clock=lambda: NOW)
    assert telemetry.registry.get_sample_value("velo_stream_messages_total", {"type": "result"}) is None
    kept = cards_of(store).race("R1")
    assert kept is not None
    assert len(kept.messages) == len(STORY)


def test_races_long_run_are_dropped(store: Store) -> None:
    now_live(store)
    assert cards_of(store).client.pttl("{velo}:race:R1") == pytest.approx(
        (KEEP + OFF - NOW) / timedelta(milliseconds=1), rel=0.01
    )
    later = OFF + timedelta(days=3)
    other = replace(TO_COME, race_id="R2", race_date=later.date(), off_time=later + timedelta(hours=1))
    now_live(store, Racecard(other, RUNNERS), at=later)
    assert cards_of(store).races(NOW, later + timedelta(days=1)) == ["R2"]


def test_a_log_of_another_generation_begins_again(store: Store) -> None:
    now_live(store)
    cards = cards_of(store)
    assert (
        cards.offer(
            1, [RaceUpdate(0, "going_change", "R1", NOW, b'{"type":"going_change","race_id":"R1","going":"Good"}')], NOW
        )
        == 1
    )
    assert cards.races(NOW, OFF + timedelta(hours=1)) == []
    assert cards.offer(0, [RaceUpdate(9999, "going_change", "R1", NOW, b"{}")], NOW) == 0
