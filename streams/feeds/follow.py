"""Follow a feed into the log until stopped: append each message once, and a tick at each local midnight.

The order of the steps makes a batch safe: append, sync the log, write the dead letters, save the offset, acknowledge. After
a crash between two steps the feed delivers the batch again; messages already in the log are recognised by their offsets.
The log's lock is held for one batch at a time, so that other processes can append between two batches.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Final, Literal, Protocol

from velo.errors import Refused
from velo.racing.clock import local_date, local_midnight, to_text
from velo.racing.messages import Result
from velo.storage.log.appender import LogInUse
from velo.storage.log.turns import Turns
from velo.storage.log.writer import Clock, LogWriter
from velo.storage.store import Store
from velo.streams.feeds import source as offsets
from velo.streams.feeds.source import Delivery, Feed, FeedAway, FeedOffsets
from velo.streams.feeds.validation import MessageValidator, ValidMessage, letter
from velo.streams.importers import dead_letters
from velo.streams.importers.dead_letters import DeadLetter
from velo.streams.importers.race_maker import is_early

BATCH: Final = 256
"""The most messages between two syncs, for a feed faster than the disk; a single message is synced at once."""
WAIT_S: Final = 1.0
"""Seconds to wait for an idle feed, and between retries of an unreachable one."""
UNDECLARED_TOLD: Final = 20
"""The most undeclared messages that a report quotes."""
_log = logging.getLogger(__name__)


class Stop(Protocol):
    """Ends the following, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Pause for `timeout` seconds, or until stopped."""


@dataclass(frozen=True, slots=True)
class FollowReport:
    """Counts of the messages taken: each was appended, identical to one in the log, or refused for a reason.

    `appended` includes `lower_version`, and `identical` includes `delivered_again`. `dead_letters` counts new ones.
    `away` counts how often the feed was lost. The next run continues after the offset `settled`. `undeclared` counts the
    appended messages about an undeclared race or horse; `undeclared_told` quotes the last of them.
    """

    feed: str
    taken: int
    appended: int
    identical: int
    delivered_again: int
    lower_version: int
    refused: Mapping[str, int]
    dead_letters: int
    ticks: int
    away: int
    warnings: Mapping[str, int]
    settled: str | None
    next_seq: int
    undeclared: int = 0
    undeclared_told: tuple[str, ...] = ()


def follow(
    store: Store,
    feed: Feed,
    *,
    clock: Clock,
    stop: Stop,
    once: bool = False,
    progress: Callable[[int], None] | None = None,
) -> FollowReport:
    """Append a feed's messages until `stop` is set or, with `once`, the feed has no more.

    Retries an unreachable feed, and a log that another process is writing. Calls `progress` after each batch with the number of messages taken so far. Raises
    `UserError` if another process follows the feed, or at the start writes to the log, if the disk is full, or if the feed
    has lost messages not yet taken.
    """
    with opened(store, feed, clock=clock) as following:
        while not stop.is_set():
            step = following.step()
            if step == "taken" and progress:
                progress(following.taken)
            elif step == "away":
                stop.wait(WAIT_S)
            elif step == "nothing" and once:
                break
        return following.report()


@contextmanager
def opened(store: Store, feed: Feed, *, clock: Clock) -> Iterator["FeedFollower"]:
    """Open a follower of a feed, to be run step by step; holds the feed's lock. Raises `UserError` as `follow` does."""
    moment = _Moment(clock)
    turns = Turns(store, moment.last)
    with offsets.held(store.home, feed.name):
        with turns.turn() as writer:
            next_seq = writer.next_seq
        where = offsets.read(store.home, feed.name)
        yield FeedFollower(feed, moment, turns, MessageValidator.of(store), where, next_seq)


