"""Read a race's card and the rows of its runners from Redis: whole results only, and nothing after the clock."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from velo.errors import UserError
from velo.feature_repo.stores.race_cards import CardsPosition, Event, RaceCards, StoredRace, head_of
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
from velo.feature_repo.stores.whole import read as read_contents
from velo.racing.cards import Declared, declared_at, first_result
from velo.racing.clock import from_us, to_text, to_us
from velo.racing.messages import Message
from velo.serving.scoring.history import RaceHistory, declared
from velo.serving.scoring.race_messages import UnknownRace
from velo.serving.scoring.read_consistency import ReadConsistency
from velo.serving.scoring.read_plan import ReadPlan, ReadRows
from velo.serving.scoring.redis_reader import Answers, ReadRequest, RedisReader

if TYPE_CHECKING:
    from redis import Redis

RACES_CACHED: Final = 500
"""Races whose card is cached."""
RETRY_SHARE: Final = 0.75
"""Share of a request's time during which a read that saw part of a result is repeated."""
CARDS_REMEDY: Final = "a running stream restores it; without one run `velo cards rebuild`"
POSTED: Final = "posted card"
"""Race id of the card of a request: the store has no messages about it."""


class CatchingUp(UserError):
    """The stream has not written the log to its end to the online store."""


class BeingWritten(CatchingUp):
    """A result is partly written to the online store; the rest follows in a moment."""


class AheadOfClock(CatchingUp):
    """The stores hold values known after this machine's clock, read after the values were: the writer's clock is ahead."""


@dataclass(frozen=True, slots=True)
class CachedRace:
    """A race with its messages as of a version in Redis, and the read that its runners need.

    `version` is None if the race is not in Redis; `card_us` is the instant of its last message (µs UTC).
    """

    version: tuple[int, int] | None
    messages: tuple[Message, ...]
    card_us: int
    plan: ReadPlan
    request: ReadRequest

    @classmethod
    def of(
        cls, version: tuple[int, int] | None, messages: tuple[Message, ...], race: Declared, race_id: str
    ) -> "CachedRace":
        """Plan the read of a declared race."""
        plan = ReadPlan.of(race)
        card_us = max(to_us(message.known_at) for message in messages if message.known_at is not None)
        return cls(version, messages, card_us, plan, ReadRequest.of(race_id, plan.keys, plan.fields))


@dataclass(frozen=True, slots=True)
class OnlineRead:
    """Rows that hold whole results only, and the race they were read for.

    `as_of` is the instant that they describe, `read_at` the clock after they were read; both UTC, `as_of` <= `read_at`.
    """

    race: CachedRace
    rows: ReadRows
    as_of: datetime
    read_at: datetime


