"""Race cards into Redis: each message that says how a race stands takes its place there as it arrives.

Only races whose off is recent or to come are kept; the events of all live messages are told to who listens. A Redis
that was never told, or forgot, is given the open races from the log first: it is small, and needs no replay.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Event
from typing import Any, ClassVar, Final

import orjson
from bytewax.outputs import StatefulSinkPartition

from velo.errors import UserError
from velo.feature_repo.stores.race_cards import DECLARED_AHEAD, FORM, KEEP, CardsPosition, RaceCards, RaceUpdate
from velo.feature_repo.stores.whole import head_remembered, remember_head
from velo.racing.clock import from_text
from velo.racing.messages import Race, Racecard, Result, Runner, from_record, to_record
from velo.storage.log import reader
from velo.storage.log.format import generation
from velo.storage.log.migrations import upgraded
from velo.storage.log.reader import end
from velo.storage.log.tail import UNREADABLE, FoundRecord, LogTail, about, known_at_of
from velo.storage.store import Home
from velo.streams.dataflow.log_source import Clock
from velo.streams.dataflow.metrics import say
from velo.streams.dataflow.operators import LogRecord, Reads, StreamSink
from velo.streams.dataflow.retry import Retry, go_on

PART: Final = "cards"
READ_AT_ONCE: Final = 2000
RACES: Final = frozenset({"racecard", "result"})
PAST_HELD: Final = 5000
"""How many races long run are known as such: what is told of a race follows its card within so many others."""
FOREVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CardsSink(StreamSink[LogRecord, None]):
    """One partition: all races. `connect` returns a client that has answered."""

    step: ClassVar[str] = "cards"
    reads: ClassVar[Reads] = "records"

    home: Home
    connect: Callable[[], Any]
    clock: Clock
    waiting: Retry
    lost: Event = field(default_factory=Event, compare=False)
    """Set where Redis is known to have lost races: they are brought again before the next write."""

    def list_parts(self) -> list[str]:
        """The log is one sequence, and so are its cards."""
        return [PART]

    def part_fn(self, item_key: str) -> int:
        """All of them go to the one partition."""
        return 0

    def prepare(self, base: int) -> None:
        """Have Redis hold the open races before the first record, the views being there: a sink wakes with its first."""

        def bring() -> None:
            bring_up(self.home, self.connect(), self.clock(), self.waiting.go_on, live=True, up_to=base)

        self.waiting.until_done("online", bring)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "CardsPartition":
        """What is told again after a restart finds its place taken: nothing is to be resumed."""
        partition = CardsPartition(self)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class CardsPartition(StatefulSinkPartition[LogRecord, None]):
    """The writer of cards. After a batch that was not live nothing is, for two snapshots.

    `_open` has the off of each open race that was told here, and no end for those that Redis held before; `_past` the
    last races whose card or result was told here and that are not open: what is told of them waits for no card.
    """

    sink: CardsSink
    _client: Any = None
    _open: dict[str, datetime] = field(default_factory=dict)
    _past: dict[str, None] = field(default_factory=dict)
    _behind: int = 0

    def make_ready(self) -> None:
        """Connect; a Redis that does not hold all of the log is given its open races first."""
        client, now = self.sink.connect(), self.sink.clock()
        # the log's end is not there before this batch is: the head stays where it is
        bring_up(self.sink.home, client, now, live=False, up_to=0, again=self.sink.lost.is_set())
        self.sink.lost.clear()
        self._open = dict.fromkeys(RaceCards(client).races(now - KEEP, FOREVER), FOREVER) | self._open
        self._client = client

    def write_batch(self, values: list[LogRecord]) -> None:
        """RaceUpdate what these records say; the events of live ones are readable when this returns."""
        if not values[-1].live:
            # the online rows of what is caught up on are written up to a snapshot later
            self._behind = 2
        offers = [one for told in values if (one := self._offer_of(told)) is not None]
        head = self._head(values[-1].line)
        self.sink.waiting.until_done("online", lambda: self._write(offers, head))

    def snapshot(self) -> None:
        """Nothing to remember: the log holds it all."""
        horizon = self.sink.clock() - KEEP
        self._past |= dict.fromkeys(race_id for race_id, off_time in self._open.items() if off_time < horizon)
        self._open = {race_id: off_time for race_id, off_time in self._open.items() if off_time >= horizon}
        if self._behind:
            self._behind -= 1
            if not self._behind:
                self.sink.waiting.until_done("online", self._now_live)

    def _offer_of(self, told: LogRecord) -> RaceUpdate | None:
        if not told.line.whole:
            return None
        offer = offer_of(told.line, self.sink.clock(), self._open, self._past, announced=told.live)
        if offer is not None and offer.kept and offer.off_time is not None:
            self._open[offer.race_id] = offer.off_time
            self._past.pop(offer.race_id, None)
        elif (of := about(told.line.text)).kind in RACES and of.race_id is not None and of.race_id not in self._open:
            self._past[of.race_id] = None
            if len(self._past) > PAST_HELD:
                self._past.pop(next(iter(self._past)))
        return offer

    def _write(self, offers: list[RaceUpdate], head: CardsPosition | None) -> None:
        if self._client is None or self.sink.lost.is_set():
            self.make_ready()
        try:
            RaceCards(self._client).offer(generation(self.sink.home), offers, self.sink.clock(), head)
        except BaseException:
            self._client = None
            raise

    def _now_live(self) -> None:
        if self._client is None:
            self.make_ready()
        cards = RaceCards(self._client)
        head = cards.head()
        if head is not None:
            cards.offer(head.generation, [], self.sink.clock(), replace(head, live=True))

    def _head(self, line: FoundRecord) -> CardsPosition | None:
        known_at = known_at_of(line.text) if line.whole else None
        if known_at is None:
            return None
        return CardsPosition(generation(self.sink.home), line.seq, known_at, live=not self._behind)


def bring_up(
    home: Home,
    client: Any,
    now: datetime,
    go_on: Callable[[], None] = go_on,
    *,
    live: bool,
    up_to: int | None = None,
    again: bool = False,
) -> None:
    """Give a Redis that does not hold all of the log, or lost races (`again`), its open races; then say how far it is.

    That is the log's end, `live` or not; where the rows of the features are there only before record `up_to`, that
    record, and not live. With an `up_to` of 0 nothing is said.
    """
    cards, number, log_end = RaceCards(client), generation(home), end(home)
    head = cards.head()
    behind = head is None or (head.generation, head.seq) < (number, log_end.next_seq - 1)
    if again or behind or cards.form() != FORM:
        say("stream.filled_cards", messages=fill(home, cards, now, go_on))
        cards.has_form()
    if up_to is not None and up_to < log_end.next_seq:
        told = _head_before(home, number, up_to)
    else:
        told = CardsPosition(number, log_end.next_seq - 1, log_end.known_at, live) if log_end.known_at else None
    if told is not None:
        cards.offer(number, [], now, told)
        if (number, told.seq) > (head_remembered(home) or (-1, -1)):
            remember_head(home, number, told.seq)


def _head_before(home: Home, number: int, seq: int) -> CardsPosition | None:
    """The head before a record, not live; None where there is none, or it cannot be read."""
    if seq == 0:
        return None
    try:
        last = next(reader.records(home, seq - 1))
    except UserError:
        return None
    return CardsPosition(number, seq - 1, from_text(last["known_at"]), live=False)


def fill(home: Home, cards: RaceCards, now: datetime, go_on: Callable[[], None] = go_on) -> int:
    """RaceUpdate every message of the log that says how an open race stands, or waits for its card; returns how many.

    The head stays as it is. Nothing is announced: who listens asks anew.
    """
    open_races, raced, noticed = set[str](), set[str](), set[str]()
    for line in _lines(home, go_on):
        of = about(line.text)
        known_at = known_at_of(line.text) if of.race_id is not None else None
        if of.race_id is None or known_at is None or known_at < now - DECLARED_AHEAD:
            continue
        if of.kind in RACES:
            raced.add(of.race_id)
            if offer_of(line, now, open_races, announced=False) is not None:
                open_races.add(of.race_id)
        elif of.race_id not in raced:
            noticed.add(of.race_id)
    wanted = open_races | (noticed - raced)
    count, offers = 0, list[RaceUpdate]()
    for line in _lines(home, go_on) if wanted else ():
        offer = offer_of(line, now, open_races, announced=False) if about(line.text).race_id in wanted else None
        if offer is None:
            continue
        offers.append(offer)
        count += 1
        if len(offers) == READ_AT_ONCE:
            cards.offer(generation(home), offers, now)
            offers = []
    cards.offer(generation(home), offers, now)
    return count


def offer_of(
    line: FoundRecord, now: datetime, open_races: Container[str], past: Container[str] = (), *, announced: bool
) -> RaceUpdate | None:
    """What a whole record offers; None where it is neither kept nor announced, or cannot be read.

    A card or a result opens its race while the off is recent or to come. What is told of a race that is not open
    waits for its card, unless that is known to be `past`.
    """
    of = about(line.text)
    if not announced and of.race_id not in open_races:
        if of.race_id in past and of.kind not in RACES:
            return None
        known_at = known_at_of(line.text) if of.race_id is not None else None
        if known_at is None or known_at < now - DECLARED_AHEAD:
            return None
    try:
        record = upgraded(orjson.loads(line.text))
        message = from_record(record)
    except UNREADABLE:
        return None
    assert message.known_at is not None
    off_time = message.race.off_time if isinstance(message, Racecard | Result) else None
    waits = off_time is None and of.race_id not in open_races
    awaited = message.known_at >= now - DECLARED_AHEAD and of.race_id not in past
    recent = awaited if waits else off_time is None or off_time >= now - KEEP
    kept = of.race_id is not None and recent
    if not kept and not announced:
        return None
    named = _named(message) if isinstance(message, Racecard) else b""
    return RaceUpdate(
        line.seq, of.kind, of.race_id or "", message.known_at, _bare(record), off_time, kept, announced, waits, named
    )


def _named(card: Racecard) -> bytes:
    """A card that says of its horses no more than who they are and whether they are marked."""
    race = Race(card.race.race_id, card.race.race_date, card.race.off_time, card.race.course)
    runners = tuple(Runner(one.horse_id, status=one.status) for one in card.runners)
    return orjson.dumps(to_record(Racecard(race, runners, card.known_at)))


def _bare(record: dict[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in record.items() if name not in ("crc", "digest", "origin")})


def _lines(home: Home, go_on: Callable[[], None]) -> Iterator[FoundRecord]:
    """The whole records of a log, to its end."""
    tail = LogTail(home, 0)
    try:
        while lines := tail.read(READ_AT_ONCE):
            go_on()
            yield from (line for line in lines if line.whole)
    finally:
        tail.close()
