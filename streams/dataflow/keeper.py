"""One thread of a stream that looks each second whether Redis still holds what it was given, though nothing is to be written.

What a writer finds at its next write, a stream without news finds here: a Redis that was emptied, restored from older data,
filled by another store, or that lost keys.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Final

from velo.feature_repo.stores.race_cards import CardsPosition, RaceCards
from velo.feature_repo.stores.redis_layout import Layout
from velo.feature_repo.stores.whole import (
    OtherStore,
    RedisContents,
    Vitals,
    fewest_keys,
    head_remembered,
    may_evict,
    read,
    refuse_other_store,
    remember_head,
    vitals,
)
from velo.storage.log.format import generation
from velo.storage.log.reader import end
from velo.streams.dataflow.cards_sink import bring_up
from velo.streams.dataflow.metrics import position, say
from velo.streams.dataflow.redis_sink import RedisPartition, RedisSink
from velo.streams.dataflow.retry import RestartRequired, StoppedWhileRetrying

EVERY_SECONDS: Final = 1.0
EVICTED_EVERY: Final = 30
"""Looks after which views are filled again where a server goes on evicting: each filling may evict in its turn."""


@dataclass(slots=True)
class Keeper:
    """Looks until `stop` is set. `failed` is what only another start, or the operator, can mend; it sets `stop` itself."""

    sink: RedisSink
    stop: threading.Event
    failed: BaseException | None = None
    _evicted: int | None = None
    _patience: int = 0
    _head: tuple[int, int] = (-1, -1)
    _races: int = 0
    _thread: threading.Thread | None = field(default=None)

    def start(self) -> None:
        """Look each second from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._work, name="velo-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for the last look."""
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Look once; views that are not whole are asked to be filled. Raises `UserError` where Redis does not answer."""
        partitions = dict(self.sink.partitions)
        if len(partitions) < len(self.sink.views):
            return
        client = self.sink.connect()
        views = [*partitions]
        held = dict(zip(views, read(client, [Layout.of(one.family) for one in partitions.values()]), strict=True))
        try:
            refuse_other_store(self.sink.home, "Redis", {view: one.owner for view, one in held.items()})
        except OtherStore as theirs:
            raise RestartRequired(str(theirs)) from None
        missed = self._missed(partitions, held, vitals(client))
        for one in missed:
            self.sink.flusher.ask(one)
        head = RaceCards(client).head()
        if not missed and self._cards_whole(client, head) and head is not None and head.live:
            remember_head(self.sink.home, head.generation, head.seq)

    def _missed(
        self, partitions: dict[str, RedisPartition], held: dict[str, RedisContents], told: Vitals
    ) -> list[RedisPartition]:
        fewest = fewest_keys({view: one.rows for view, one in held.items()})
        evicted, self._evicted = self._evicted, told.evicted
        self._patience -= 1
        dropped = evicted is not None and told.evicted > evicted and self._patience <= 0
        if dropped or told.keys < fewest:
            self._patience = EVICTED_EVERY
            say("stream.redis_lost_keys", keys=told.keys, at_least=fewest, evicted=told.evicted, remedy=may_evict(told))
            for one in partitions.values():
                one.suspect = True
            return [*partitions.values()]
        return [one for view, one in partitions.items() if one.differs(held[view])]

    def _cards_whole(self, client: Any, head: CardsPosition | None) -> bool:
        """Whether Redis has every race it had; else they are brought again, here or with the cards' next write."""
        cards, now, log_end = RaceCards(client), self.sink.clock(), end(self.sink.home)
        lost, self._races = cards.lost(now, self._races)
        at = (-1, -1) if head is None else (head.generation, head.seq)
        # the stream may have brought Redis further since the last look; no further than the log, whose tail can be lost
        reached = min(head_remembered(self.sink.home) or (-1, -1), (generation(self.sink.home), log_end.next_seq - 1))
        if at >= max(self._head, reached) and not lost and (head is not None or not log_end.next_seq):
            self._head = at
            return True
        self.sink.cards_lost.set()
        if self._idle():
            bring_up(self.sink.home, client, now, self.sink.waiting.go_on, live=True, anew=True)
            self.sink.cards_lost.clear()
        self._head = (-1, -1)
        return False

    def _idle(self) -> bool:
        """Whether all of the log was read and written."""
        where = position(self.sink.home)
        read_all = where is not None and where.at_end and where.next_seq == end(self.sink.home).next_seq
        waits = any(one.waits() for one in self.sink.partitions.values())
        return read_all and self.sink.flusher.idle() and not waits

    def _tell_policy(self) -> None:
        if remedy := may_evict(vitals(self.sink.connect())):
            say("stream.redis_may_evict", because=remedy)

    def _work(self) -> None:
        try:
            self.sink.waiting.until_done("online", self._tell_policy)
            while not self.stop.wait(EVERY_SECONDS):
                self.sink.waiting.until_done("online", self.look)
        except StoppedWhileRetrying:
            return
        except BaseException as failed:  # noqa: BLE001  raised where the stream ends
            self.failed = failed
            self.stop.set()