@dataclass(slots=True)
class RaceReader:
    """Reads races of one store from Redis. Safe for threads.

    `clock` returns the present (UTC) and is read after each read of Redis, so that a delay between a request and its read never
    makes a value look later than the present. Without `clock` the present is the `now` of the request.
    Raises `OnlineStoreUnavailable`, `Busy`, `CatchingUp` and `NotWhole` if a later request may succeed.
    """

    redis: RedisReader
    history: RaceHistory
    expected: Expected | None = None
    clock: Callable[[], datetime] | None = None
    consistency: ReadConsistency = field(default_factory=ReadConsistency)
    monotonic: Callable[[], float] = monotonic
    _races: "OrderedDict[str, CachedRace]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def present(self, now: datetime) -> datetime:
        """The clock, never earlier than the `now` of a request."""
        return now if self.clock is None else max(now, self.clock())

    def cached(self, race_id: str, now: datetime) -> CachedRace | None:
        """The race from the cache, else from Redis; None if Redis has no card. A read shows whether it is current."""
        return self._races.get(race_id) or self._load(race_id, now)

    def read(self, race_id: str, race: CachedRace, now: datetime) -> OnlineRead:
        """The rows of a race's runners; reads again after it saw part of a result, and if the race has new messages."""
        until = self.monotonic() + RETRY_SHARE * self.redis.deadline.seconds
        with self.redis.deadline.shared():
            while True:
                before = self.expected.before_read() if self.expected is not None else FurthestHead()
                answers = self.redis.ask(race.request)
                head = head_of(answers[:4])
                lost = self._lost(before, race.request, answers, head)
                if race.version is not None and _version(answers[4], answers[5]) != race.version:
                    race = self._loaded(race_id, now)
                    continue
                if lost:
                    # a new key of a cluster may be marked before its row is written
                    self._refuse_lost(race.request, answers, until)
                    continue
                rows = race.plan.rows(answers)
                read = self._whole(race, rows, head, now)
                if read is not None:
                    return read
                if self.monotonic() > until:
                    raise BeingWritten("a result is being written: ask again in a moment")

    def _whole(self, race: CachedRace, rows: ReadRows, head: CardsPosition | None, now: datetime) -> OnlineRead | None:
        """The read, if it saw whole results; raises `AheadOfClock` and `CatchingUp`."""
        card_us = race.card_us if race.version is not None else 0
        newest_us = max(int(rows.event_us.max(initial=0)), card_us)
        read_at = self.present(now)
        if newest_us > to_us(read_at):
            ahead_s = (newest_us - to_us(read_at)) / 1e6
            raise AheadOfClock(
                f"the online store holds a value known at {to_text(from_us(newest_us))}, {ahead_s:,.6f} s after this "
                "machine's clock: set this machine's clock, or that of the machine that writes the log"
            )
        if head is None:
            # without a stream, rows written between `now` and the read may be incomplete
            return OnlineRead(race, rows, max(now, from_us(newest_us)), read_at)
        if not head.live:
            raise CatchingUp(
                f"the stream is catching up: the online store holds the log up to {to_text(head.known_at)}, ask again in "
                "a moment"
            )
        self.consistency.record(head.generation, head.seq, self.history)
        position = self.consistency.position(race.plan, rows, to_us(head.known_at), card_us, self.history)
        if position is None:
            return None
        # no row is newer than the clock, so the rows as of the position are also those as of the clock
        return OnlineRead(race, rows, from_us(min(position, to_us(read_at))), read_at)

    def races(self, begin: datetime, end: datetime) -> list[StoredRace]:
        """The races in Redis whose off is in [begin, end), ordered by off."""

        def read(client: "Redis") -> list[StoredRace | None]:
            cards = RaceCards(client)
            return cards.many(cards.races(begin, end))

        return [race for race in self.redis.call(read) if race is not None]

    def waiting(self) -> tuple[list[StoredRace], list[str]]:
        """The races in Redis that have messages and no card; and the ids of the declared races."""

        def read(client: "Redis") -> tuple[list[StoredRace | None], list[str]]:
            cards = RaceCards(client)
            races = cards.waiting()
            return (cards.many(races), cards.declared()) if races else ([], [])

        races, declared_races = self.redis.call(read)
        return [race for race in races if race is not None], declared_races

    def stored(self, race_id: str) -> StoredRace | None:
        """The messages of a race in Redis."""
        race: StoredRace | None = self.redis.call(lambda client: RaceCards(client).race(race_id))
        return race

    def head(self) -> CardsPosition | None:
        """The log position that a stream wrote to Redis; None before the first."""
        head: CardsPosition | None = self.redis.call(lambda client: RaceCards(client).head())
        return head

    def events_after(self, after: str) -> list[Event]:
        """The events after an event id, oldest first."""
        events: list[Event] = self.redis.call(lambda client: RaceCards(client).events(after))
        return events

    def features(self, race_id: str, now: datetime) -> tuple[ReadPlan, ReadRows, datetime]:
        """The rows of a race's runners as they are in Redis, and the instant they describe; for measuring."""
        with self.redis.deadline.shared():
            race = self.cached(race_id, now)
            if race is None:
                raise UnknownRace(f"race {race_id!r} is not declared in Redis: see `velo cards list`")
            read = self.read(race_id, race, now)
            return read.race.plan, read.rows, read.as_of

    def refuse_not_whole(self, now: datetime) -> None:
        """Raise `NotWhole` or `OtherStore` where Redis lacks rows or races that the store gave it."""
        if self.expected is None:
            return
        expected = self.expected

        def look(client: "Redis") -> tuple[CardsPosition | None, list[RedisContents], Vitals, bool]:
            cards = RaceCards(client)
            return cards.head(), read_contents(client, expected.layouts), vitals(client), cards.lost(now, 0)[0]

        before = expected.before_read()
        head, contents, server, races_lost = self.redis.call(look)
        expected.refuse_server(before, contents, server, None if head is None else (head.generation, head.seq))
        if races_lost:
            raise NotWhole(f"the online store lost races to come: {CARDS_REMEDY}")

    def _lost(self, before: FurthestHead, request: ReadRequest, answers: Answers, head: CardsPosition | None) -> bool:
        """Whether a row that was there is gone; raises `NotWhole` or `OtherStore` where a view is not the expected one."""
        if self.expected is not None:
            fills = [fill or None for fill in (answers[6] or b"").decode().split(" ")]
            position = None if head is None else (head.generation, head.seq)
            self.expected.refuse(before, request.views, fills[: len(request.views)], position)
        return bool(answers[7])

    def _refuse_lost(self, request: ReadRequest, answers: Answers, until: float) -> None:
        """Raise `NotWhole` once the time is used up, and mark in Redis that rows are gone."""
        if self.monotonic() <= until:
            return
        views = [request.views[int(number) - 1] for number in (answers[7] or b"").split()]
        with suppress(UserError):
            self.redis.call(lambda client: mark_lost(client, views))
        raise NotWhole(f"the online store lost rows ({', '.join(views)}): {REMEDY}")

    def _loaded(self, race_id: str, now: datetime) -> CachedRace:
        """The race with its new messages; raises `UnknownRace` or `NotWhole` if Redis no longer has it."""
        race = self._load(race_id, now)
        if race is not None:
            return race
        if self.redis.call(lambda client: RaceCards(client).lists(race_id)):
            raise NotWhole(f"the online store lost race {race_id!r}: {CARDS_REMEDY}")
        raise UnknownRace(f"race {race_id!r} is no longer held by Redis: ask for it with as_of")

    def _load(self, race_id: str, now: datetime) -> CachedRace | None:
        stored = self.stored(race_id)
        # every message counts, also one known later than `now` by another clock
        race = declared_at(stored.messages, _newest(stored.messages, now)) if stored is not None else None
        if stored is None or race is None or not race.runners:
            with self._lock:
                self._races.pop(race_id, None)
            if stored is not None and race is not None and first_result(stored.messages) is None:
                declared(stored.messages, race.instant)
            return None
        loaded = CachedRace.of(stored.version, stored.messages, race, race_id)
        with self._lock:
            self._races[race_id] = loaded
            while len(self._races) > RACES_CACHED:
                self._races.popitem(last=False)
        return loaded


def _newest(messages: Sequence[Message], now: datetime) -> datetime:
    """The latest `known_at` of the messages, and no earlier than now."""
    return max(now, *(message.known_at for message in messages if message.known_at is not None))


def _version(generation: bytes | None, seq: bytes | None) -> tuple[int, int] | None:
    return None if generation is None or seq is None else (int(generation), int(seq))
