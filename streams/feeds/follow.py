"""From a feed to the log, for as long as it is wanted: each message once, a tick at each local midnight.

The order of a batch is what makes it safe: append, sync the log, write the dead letters, keep the place, tell the
server. A crash anywhere in between delivers the batch again, and what the log holds of it already is known by its place.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

from streams.feeds import offsets
from streams.feeds.offsets import FeedOffsets
from streams.feeds.source import Delivery, Feed, FeedAway
from streams.feeds.validation import MessageValidator, ValidMessage, letter
from streams.importers import dead_letters
from streams.importers.dead_letters import DeadLetter
from streams.importers.results import is_early
from velo.errors import Refused
from velo.racing.clock import local_date, local_midnight, to_text
from velo.racing.messages import Result
from velo.storage.log.writer import Clock, LogWriter
from velo.storage.store import Store

BATCH: Final = 256
"""Messages between two syncs where they come faster than the disk; a message that comes alone is synced alone."""
WAIT_S: Final = 1.0
"""How long one look at an idle feed lasts, and the pause before one that is away is tried again."""
UNDECLARED_TOLD: Final = 20
"""How many messages about nobody a report tells word for word."""
_log = logging.getLogger(__name__)


class Stop(Protocol):
    """What ends the following; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to end."""

    def wait(self, timeout: float) -> bool:
        """Pause, less long where the end is asked for meanwhile."""


@dataclass(frozen=True, slots=True)
class FollowReport:
    """What became of the messages taken: each was appended, identical to what the log holds, or refused by a reason.

    `lower_version` counts among `appended`, `delivered_again` among `identical`. `dead_letters` are those that are
    new. `away` counts how often the feed was lost. `settled` is the place from which the next run goes on. `undeclared`
    counts the appended messages that named a race or a horse which nobody had declared, `undeclared_told` has the last.
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
    store: Store, feed: Feed, *, clock: Clock, stop: Stop, once: bool = False, told: Callable[[int], None] | None = None
) -> FollowReport:
    """Append what a feed brings until `stop` is set or, with `once`, there is nothing more; holds the log's lock.

    A feed that goes away is waited for. `told` hears after each batch how many messages were taken so far. Raises
    `UserError` where another process writes to the log, the disk is full, or the feed has lost messages not yet taken.
    """
    with opened(store, feed, clock=clock) as following:
        while not stop.is_set():
            step = following.step()
            if step == "taken" and told:
                told(following.taken)
            elif step == "away":
                stop.wait(WAIT_S)
            elif step == "nothing" and once:
                break
        return following.report()


@contextmanager
def opened(store: Store, feed: Feed, *, clock: Clock) -> Iterator["FeedFollower"]:
    """The following of a feed, which goes on step by step and holds the log's lock; raises `UserError` where it cannot."""
    moment = _Moment(clock)
    with LogWriter.open(store, clock=moment.last) as writer:
        writer.sync()
        yield FeedFollower(feed, moment, writer, MessageValidator.of(store), offsets.read(store.home, feed.name))


