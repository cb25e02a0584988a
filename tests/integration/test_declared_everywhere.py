"""Who is declared, withdrawn and riding is the same whichever way a race's messages are read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.oracle_declared import Standing, standing_of
from tests.support.seasons import opened
from velo.feature_repo.stores.embedded_redis import down
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.racing.cards import FROM_CARD, decision_time, declared_at, withdrawn_since
from velo.racing.messages import (
    GoingChange,
    JockeyChange,
    Market,
    Message,
    NonRunner,
    Race,
    Racecard,
    Reinstated,
    Result,
    Runner,
    instant_of,
    to_record,
)
from velo.serving.scoring.race_messages import messages_of_race
from velo.storage.log.reader import messages as logged
from velo.storage.log.tail import LogTail
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.batch.build import build
from velo.streams.dataflow.cards_sink import fill, update_of
from velo.streams.unbuilt_log import UnbuiltLog
from velo.training.dataset.entity_rows import declared

OFF = datetime(2024, 5, 1, 14, 0, tzinfo=UTC)
LEAD = timedelta(minutes=5)
NOW = OFF + timedelta(hours=1)
HORSES = ("h1", "h2", "h3", "h4")
MINUTES = st.sampled_from([600, 240, 120, 60, 30, 10, 6, 5, 4, 1, 0, -10])
horses = st.sampled_from(HORSES)
riders = st.sampled_from(["j1", "j2", None])


@st.composite
def a_card(draw: st.DrawFn) -> Racecard:
    off = OFF + timedelta(minutes=draw(st.sampled_from([0, 0, 0, 20, -10])))
    race = Race("R", date(2024, 5, 1), off, "Ayr", going=draw(st.sampled_from(["Good", "Soft", None])))
    field = draw(st.lists(horses, min_size=1, max_size=4, unique=True))
    runners = [
        Runner(runner, jockey_id=draw(riders), trainer_id="t", status=draw(st.sampled_from([None, None, "NR"])))
        for runner in field
    ]
    return Racecard(race, tuple(runners))


NOTICES = st.one_of(
    a_card(),
    a_card(),
    st.builds(NonRunner, st.just("R"), horses, st.sampled_from(["lame", None])),
    st.builds(NonRunner, st.just("R"), horses, st.just("lame")),
    st.builds(Reinstated, st.just("R"), horses),
    st.builds(JockeyChange, st.just("R"), horses, st.sampled_from(["j8", "j9"]), st.none()),
    st.builds(GoingChange, st.just("R"), st.sampled_from(["Heavy", "Firm"])),
    st.builds(Market, st.just("R"), st.just({"h1": 2.5}), st.just("show")),
)


@st.composite
def a_result(draw: st.DrawFn) -> Result:
    field = draw(st.lists(horses, min_size=1, max_size=4, unique=True))
    status = [draw(st.sampled_from(["PU", "NR"])) for _ in field[1:]]
    rest = [Runner(runner, jockey_id="j5", status=of) for runner, of in zip(field[1:], status, strict=True)]
    race = Race("R", date(2024, 5, 1), OFF, "Ayr", going="Good")
    return Result(race, (Runner(field[0], jockey_id="j5", status="FINISHED", position=1), *rest))


@st.composite
def a_story(draw: st.DrawFn) -> list[Message]:
    """The messages of a race, in order; a result, if any, comes after the off."""
    messages = draw(st.lists(NOTICES, min_size=1, max_size=9))
    before = sorted((draw(MINUTES) for _ in messages), reverse=True)
    story: list[Message] = [
        replace(message, known_at=OFF - timedelta(minutes=minutes, microseconds=-at))
        for at, (message, minutes) in enumerate(zip(messages, before, strict=True))
    ]
    if draw(st.booleans()):
        story.append(replace(draw(a_result()), known_at=OFF + timedelta(minutes=15)))
    return story


def standing(messages: Sequence[Message], instant: datetime) -> Standing | None:
    """What the code says, in the oracle's words; None where no card names the runners."""
    race = declared_at(messages, instant)
    if race is None or race.source != FROM_CARD:
        return None
    since = withdrawn_since(messages, instant)
    out = {runner.horse_id: since[runner.horse_id] for runner in race.withdrawn}
    return {runner.horse_id: runner.jockey_id for runner in race.runners}, out, race.race.going


@settings(max_examples=300, deadline=None)
@given(a_story())
def test_at_every_instant_a_race_stands_as_one_who_heard_its_messages_one_by_one_says(story: list[Message]) -> None:
    for message in story:
        assert standing(story, instant_of(message)) == standing_of(story, instant_of(message))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(a_story())
