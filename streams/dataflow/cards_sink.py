"""The sink of race cards: writes each message about a race to come or just run to Redis as it arrives.

Redis keeps only races whose off is recent or to come; the events of all live messages are published. A Redis without the
open races gets them from the log first: they are few, and need no replay.
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
from velo.racing.messages import Market, Race, Racecard, Result, Runner, from_record, to_record
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
"""How many past races are remembered: a message about a race comes within this many races of its card."""
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
    """Set where Redis is known to have lost races: they are written again before the next write."""

    def list_parts(self) -> list[str]:
        """Return the one partition: the log is one sequence, and so are its cards."""
        return [PART]

    def part_fn(self, item_key: str) -> int:
        """Return the one partition."""
        return 0

    def prepare(self, base: int) -> None:
        """Write the open races to Redis before the first record, after the views: the engine makes a sink only for its first item."""

        def write_open_races() -> None:
            bring_up(self.home, self.connect(), self.clock(), self.waiting.go_on, live=True, up_to=base)

        self.waiting.until_done("online", write_open_races)

    def at_end(self) -> None:
        """Mark Redis as live if its position is the log's end: the stream has ended, and every row is written."""

        def mark() -> None:
            cards = RaceCards(self.connect())
            head = cards.head()
            if head is not None and (head.generation, head.seq) == (generation(self.home), end(self.home).next_seq - 1):
                cards.offer(head.generation, [], self.clock(), replace(head, live=True))

        self.waiting.until_done("online", mark)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "CardsPartition":
        """Return the writer. It resumes nothing: a message that comes again after a restart changes nothing."""
        partition = CardsPartition(self)
        self.waiting.until_done("online", partition.make_ready)
        return partition


@dataclass(slots=True)
class CardsPartition(StatefulSinkPartition[LogRecord, None]):
    """The writer of cards. After a batch that was not live, the position it writes is not live for two snapshots.

    `_open` has the off of each open race that was written here, and `FOREVER` for those that Redis had before. `_past` has the
    last races with a card or result here that are not open: a message about one of them waits for no card.
    """

    sink: CardsSink
    _client: Any = None
    _open: dict[str, datetime] = field(default_factory=dict)
    _past: dict[str, None] = field(default_factory=dict)
    _behind: int = 0

    def make_ready(self) -> None:
        """Connect; a Redis that does not have all of the log gets its open races first."""
        client, now = self.sink.connect(), self.sink.clock()
        # this batch is part of the log's end, and is not written yet: the head stays where it is
        bring_up(self.sink.home, client, now, live=False, up_to=0, again=self.sink.lost.is_set())
        self.sink.lost.clear()
        self._open = dict.fromkeys(RaceCards(client).races(now - KEEP, FOREVER), FOREVER) | self._open
        self._client = client

    def write_batch(self, values: list[LogRecord]) -> None:
        """Write these records; the events of live ones are readable on return."""
        if not values[-1].live:
            # while the stream catches up, the feature rows are written up to a snapshot later
            self._behind = 2
        updates = [update for record in values if (update := self._update_of(record)) is not None]
        head = self._head(values[-1].line)
        self.sink.waiting.until_done("online", lambda: self._write(updates, head))

    def snapshot(self) -> None:
        """Return no state: the log has it all."""
        horizon = self.sink.clock() - KEEP
        self._past |= dict.fromkeys(race_id for race_id, off_time in self._open.items() if off_time < horizon)
        self._open = {race_id: off_time for race_id, off_time in self._open.items() if off_time >= horizon}
        if self._behind:
            self._behind -= 1
            if not self._behind:
                self.sink.waiting.until_done("online", self._now_live)

    def _update_of(self, record: LogRecord) -> RaceUpdate | None:
        if not record.line.whole:
            return None
        update = update_of(record.line, self.sink.clock(), self._open, self._past, announced=record.live)
        if update is not None and update.kept and update.off_time is not None:
            self._open[update.race_id] = update.off_time
            self._past.pop(update.race_id, None)
        elif (of := about(record.line.text)).kind in RACES and of.race_id is not None and of.race_id not in self._open:
            self._past[of.race_id] = None
            if len(self._past) > PAST_HELD:
                self._past.pop(next(iter(self._past)))
        return update

    def _write(self, updates: list[RaceUpdate], head: CardsPosition | None) -> None:
        if self._client is None or self.sink.lost.is_set():
            self.make_ready()
        try:
            RaceCards(self._client).offer(generation(self.sink.home), updates, self.sink.clock(), head)
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
    """Write the open races to a Redis that does not have all of the log, or lost races (`again`); then write its position.

    The position is the log's end, `live` or not. Where Redis has the feature rows only before record `up_to`, it is that
    record, and not live. With an `up_to` of 0 no position is written.
    """
    cards, number, log_end = RaceCards(client), generation(home), end(home)
    head = cards.head()
    behind = head is None or (head.generation, head.seq) < (number, log_end.next_seq - 1)
    if again or behind or cards.form() != FORM:
        say("stream.filled_cards", messages=fill(home, cards, now, go_on))
        cards.has_form()
    if up_to is not None and up_to < log_end.next_seq:
        reached = _head_before(home, number, up_to)
    else:
        reached = CardsPosition(number, log_end.next_seq - 1, log_end.known_at, live) if log_end.known_at else None
    if reached is not None:
        cards.offer(number, [], now, reached)
        if (number, reached.seq) > (head_remembered(home) or (-1, -1)):
            remember_head(home, number, reached.seq)