class _Moment:
    """The clock, read once a message: what decides on a tick is what stamps the message after it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instant = clock()

    def read(self) -> datetime:
        self._instant = self._clock()
        return self._instant

    def last(self) -> datetime:
        return self._instant


Step = Literal["taken", "nothing", "away"]


@dataclass(slots=True)
class FeedFollower:
    """A feed on its way into a log; use `opened`."""

    feed: Feed
    moment: _Moment
    writer: LogWriter
    door: MessageValidator
    places: FeedOffsets
    taken: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    letters: list[DeadLetter] = field(default_factory=list)
    undeclared: deque[str] = field(default_factory=lambda: deque(maxlen=UNDECLARED_TOLD))
    begun: bool = False
    lost: bool = False
    next_midnight: datetime | None = None
    _safe_seq: int = field(init=False)

    def __post_init__(self) -> None:
        self._safe_seq = self.writer.next_seq

    def step(self) -> Step:
        """Append what has come, or wait a while for it: before `safe_seq` all of the log is on the disk afterwards."""
        self.tick_where_due()
        try:
            batch = self.take()
        except FeedAway as why:
            self.is_away(why)
            return "away"
        if batch:
            self.settle(batch)
        return "taken" if batch else "nothing"

    @property
    def safe_seq(self) -> int:
        """The log before it is on the disk; it may be asked for by another thread."""
        return self._safe_seq

    def take(self) -> Sequence[Delivery]:
        """The next batch; the first one begins after what is settled."""
        if not self.begun:
            self.feed.begin(self.places.settled)
            self.begun = True
        batch = self.feed.take(BATCH, self._wait_s())
        if self.lost:
            _log.warning("feed.back feed=%s", self.feed.name)
            self.lost = False
        return batch

    def is_away(self, why: FeedAway) -> None:
        """Say so, once for each time that it goes."""
        if not self.lost:
            _log.warning("feed.away feed=%s why=%s: waiting for it, nothing is lost", self.feed.name, why)
            self.counts["away"] += 1
            self.lost = True

    def settle(self, batch: Sequence[Delivery]) -> None:
        """Append a batch, and have all that came of it on the disk before the feed hears of it."""
        for delivery in batch:
            self.tick_where_due()
            self._append(delivery)
        self._sync()
        home = self.writer.store.home
        if self.letters:
            self.counts["dead_letters"] += dead_letters.write(home, self.letters, self.moment.last())
            self.letters.clear()
        at = batch[-1].settles
        offsets.settle(home, self.feed.name, at, self.writer.next_seq)
        self.places = FeedOffsets(at, self.places.appended)
        self.feed.settle(at)

    def _append(self, delivery: Delivery) -> None:
        self.taken += 1
        now, end = self.moment.last(), self.writer.known_at
        taken = self.door.take(delivery.body, now if end is None else max(now, end))
        if not isinstance(taken, ValidMessage):
            self._refuse(taken)
            return
        message = taken.message
        # a result says by its version what it is; of the others only its place tells a second delivery from news
        if self.places.was_appended(delivery) and not isinstance(message, Result):
            self.counts.update(("identical", "delivered_again"))
            return
        if self.writer.store.keys is None:
            self.writer.store = self.writer.store.with_keys(self.door.policy)
        try:
            appended = self.writer.append(
                message, taken.kept, {"feed": self.feed.name + delivery.part, "at": delivery.at}
            )
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
            again = self.places.was_appended(delivery)
            self.counts.update(("identical", "delivered_again") if again else ("identical",))
        else:
            self.counts.update({"appended", appended.outcome})
        if appended.undeclared is not None:
            self.counts["undeclared"] += 1
            says = appended.undeclared.says
            if says not in self.undeclared:  # odds come every few seconds
                self.undeclared.append(says)
                _log.warning("feed.undeclared seq=%s %s: kept for a card before the off", appended.seq, says)

    def _refuse(self, refused: DeadLetter) -> None:
        self.refused[refused.reason] += 1
        self.letters.append(refused)
        _log.warning("feed.refused race=%s reason=%s detail=%s", refused.race_id, refused.reason, refused.detail)

    def tick_where_due(self) -> None:
        """Tell the log that the latest local midnight has passed, where it does not know it yet.

        An empty log is left alone: a tick would make every result that is loaded into it afterwards a late one.
        """
        now = self.moment.read()
        if self.writer.known_at is None or (self.next_midnight is not None and now < self.next_midnight):
            return
        timezone = self.writer.store.timezone
        today = local_date(now, timezone)
        self.next_midnight = local_midnight(today + timedelta(days=1), timezone)
        if self.writer.tick(local_midnight(today, timezone)).seq is not None:
            self._sync()
            self.counts["ticks"] += 1

    def _sync(self) -> None:
        self.writer.sync()
        self._safe_seq = self.writer.next_seq

    def _wait_s(self) -> float:
        if self.next_midnight is None:
            return WAIT_S
        return min(WAIT_S, max(0.001, (self.next_midnight - self.moment.last()).total_seconds()))

    def report(self) -> FollowReport:
        """The counts so far."""
        of = self.counts
        return FollowReport(
            feed=self.feed.name,
            taken=self.taken,
            appended=of["appended"],
            identical=of["identical"],
            delivered_again=of["delivered_again"],
            lower_version=of["lower_version"],
            refused=dict(self.refused),
            dead_letters=of["dead_letters"],
            ticks=of["ticks"],
            away=of["away"],
            warnings=dict(self.door.warnings),
            settled=self.places.settled,
            next_seq=self.writer.next_seq,
            undeclared=of["undeclared"],
            undeclared_told=tuple(self.undeclared),
        )