def test_what_the_log_leaves_out_as_known_before_changes_nothing(story: list[Message]) -> None:
    """Live messages that say again what stands are not appended; nothing that would change the race is left out."""
    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "home").save()
        clock = [OFF]
        with LogWriter.open(store, clock=lambda: clock[0]) as writer:
            for at, each in enumerate(story):
                clock[0] = instant_of(each)
                # a card that comes again at once is the same card: it is no later one
                assume(not isinstance(each, Racecard) or not _comes_again(each, story[:at]))
                writer.append(each)
                held = [message for _, message in logged(store.home)]
                found, kept = standing(story[: at + 1], NOW), standing(held, NOW)
                # a withdrawal may stand by a message that was left out as said before
                assert (found and (found[0], found[1].keys(), found[2])) == (
                    kept and (kept[0], kept[1].keys(), kept[2])
                )


def _comes_again(card: Racecard, before: Sequence[Message]) -> bool:
    last = next((each for each in reversed(before) if not isinstance(each, Market)), None)
    return isinstance(last, Racecard) and replace(last, known_at=None) == replace(card, known_at=None)


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(a_story(), min_size=12, max_size=12))
def test_log_tables_redis_and_the_training_query_agree_on_every_race(stories: list[list[Message]]) -> None:
    messages = [_of_race(message, f"R{n}") for n, story in enumerate(stories) for message in story]
    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "home").save()
        try:
            with LogWriter.open(store, clock=lambda: NOW) as writer:
                writer.load(messages)
            by_race: dict[str, list[Message]] = {}
            for _, message in logged(store.home):
                by_race.setdefault(message.race_id or "", []).append(message)
            build(store, NOW)
            _tables_and_log(store, by_race)
            _training_query(store, by_race)
            cards = RaceCards(connect(store.home))
            fill(store.home, cards, NOW)
            _redis(cards, by_race)
            cards.clear()
            _message_by_message(store, cards)
            _redis(cards, by_race)
        finally:
            down(store.home)


def _of_race(message: Message, race_id: str) -> Message:
    if isinstance(message, Racecard | Result):
        return replace(message, race=replace(message.race, race_id=race_id))
    return replace(message, race_id=race_id)


def _tables_and_log(store: Store, by_race: dict[str, list[Message]]) -> None:
    for race_id, messages in by_race.items():
        read = [UnbuiltLog(store.home).messages(race_id, 0)]
        if any(isinstance(message, Racecard | Result) for message in messages):
            read.append(list(messages_of_race(store.home, race_id).messages))
        for message in messages:
            expected = standing_of(messages, instant_of(message))
            assert [standing(each, instant_of(message)) for each in read] == [expected] * len(read), race_id


def _training_query(store: Store, by_race: dict[str, list[Message]]) -> None:
    found: dict[str, dict[str, str | None]] = {race_id: {} for race_id in by_race}
    for row in declared(store.home, LEAD).to_pylist():
        if row["source"] == FROM_CARD:
            found[row["race_id"]][row["horse_id"]] = row["jockey_id"]
    for race_id, messages in by_race.items():
        at = decision_time(messages, LEAD)
        stands = standing_of(messages, at) if at and any(isinstance(message, Result) for message in messages) else None
        assert found[race_id] == (stands[0] if stands else {}), race_id


def _redis(cards: RaceCards, by_race: dict[str, list[Message]]) -> None:
    for race_id, messages in by_race.items():
        kept = cards.race(race_id)
        assert kept is not None, race_id
        assert standing(kept.messages, NOW) == standing_of(messages, NOW), race_id


def _message_by_message(store: Store, cards: RaceCards) -> None:
    """As a stream at the log's end offers them."""
    tail, open_races = LogTail(store.home, 0), set[str]()
    try:
        while lines := tail.read(100):
            for line in lines:
                offer = update_of(line, NOW, open_races, announced=True)
                assert offer is not None
                if offer.off_time is not None:
                    open_races.add(offer.race_id)
                cards.offer(0, [offer], NOW)
    finally:
        tail.close()


def test_a_card_of_an_older_log_marks_its_non_runners_in_a_field_of_the_source(tmp_path: Path) -> None:
    """Read from the log and from the tables alike: the card has no status, and the field it was read from says it."""
    race = Race("R", date(2024, 5, 1), OFF, "Ayr")
    old = (Runner("h1", kept={"non_runner": True}), Runner("h2", kept={"non_runner": False}))
    store = opened(tmp_path / "home").save()
    with LogWriter.open(store, clock=lambda: NOW) as writer:
        writer.load([Racecard(race, old, OFF - timedelta(hours=3)), Racecard(race, old, OFF - timedelta(hours=2))])
    assert "status" not in to_record(Racecard(race, old))["runners"][0]
    build(store, NOW)
    for messages in ([message for _, message in logged(store.home)], messages_of_race(store.home, "R").messages):
        assert standing(messages, OFF) == ({"h2": None}, {"h1": OFF - timedelta(hours=3)}, None)