def _head_before(home: Home, number: int, seq: int) -> CardsPosition | None:
    """Return the position before a record, not live; None where there is none, or the record cannot be read."""
    if seq == 0:
        return None
    try:
        last = next(reader.records(home, seq - 1))
    except UserError:
        return None
    return CardsPosition(number, seq - 1, from_text(last["known_at"]), live=False)


def fill(home: Home, cards: RaceCards, now: datetime, go_on: Callable[[], None] = go_on) -> int:
    """Write every message of the log about an open race, or that waits for its card; returns their number.

    Two readings of the log: the first finds the races, the second writes their messages. The position stays as it is. Nothing
    is published: a listener that reconnects reads the races again.
    """
    open_races, raced, noticed = set[str](), set[str](), set[str]()
    for line in _lines(home, go_on):
        of = about(line.text)
        known_at = known_at_of(line.text) if of.race_id is not None else None
        if of.race_id is None or known_at is None or known_at < now - DECLARED_AHEAD:
            continue
        if of.kind in RACES:
            raced.add(of.race_id)
            if update_of(line, now, open_races, announced=False) is not None:
                open_races.add(of.race_id)
        elif of.race_id not in raced:
            noticed.add(of.race_id)
    wanted = open_races | (noticed - raced)
    count, updates = 0, list[RaceUpdate]()
    for line in _lines(home, go_on) if wanted else ():
        update = update_of(line, now, open_races, announced=False) if about(line.text).race_id in wanted else None
        if update is None:
            continue
        updates.append(update)
        count += 1
        if len(updates) == READ_AT_ONCE:
            cards.offer(generation(home), updates, now)
            updates = []
    cards.offer(generation(home), updates, now)
    return count


def update_of(
    line: FoundRecord, now: datetime, open_races: Container[str], past: Container[str] = (), *, announced: bool
) -> RaceUpdate | None:
    """Return the update of a whole record; None where it is neither kept nor announced, or cannot be read.

    A card or a result opens its race while the off is recent or to come. A message about a race that is not open waits for
    its card, unless the race is known to be `past`.
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
    source = message.source if isinstance(message, Market) else None
    return RaceUpdate(
        line.seq,
        of.kind,
        of.race_id or "",
        message.known_at,
        _bare(record),
        off_time,
        kept,
        announced,
        waits,
        named,
        source,
    )


def _named(card: Racecard) -> bytes:
    """Return a card with no more of its horses than their keys and statuses."""
    race = Race(card.race.race_id, card.race.race_date, card.race.off_time, card.race.course)
    runners = tuple(Runner(runner.horse_id, status=runner.status) for runner in card.runners)
    return orjson.dumps(to_record(Racecard(race, runners, card.known_at)))


def _bare(record: dict[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in record.items() if name not in ("crc", "digest", "origin")})


def _lines(home: Home, go_on: Callable[[], None]) -> Iterator[FoundRecord]:
    """Yield the whole records of a log, to its end."""
    tail = LogTail(home, 0)
    try:
        while lines := tail.read(READ_AT_ONCE):
            go_on()
            yield from (line for line in lines if line.whole)
    finally:
        tail.close()
