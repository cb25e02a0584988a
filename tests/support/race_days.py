"""A race day replayed: cards in the morning, changes and results as they fell, a stream beside it, scores when decided."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.support.services import a_service
from velo.feature_repo.stores.race_cards import RaceCards
from velo.feature_repo.stores.redis_client import connect
from velo.racing.cards import without_outcome
from velo.racing.clock import local_date, local_midnight
from velo.racing.messages import Message, Racecard, Result
from velo.serving.scoring.feature_matrix import FeatureMatrix
from velo.serving.scoring.online_race import CatchingUp
from velo.serving.scoring.scored import ScoredRace, fingerprint
from velo.serving.scoring.scorer import Scorer
from velo.storage.log.writer import LogWriter
from velo.storage.store import Store
from velo.streams.dataflow.metrics import Telemetry
from velo.streams.dataflow.runtime import StreamOptions, plan, run

LEAD = timedelta(minutes=5)
WAIT_S = 60.0


@dataclass
class Day:
    """A stream that follows a log, and what is sent and asked as the clock goes on."""

    store: Store
    now: datetime
    scorer: Scorer = field(init=False)
    writer: LogWriter = field(init=False)
    cards: RaceCards = field(init=False)

    def __post_init__(self) -> None:
        self.scorer = a_service(self.store, lambda: self.now).scorer
        self.cards = RaceCards(connect(self.store.home))

    def tell(self, message: Message, at: datetime) -> None:
        """One message at an instant, readable in Redis when this returns."""
        self.now = at
        seq = self.writer.append(message).seq
        self.writer.sync()
        until = time.monotonic() + WAIT_S
        while (head := self.cards.head()) is None or head.seq < (seq or 0) or not head.live:
            assert time.monotonic() < until, "the stream does not follow"
            time.sleep(0.002)

    def score(self, race_id: str, at: datetime) -> tuple[ScoredRace, FeatureMatrix]:
        """A race scored at an instant, with the vectors it was scored on."""
        self.now = at
        until = time.monotonic() + WAIT_S
        while True:
            try:
                scored = self.scorer.score(race_id, at, with_drivers=False)
                reading, rows, _ = self.scorer.online.features(race_id, at)
            except CatchingUp:
                if time.monotonic() > until:
                    raise
                continue
            vectors = reading.feature_matrix(rows, at)
            head = self.cards.head()
            assert head is not None
            # a reading may stand just before the last result: whole, but not what a later training row knows
            if scored.as_of == head.known_at and fingerprint(reading.race, vectors) == scored.fingerprint:
                return scored, vectors
            assert time.monotonic() < until, "the rows of the last result never came"


@contextmanager
def a_day(store: Store, now: datetime) -> Iterator[Day]:
    """The day of a store, its stream live."""
    day, stop = Day(store, now), threading.Event()
    options = StreamOptions(snapshot_every=timedelta(seconds=0.2))
    arguments = (plan(store), options, lambda: day.now, Telemetry())
    with LogWriter.open(store, clock=lambda: day.now) as writer:
        day.writer = writer
        writer.tick(local_midnight(local_date(now, store.timezone), store.timezone))
        thread = threading.Thread(target=run, args=arguments, kwargs={"stop": stop})
        thread.start()
        try:
            yield day
        finally:
            stop.set()
            thread.join()


def card_of(result: Result, scratched: Sequence[str] = ()) -> Racecard:
    """The card that version 1 of a result stands for, without outcomes; and who was scratched later, still on it."""
    declared = (runner for runner in result.runners if runner.started or runner.horse_id in scratched)
    return Racecard(result.race, tuple(map(without_outcome, declared)))
