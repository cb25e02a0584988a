"""A thread that checks every second whether Redis still holds what the stream wrote, even when nothing is to be written.

A writer notices at its next write that Redis was emptied, restored from older data, filled by another store, or lost keys. A
stream without new messages notices it here.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, Final

from velo.feature_repo.stores.race_cards import CardsPosition, RaceCards
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
"""Checks to wait before views are filled again while a server keeps evicting: each fill may cause evictions itself."""


@dataclass(slots=True)
class Keeper:
    """Checks until `stop` is set. An error that needs a restart, or the operator, goes to `failed` and sets `stop`."""

    sink: RedisSink
    stop: threading.Event
    failed: BaseException | None = None
    _evicted: int | None = None
    _checks_left: int = 0
    _head: tuple[int, int] = (-1, -1)
    _races: int = 0
    _thread: threading.Thread | None = field(default=None)

    def start(self) -> None:
        """Start to check every second, in a thread of its own."""
        self._thread = threading.Thread(target=self._work, name="velo-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait for the last check."""
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Check once, and have incomplete views filled. Raises `UserError` where Redis does not answer."""
        partitions = dict(self.sink.partitions)
        if len(partitions) < len(self.sink.views):
            return
        client = self.sink.connect()
        views = [*partitions]
        held = dict(zip(views, read(client, [partition.view.layout for partition in partitions.values()]), strict=True))
        try:
            refuse_other_store(self.sink.home, "Redis", {view: contents.owner for view, contents in held.items()})
        except OtherStore as theirs:
            raise RestartRequired(str(theirs)) from None
        incomplete = self._incomplete(partitions, held, vitals(client))
        for partition in incomplete:
            self.sink.flusher.ask(partition)
        head = RaceCards(client).head()
        if not incomplete and self._cards_whole(client, head) and head is not None and head.live:
            remember_head(self.sink.home, head.generation, head.seq)

    def _incomplete(
        self, partitions: dict[str, RedisPartition], held: dict[str, RedisContents], server: Vitals
    ) -> list[RedisPartition]:
        fewest = fewest_keys({view: contents.rows for view, contents in held.items()})
        evicted, self._evicted = self._evicted, server.evicted
        self._checks_left -= 1
        dropped = evicted is not None and server.evicted > evicted and self._checks_left <= 0
        if dropped or server.keys < fewest:
            self._checks_left = EVICTED_EVERY
            remedy = may_evict(server)
            say("stream.redis_lost_keys", keys=server.keys, at_least=fewest, evicted=server.evicted, remedy=remedy)
            # the server does not say which keys it dropped: any view may lack rows
            for partition in partitions.values():
                partition.view.suspect = True
            return [*partitions.values()]
        return [partition for view, partition in partitions.items() if partition.view.differs(held[view])]

    def _cards_whole(self, client: Any, head: CardsPosition | None) -> bool:
        """Whether Redis has every race it had; else they are written again, here or with the cards' next write."""
        cards, now, log_end = RaceCards(client), self.sink.clock(), end(self.sink.home)
        lost, self._races = cards.lost(now, self._races)
        at = (-1, -1) if head is None else (head.generation, head.seq)
        # the stream may have advanced Redis since the last check, but not beyond the log, whose tail can be lost
        reached = min(head_remembered(self.sink.home) or (-1, -1), (generation(self.sink.home), log_end.next_seq - 1))
        if at >= max(self._head, reached) and not lost and (head is not None or not log_end.next_seq):
            self._head = at
            return True
        self.sink.cards_lost.set()
        if self._idle():
            bring_up(self.sink.home, client, now, self.sink.waiting.go_on, live=True, again=True)
            self.sink.cards_lost.clear()
        self._head = (-1, -1)
        return False

    def _idle(self) -> bool:
        """Whether everything in the log was read and written."""
        where = position(self.sink.home)
        read_all = where is not None and where.at_end and where.next_seq == end(self.sink.home).next_seq
        pending = any(partition.waits() for partition in self.sink.partitions.values())
        return read_all and self.sink.flusher.idle() and not pending

    def _report_policy(self) -> None:
        if remedy := may_evict(vitals(self.sink.connect())):
            say("stream.redis_may_evict", reason=remedy)

    def _work(self) -> None:
        try:
            self.sink.waiting.until_done("online", self._report_policy)
            while not self.stop.wait(EVERY_SECONDS):
                self.sink.waiting.until_done("online", self.check)
        except StoppedWhileRetrying:
            return
        except BaseException as failed:  # noqa: BLE001  raised where the stream ends
            self.failed = failed
            self.stop.set()
