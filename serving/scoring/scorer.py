"""Score a race: read its card and features in one round trip and return its probabilities within milliseconds.

Feast's registry and schema are its contract; `get_online_features` is its oracle in the tests.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from velo.errors import UserError
from velo.feature_repo.stores import embedded_redis
from velo.feature_repo.stores.race_cards import KEEP, CardsPosition, Event, RaceCards, StoredRace, head_of
from velo.feature_repo.stores.redis_client import connect_url
from velo.feature_repo.stores.whole import (
    REMEDY,
    Expected,
    FurthestHead,
    NotWhole,
    RedisContents,
    Vitals,
    mark_lost,
    vitals,
)
from velo.feature_repo.stores.whole import read as read_held
from velo.racing.cards import Declared, decision_time, declared_at, first_result, result_known_at
from velo.racing.clock import from_us, to_text, to_us
from velo.racing.messages import Market, Message, Racecard, Result
from velo.serving.scoring.bundles import Bundles
from velo.serving.scoring.drivers import DriverExplainer
from velo.serving.scoring.feature_matrix import FeatureMatrix
from velo.serving.scoring.history import LogView, RaceHistory, declared
from velo.serving.scoring.race_messages import RaceMessages, UnknownRace
from velo.serving.scoring.read_consistency import ReadConsistency
from velo.serving.scoring.read_plan import NEVER, ReadPlan, ReadRows
from velo.serving.scoring.redis_reader import Answers, ReadRequest, RedisReader
from velo.serving.scoring.request_deadline import PATIENCE_S, UNHURRIED_S
from velo.serving.scoring.scored import RaceSnapshot, ScoredRace, scored_race
from velo.storage.store import Store
from velo.training.bundle import Bundle

if TYPE_CHECKING:
    from redis import Redis

K = TypeVar("K")
V = TypeVar("V")
RACES_HELD: Final = 500
"""Races whose card is cached."""
RUN_HELD: Final = 500
REPEATED: Final = 0.75
"""Share of a request's time during which a read that saw part of a result is repeated."""
CARDS_REMEDY: Final = "a running stream brings it again by itself; without one run `velo cards rebuild`"
POSTED: Final = "posted card"
"""Race id of a card that a request brings: the store has no messages of it."""


class CatchingUp(UserError):
    """The stream has not written the log to its end to the online store."""


class BeingWritten(CatchingUp):
    """A result is partly written to the online store; the rest follows in a moment."""


class AheadOfClock(CatchingUp):
    """The stores hold values known after the request's `now`: a later `now` may succeed."""


class NoFeatures(UserError):
    """The online store holds no feature of any runner, though the tables do."""


@dataclass(frozen=True, slots=True)
class CachedRace:
    """A cached race: its messages as of a version in Redis, and the read that its runners need."""

    version: tuple[int, int] | None
    messages: tuple[Message, ...]
    card_us: int
    reading: ReadPlan
    question: ReadRequest


