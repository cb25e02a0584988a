"""Who is declared, withdrawn and riding is the same whichever way a race's messages are read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

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
        Runner(one, jockey_id=draw(riders), trainer_id="t", status=draw(st.sampled_from([None, None, "NR"])))
        for one in field
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
    rest = [Runner(one, jockey_id="j5", status=of) for one, of in zip(field[1:], status, strict=True)]
    race = Race("R", date(2024, 5, 1), OFF, "Ayr", going="Good")
    return Result(race, (Runner(field[0], jockey_id="j5", status="FINISHED", position=1), *rest))


@st.composite
def a_story(draw: st.DrawFn) -> list[Message]:
    """What is told of a race, in order; a result, if any, comes after the off."""
    told = draw(st.lists(NOTICES, min_size=1, max_size=9))
    before = sorted((draw(MINUTES) for _ in told), reverse=True)
    story: list[Message] = [
        replace(one, known_at=OFF - timedelta(minutes=minutes, microseconds=-at))
        for at, (one, minutes) in enumerate(zip(told, before, strict=True))
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
    out = {one.horse_id: since[one.horse_id] for one in race.withdrawn}
    return {one.horse_id: one.jockey_id for one in race.runners}, out, race.race.going


@settings(max_examples=300, deadline=None)
@given(a_story())
def test_at_every_instant_a_race_stands_as_one_who_heard_its_messages_one_by_one_says(story: list[Message]) -> None:
    for one in story:
        assert standing(story, instant_of(one)) == standing_of(story, instant_of(one))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(a_story())
def test_what_the_log_leaves_out_as_told_before_changes_nothing(story: list[Message]) -> None:
    """Live messages that say again what stands are not appended; nothing that would change the race is left out."""
    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "home").save()
        clock = [OFF]
        with LogWriter.open(store, clock=lambda: clock[0]) as writer:
            for at, one in enumerate(story):
                clock[0] = instant_of(one)
                # a card that comes again at once is the same card: it is no later one
                assume(not isinstance(one, Racecard) or not _comes_again(one, story[:at]))
                writer.append(one)
                held = [message for _, message in logged(store.home)]
                told, kept = standing(story[: at + 1], NOW), standing(held, NOW)
                # a withdrawal may stand by a message that was left out as said before
                assert (told and (told[0], told[1].keys(), told[2])) == (kept and (kept[0], kept[1].keys(), kept[2]))


def _comes_again(card: Racecard, before: Sequence[Message]) -> bool:
    last = next((one for one in reversed(before) if not isinstance(one, Market)), None)
    return isinstance(last, Racecard) and replace(last, known_at=None) == replace(card, known_at=None)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(a_story(), min_size=12, max_size=12))
def test_log_tables_redis_and_the_training_query_agree_on_every_race(stories: list[list[Message]]) -> None:
    told = [_of_race(one, f"R{n}") for n, story in enumerate(stories) for one in story]
    with TemporaryDirectory() as folder:
        store = opened(Path(folder) / "home").save()
        try:
            with LogWriter.open(store, clock=lambda: NOW) as writer:
                writer.load(told)
            by_race: dict[str, list[Message]] = {}
            for _, one in logged(store.home):
                by_race.setdefault(one.race_id or "", []).append(one)
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
        if any(isinstance(one, Racecard | Result) for one in messages):
            read.append(list(messages_of_race(store.home, race_id).messages))
        for one in messages:
            expected = standing_of(messages, instant_of(one))
            assert [standing(each, instant_of(one)) for each in read] == [expected] * len(read), race_id


def _training_query(store: Store, by_race: dict[str, list[Message]]) -> None:
    found: dict[str, dict[str, str | None]] = {race_id: {} for race_id in by_race}
    for row in declared(store.home, LEAD).to_pylist():
        if row["source"] == FROM_CARD:
            found[row["race_id"]][row["horse_id"]] = row["jockey_id"]
    for race_id, messages in by_race.items():
        at = decision_time(messages, LEAD)
        stands = standing_of(messages, at) if at and any(isinstance(one, Result) for one in messages) else None
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
    for messages in ([one for _, one in logged(store.home)], messages_of_race(store.home, "R").messages):
        assert standing(messages, OFF) == ({"h2": None}, {"h1": OFF - timedelta(hours=3)}, None)