class _Moment:
    """A clock read once per message: one instant decides on a tick and stamps the message after it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instant = clock()

    def read(self) -> datetime:
        self._instant = self._clock()
        return self._instant

    def last(self) -> datetime:
        return self._instant


Step = Literal["taken", "nothing", "away"]
"""`away` where the feed does not answer, or another process holds the log."""


@dataclass(slots=True)
class FeedFollower:
    """Appends a feed's messages to a log; use `opened`."""

    feed: Feed
    moment: _Moment
    turns: Turns
    validator: MessageValidator
    offsets: FeedOffsets
    next_seq: int
    taken: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    letters: list[DeadLetter] = field(default_factory=list)
    undeclared: deque[str] = field(default_factory=lambda: deque(maxlen=UNDECLARED_TOLD))
    begun: bool = False
    lost: bool = False
    next_midnight: datetime | None = None
    _batch: Sequence[Delivery] = ()
    _appending: Lock = field(default_factory=Lock)

    def step(self) -> Step:
        """Append the next batch, or wait a while for one; what was appended is then on the disk."""
        try:
            if self._tick_is_due():
                with self._turn() as writer:
                    self._tick_if_due(writer)
            batch = self._batch = self._batch or self.take()
            if batch:
                with self._turn() as writer:
                    self.settle(batch, writer)
                self._batch = ()
        except (FeedAway, LogInUse) as why:
            self.is_away(why)
            return "away"
        if self.lost:
            _log.warning("feed.back feed=%s", self.feed.name)
            self.lost = False
        return "taken" if batch else "nothing"

    @contextmanager
    def durable(self) -> Iterator[int | None]:
        """The record before which the log is on the disk; None, until the block ends, where that is all of it.

        For the thread that reads the log beside this one: it does not wait for a batch that is being appended.
        """
        if not self._appending.acquire(blocking=False):
            yield self.next_seq
            return
        try:
            yield None
        finally:
            self._appending.release()

    @contextmanager
    def _turn(self) -> Iterator[LogWriter]:
        with self._appending, self.turns.turn() as writer:
            self.next_seq = writer.next_seq
            yield writer
            writer.sync()
            self.next_seq = writer.next_seq

    def take(self) -> Sequence[Delivery]:
        """Return the next batch; the first begins after the settled offset."""
        if not self.begun:
            self.feed.begin(self.offsets.settled)
            self.begun = True
        return self.feed.take(BATCH, self._wait_s())

    def is_away(self, why: FeedAway | LogInUse) -> None:
        """Log that the feed, or the log, is unavailable: once per outage."""
        if not self.lost:
            _log.warning("feed.away feed=%s why=%s: waiting for it, nothing is lost", self.feed.name, why)
            self.counts["away"] += 1
            self.lost = True

    def settle(self, batch: Sequence[Delivery], writer: LogWriter) -> None:
        """Append a batch and write everything to disk before acknowledging it to the feed."""
        for delivery in batch:
            self.moment.read()
            self._tick_if_due(writer)
            self._append(delivery, writer)
        writer.sync()
        home = writer.store.home
        if self.letters:
            self.counts["dead_letters"] += dead_letters.write(home, self.letters, self.moment.last())
            self.letters.clear()
        at = batch[-1].settles
        offsets.settle(home, self.feed.name, at, writer.next_seq)
        self.offsets = FeedOffsets(at, self.offsets.appended)
        self.feed.settle(at)

    def _append(self, delivery: Delivery, writer: LogWriter) -> None:
        self.taken += 1
        now, end = self.moment.last(), writer.known_at
        taken = self.validator.take(delivery.body, now if end is None else max(now, end))
        if not isinstance(taken, ValidMessage):
            self._refuse(taken)
            return
        message = taken.message
        # the version identifies a result; only the offset identifies a second delivery of another message
        if self.offsets.was_appended(delivery) and not isinstance(message, Result):
            self.counts.update(("identical", "delivered_again"))
            return
        if self.turns.store.keys is None:
            self.turns.store = writer.store = writer.store.with_keys(self.validator.policy)
        try:
            appended = writer.append(message, taken.kept, {"feed": self.feed.name + delivery.part, "at": delivery.at})
        except Refused as why:
            about = {"race_id": message.race_id, "result_version": getattr(message, "result_version", None)}
            self._refuse(letter(delivery.body, about, why))
            return
        if appended.seq is not None and isinstance(message, Result) and is_early(message, self.moment.last()):
            _log.warning(
                "feed.early seq=%s race=%s off=%s: taken, the race is decided before its first result",
                appended.seq,
                message.race_id,
                to_text(message.race.off_time),
            )
        if appended.seq is None:
            again = self.offsets.was_appended(delivery)
            self.counts.update(("identical", "delivered_again") if again else ("identical",))
        else:
            self.counts.update({"appended", appended.outcome})
        if appended.undeclared is not None:
            self.counts["undeclared"] += 1
            line = appended.undeclared.says
            if line not in self.undeclared:  # a market can repeat every few seconds
                self.undeclared.append(line)
                _log.warning("feed.undeclared seq=%s %s: kept for a card before the off", appended.seq, line)

    def _refuse(self, refused: DeadLetter) -> None:
        self.refused[refused.reason] += 1
        self.letters.append(refused)
        _log.warning("feed.refused race=%s reason=%s detail=%s", refused.race_id, refused.reason, refused.detail)

    def _tick_is_due(self) -> bool:
        now = self.moment.read()
        return self.next_midnight is None or now >= self.next_midnight

    def _tick_if_due(self, writer: LogWriter) -> None:
        """Append a tick if the latest local midnight is not yet in the log.

        Leaves an empty log alone: after a tick, every result of a bulk load would be late.
        """
        now = self.moment.last()
        if writer.known_at is None or (self.next_midnight is not None and now < self.next_midnight):
            return
        timezone = writer.store.timezone
        today = local_date(now, timezone)
        self.next_midnight = local_midnight(today + timedelta(days=1), timezone)
        if writer.tick(local_midnight(today, timezone)).seq is not None:
            writer.sync()
            self.counts["ticks"] += 1

    def _wait_s(self) -> float:
        if self.next_midnight is None:
            return WAIT_S
        return min(WAIT_S, max(0.001, (self.next_midnight - self.moment.last()).total_seconds()))

    def report(self) -> FollowReport:
        """The counts so far."""
        counts = self.counts
        return FollowReport(
            feed=self.feed.name,
            taken=self.taken,
            appended=counts["appended"],
            identical=counts["identical"],
            delivered_again=counts["delivered_again"],
            lower_version=counts["lower_version"],
            refused=dict(self.refused),
            dead_letters=counts["dead_letters"],
            ticks=counts["ticks"],
            away=counts["away"],
            warnings=dict(self.validator.warnings),
            settled=self.offsets.settled,
            next_seq=self.next_seq,
            undeclared=counts["undeclared"],
            undeclared_told=tuple(self.undeclared),
        )