@dataclass(slots=True)
class Scorer:
    """Scores the races of one store. Safe for threads.

    Raises `OnlineStoreUnavailable`, `Busy`, `CatchingUp` and `TablesBehind` where a later request may succeed, `UnknownRace`
    and other `UserError`s where it will not.
    `AheadOfClock` means that a later `now` may succeed.
    """

    wire: RedisReader
    bundles: Bundles
    history: RaceHistory
    expected: Expected | None = None
    settled: ReadConsistency = field(default_factory=ReadConsistency)
    monotonic: Callable[[], float] = time.monotonic
    _known: "OrderedDict[str, CachedRace]" = field(default_factory=OrderedDict)
    _run: "OrderedDict[tuple[object, ...], ScoredRace]" = field(default_factory=OrderedDict)
    _teller: DriverExplainer = field(default_factory=DriverExplainer)
    _lock: Lock = field(default_factory=Lock)

    def warm(self) -> None:
        """Load the model and connect before the first request; a request tries again what fails here."""
        with suppress(UserError):
            model = self.bundles.current()
            blank = np.zeros((2, len(model.features)))
            model.blend(model.probabilities(blank), np.full(2, 2.0), blank)
        with suppress(UserError):
            self.head()

    def warm_past(self, now: datetime) -> None:
        """Load what the first question about a race that was run would wait seconds for: for a thread of its own.

        Feast is opened, and the latest race in Redis that was run is scored.
        """
        with suppress(UserError):
            self.history.warm()
            kept = self.races(now - KEEP, now)
            run = [one.messages[0].race_id for one in kept if result_known_at(one.messages) is not None]
            if run and run[-1] is not None:
                self.score(run[-1], now)

    def score(
        self, race_id: str, now: datetime, as_of: datetime | None = None, *, with_drivers: bool = True
    ) -> ScoredRace:
        """A race as of now from Redis; as of an instant, or one that was run, from the history.

        A race with a result is scored as of its decision time: today's features know the result. The log decides whether
        it has one, and is read again after the features were: what they were made from is in it by then. An instant at or
        past the first result is refused.
        """
        if as_of is not None and as_of > now:
            raise UserError(f"as_of {to_text(as_of)} is still to come: leave it out to score with what is known now")
        model = self.bundles.current()
        if as_of is None and self.history.seen(race_id).first_result is None:
            with self.wire.patience.shared():
                known = self._at_hand(race_id, now)
                if known is not None:
                    live = self._live(model, race_id, known, now, with_drivers=with_drivers)
                    if live is not None:
                        return live
        return self._past(model, race_id, now, as_of, with_drivers=with_drivers)

    def score_card(
        self, card: Racecard, odds: Market | None, now: datetime, *, with_drivers: bool = True
    ) -> ScoredRace:
        """Score a card that a request brings, at its odds, with the features as of now."""
        model = self.bundles.current()
        messages: list[Message] = [replace(card, known_at=now)]
        if odds is not None:
            messages.append(replace(odds, known_at=now))
        race = declared(messages, now)
        known = self._to_read(None, tuple(messages), race, POSTED)
        known, rows, position = self._settled_rows(POSTED, known, now)
        if self._was_run(card.race.race_id, known, rows):
            raise UserError(
                f"race {card.race.race_id!r} has been run, and the features of now know its result: "
                "ask for its score by its id"
            )
        vectors = known.reading.vectors(rows, now)
        if odds is not None:
            race = replace(race, odds=replace(odds, known_at=position))
        return self._scored(model, RaceSnapshot(race, vectors, position, "redis"), now, with_drivers=with_drivers)

    def races(self, begin: datetime, end: datetime) -> list[StoredRace]:
        """The races in Redis whose off is in [begin, end), in order of it."""

        def read(client: "Redis") -> list[StoredRace | None]:
            cards = RaceCards(client)
            return cards.many(cards.races(begin, end))

        return [one for one in self.wire.call(read) if one is not None]

    def waiting(self) -> tuple[list[StoredRace], list[str]]:
        """The races in Redis that have messages and no card; and the ids of the declared races."""

        def read(client: "Redis") -> tuple[list[StoredRace | None], list[str]]:
            cards = RaceCards(client)
            races = cards.waiting()
            return (cards.many(races), cards.declared()) if races else ([], [])

        found, declared_races = self.wire.call(read)
        return [one for one in found if one is not None], declared_races

    def kept(self, race_id: str) -> StoredRace | None:
        """What Redis holds of a race."""
        found: StoredRace | None = self.wire.call(lambda client: RaceCards(client).race(race_id))
        return found

    def head(self) -> CardsPosition | None:
        """How far a stream brought Redis; None where none ever did."""
        found: CardsPosition | None = self.wire.call(lambda client: RaceCards(client).head())
        return found

    def result_known(self, messages: Sequence[Message], now: datetime) -> Result | None:
        """Version 1 of a race's result, once it is known."""
        result = first_result(messages)
        return result if result is not None and result.known_at is not None and result.known_at <= now else None

    def features(self, race_id: str, now: datetime) -> tuple[ReadPlan, ReadRows, datetime]:
        """The rows of a race's runners as they are in Redis, and the instant they stand on; for measuring."""
        with self.wire.patience.shared():
            known = self._at_hand(race_id, now)
            if known is None:
                raise UnknownRace(f"race {race_id!r} is not declared in Redis: see `velo cards list`")
            known, rows, position = self._settled_rows(race_id, known, now)
            return known.reading, rows, position

    def _live(
        self, model: Bundle, race_id: str, known: CachedRace, now: datetime, *, with_drivers: bool
    ) -> ScoredRace | None:
        """A race to come, with the features of now; None where it has a result by the time they were read."""
        known, rows, position = self._settled_rows(race_id, known, now)
        if self._was_run(race_id, known, rows):
            return None
        vectors = known.reading.vectors(rows, now)
        self._refuse_unfilled(known.reading.race, vectors)
        stood = RaceSnapshot(known.reading.race, vectors, position, "redis")
        return self._scored(model, stood, now, with_drivers=with_drivers)

    def _was_run(self, race_id: str, known: CachedRace, rows: ReadRows) -> bool:
        """Whether a race has a result, asked after its rows were read: a row is of the log as it ends by then, or refused."""
        seen = self.history.seen(race_id)
        newest_us = int(rows.event_us.max(initial=NEVER))
        if newest_us > (NEVER if seen.log_end is None else to_us(seen.log_end)):
            raise CatchingUp(
                f"Redis holds a feature known at {to_text(from_us(newest_us))}, after the end of the log at "
                f"{self.history.store.home.log}: run `velo online rebuild`"
            )
        return seen.first_result is not None or result_known_at(known.messages) is not None

    def _past(
        self, model: Bundle, race_id: str, now: datetime, as_of: datetime | None, *, with_drivers: bool
    ) -> ScoredRace:
        told, notes = self.history.told(race_id), list[str]()
        if as_of is None and result_known_at(told.messages) is None:
            scored = self._without_card(model, told, now, with_drivers=with_drivers)
            if scored is not None:
                return scored
            told = self.history.told(race_id)
        known_at = result_known_at(told.messages)
        if as_of is None:
            as_of = decision_time(told.messages, timedelta(seconds=model.lead_s))
            if known_at is None or as_of is None:
                raise CatchingUp(f"the result of race {race_id!r} cannot be read: run `velo log check`")
            if as_of > now:
                raise AheadOfClock(
                    f"race {race_id!r} was run at {to_text(known_at)} by the log's clock, which is ahead of this machine's"
                )
            notes.append(f"the race has been run: scored as of its decision time, {as_of:%Y-%m-%d %H:%M:%S} UTC")
        elif known_at is not None and as_of >= known_at:
            raise UserError(
                f"as_of {to_text(as_of)} is not before the first result of race {race_id!r}, known at "
                f"{to_text(known_at)}: the features know it then; leave as_of out for the decision time"
            )
        result = self.result_known(told.messages, now)
        asked = (
            race_id,
            as_of,
            model.version,
            model.gate,
            result is None,
            len(told.messages),
            told.known_at,
            *notes,
            with_drivers,
        )
        if (held := self._run.get(asked)) is not None:
            return replace(held, scored_at=now)
        stood = self.history.stood(told.messages, as_of)
        if stood.race.source != "racecard":
            notes.append("no racecard was known by then: runners, riders and going are those of the result")
        scored = self._scored(model, stood, now, result=result, notes=notes, with_drivers=with_drivers)
        _hold(self._run, asked, scored, RUN_HELD)
        return scored

    def _without_card(
        self, model: Bundle, told: RaceMessages, now: datetime, *, with_drivers: bool
    ) -> ScoredRace | None:
        """A race that Redis has no card of, by the tables: a store that no stream keeps. None where it has been run."""
        race = declared(told.messages, now)
        race_id = race.race.race_id
        known = self._to_read(None, told.messages, race, race_id)
        known, rows, position = self._settled_rows(race_id, known, now)
        if self._was_run(race_id, known, rows):
            return None
        vectors = known.reading.vectors(rows, now)
        self._refuse_unfilled(race, vectors)
        stood = RaceSnapshot(race, vectors, position, "redis")
        notes = self.history.behind()
        return self._scored(model, stood, now, notes=notes, with_drivers=with_drivers)

    def _refuse_unfilled(self, race: Declared, vectors: FeatureMatrix) -> None:
        """Raise `NoFeatures` where Redis has no row for a race and the tables have one: it was not filled."""
        if vectors.missing.all() and self.history.knows(race):
            raise NoFeatures(
                f"Redis holds no feature of any runner of {race.race.race_id!r}: run `velo build` and `feast "
                "materialize`, or `velo stream`, so that they reach it"
            )

    def _settled_rows(self, race_id: str, known: CachedRace, now: datetime) -> tuple[CachedRace, ReadRows, datetime]:
        """Rows that hold whole results only, the race they were read for, and the instant they are as of.

        Reads again after seeing part of a result, and a race that has new messages.
        """
        until = self.monotonic() + REPEATED * self.wire.patience.seconds
        with self.wire.patience.shared():
            while True:
                before = self.expected.before_read() if self.expected is not None else FurthestHead()
                answers = self.wire.ask(known.question)
                head = head_of(answers[:4])
                lost = self._lost(before, known.question, answers, head)
                version = _version(answers[4], answers[5])
                if known.version is not None and version != known.version:
                    newer = self._renewed(race_id, now)
                    if newer is None:
                        self._refuse_lost_race(race_id)
                        raise UnknownRace(f"race {race_id!r} is no longer held by Redis: ask for it with as_of")
                    known = newer
                    continue
                if lost:
                    # a new key of a cluster may be noted and its row not there yet
                    self._refuse_lost(known.question, answers, until)
                    continue
                rows = known.reading.rows(answers)
                card_us = known.card_us if known.version is not None else 0
                newest_us, now_us = max(int(rows.event_us.max(initial=0)), card_us), to_us(now)
                if newest_us > now_us:
                    raise AheadOfClock(
                        f"the online store holds what became known at {to_text(from_us(newest_us))}, after "
                        f"{to_text(now)}: ask again, or set this machine's clock"
                    )
                if head is None:
                    return known, rows, now
                if not head.live:
                    raise CatchingUp(
                        f"the stream is catching up: the online store holds the log up to {to_text(head.known_at)}, "
                        "ask again in a moment"
                    )
                head_us = to_us(head.known_at)
                self.settled.hear(head.generation, head.seq, self.history)
                position = self.settled.position(known.reading, rows, head_us, card_us, self.history)
                if position is not None:
                    # nothing read is newer than now, so what holds at the position holds at now too
                    return known, rows, from_us(min(position, now_us))
                if self.monotonic() > until:
                    raise BeingWritten("a result is being written: ask again in a moment")

    def refuse_not_whole(self, now: datetime) -> None:
        """Raise `NotWhole`, or `OtherStore`, where Redis does not hold all that the store gave it, by what it says of itself."""
        if self.expected is None:
            return
        expected = self.expected

        def look(client: "Redis") -> tuple[CardsPosition | None, list[RedisContents], Vitals, bool]:
            cards = RaceCards(client)
            return cards.head(), read_held(client, expected.layouts), vitals(client), cards.lost(now, 0)[0]

        before = expected.before_read()
        head, held, server, races_lost = self.wire.call(look)
        expected.refuse_server(before, held, server, None if head is None else (head.generation, head.seq))
        if races_lost:
            raise NotWhole(f"the online store lost races to come: {CARDS_REMEDY}")

    def _lost(self, before: FurthestHead, question: ReadRequest, answers: Answers, head: CardsPosition | None) -> bool:
        """Whether a row is gone that was there; raises `NotWhole`, or `OtherStore`, where a whole view is not as expected."""
        if self.expected is not None:
            fills = [one or None for one in (answers[6] or b"").decode().split(" ")]
            at = None if head is None else (head.generation, head.seq)
            self.expected.refuse(before, question.views, fills[: len(question.views)], at)
        return bool(answers[7])

    def _refuse_lost(self, question: ReadRequest, answers: Answers, until: float) -> None:
        """Raise `NotWhole` once the patience is spent, and leave word in Redis that rows are gone."""
        if self.monotonic() <= until:
            return
        views = [question.views[int(at) - 1] for at in (answers[7] or b"").split()]
        with suppress(UserError):
            self.wire.call(lambda client: mark_lost(client, views))
        raise NotWhole(f"the online store lost rows ({', '.join(views)}): {REMEDY}")

    def _refuse_lost_race(self, race_id: str) -> None:
        """Raise `NotWhole` where Redis lists a race and does not hold it."""
        if self.wire.call(lambda client: RaceCards(client).lists(race_id)):
            raise NotWhole(f"the online store lost race {race_id!r}: {CARDS_REMEDY}")

    def _at_hand(self, race_id: str, now: datetime) -> CachedRace | None:
        """The cached race; reading its rows shows whether the cache is current."""
        return self._known.get(race_id) or self._renewed(race_id, now)

    def _renewed(self, race_id: str, now: datetime) -> CachedRace | None:
        kept = self.kept(race_id)
        # every message counts, also one known later than `now` by another clock
        race = declared_at(kept.messages, newest_of(kept.messages, now)) if kept is not None else None
        if kept is None or race is None or not race.runners:
            with self._lock:
                self._known.pop(race_id, None)
            if kept is not None and race is not None and first_result(kept.messages) is None:
                declared(kept.messages, race.instant)
            return None
        known = self._to_read(kept.version, kept.messages, race, race_id)
        with self._lock:
            _hold(self._known, race_id, known, RACES_HELD)
        return known

    def _to_read(
        self, version: tuple[int, int] | None, messages: tuple[Message, ...], race: Declared, race_id: str
    ) -> CachedRace:
        reading = ReadPlan.of(race)
        card_us = max(to_us(one.known_at) for one in messages if one.known_at is not None)
        return CachedRace(version, messages, card_us, reading, ReadRequest.of(race_id, reading.keys, reading.fields))

    def _scored(
        self,
        model: Bundle,
        stood: RaceSnapshot,
        now: datetime,
        *,
        with_drivers: bool,
        result: Result | None = None,
        notes: Sequence[str] = (),
    ) -> ScoredRace:
        teller = self._teller if with_drivers else None
        return scored_race(model, stood, now, result=result, notes=notes, teller=teller)

    def events_after(self, after: str) -> list[Event]:
        """The events after an event id, oldest first."""
        found: list[Event] = self.wire.call(lambda client: RaceCards(client).events(after))
        return found


def newest_of(messages: Sequence[Message], now: datetime) -> datetime:
    """The latest instant that any of some messages was known at, and no earlier than now."""
    return max(now, *(one.known_at for one in messages if one.known_at is not None))


def _version(generation: bytes | None, seq: bytes | None) -> tuple[int, int] | None:
    return None if generation is None or seq is None else (int(generation), int(seq))


def _hold(held: "OrderedDict[K, V]", key: K, value: V, most: int) -> None:
    held[key] = value
    while len(held) > most:
        held.popitem(last=False)


def score(store: Store, race_id: str, *, log: LogView, now: datetime, as_of: datetime | None = None) -> ScoredRace:
    """Score a race with the current model: as of now from Redis, or as of an instant from the offline history.

    A race whose result is in the log is scored as of its decision time, and an instant past the result is refused: the
    features know the result then. Raises `UserError` for a race unknown or not declared by then, an instant to come, no
    model or one that does not fit, and, for a race to come, a Redis that cannot be reached or holds nothing of it.
    """
    return scorer_of(store, log, patience_s=UNHURRIED_S).score(race_id, now, as_of)


def scorer_of(store: Store, log: LogView, *, patience_s: float = PATIENCE_S) -> Scorer:
    """The scorer of a store and its log; nothing is connected or loaded before it is needed."""
    wire = RedisReader(lambda: address_of(store), patience_s)
    return Scorer(wire, Bundles(store), RaceHistory(store, log), Expected(store.home))


def address_of(store: Store) -> str:
    """Where the store's Redis is; its own is started where it does not run. Raises `UserError` where there is none."""
    if store.redis_url is None:
        return embedded_redis.ensure(store.home)
    connect_url(store.redis_url).close()
    return store.redis_url
