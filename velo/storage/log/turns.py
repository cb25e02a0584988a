"""Live messages from many threads and processes: the log's lock is held only while one group of messages is written.

Messages that arrive while a group is being written form the next group, with one sync for all of them.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any, Final

from velo.errors import Refused, UserError
from velo.racing.messages import Message
from velo.storage.log.appender import LogInUse
from velo.storage.log.index import Index
from velo.storage.log.writer import Appended, Clock, LogWriter
from velo.storage.store import Store

WAIT_S: Final = 3.0
"""Seconds to wait for another process before `LogInUse` is raised."""
_POLL_S: Final = 0.005
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(slots=True)
class Turns:
    """Opens the log's writer for one group of messages at a time, and keeps its index between the groups.

    `wait_s` is how long a turn waits for another process. One thread at a time may use it.
    """

    store: Store
    clock: Clock
    wait_s: float = WAIT_S
    monotonic: Callable[[], float] = time.monotonic
    _index: Index | None = None

    @contextmanager
    def turn(self) -> Iterator[LogWriter]:
        """Hold the log's lock; what was appended is synced when the turn ends.

        Raises `LogInUse` where another process holds the log for `wait_s` seconds, and what the writer raises.
        """
        writer = self._opened()
        try:
            yield writer
            index = writer.close_to_go_on()
        except BaseException:
            writer.close()
            raise
        self._index = index

    def _opened(self) -> LogWriter:
        # an index that a failed writer left incomplete must not be used again
        index, self._index = self._index, None
        until = self.monotonic() + self.wait_s
        while True:
            try:
                return LogWriter.open(self.store, clock=self.clock, index=index)
            except LogInUse:
                if self.monotonic() > until:
                    self._index = index
                    raise
            time.sleep(_POLL_S)


@dataclass(slots=True)
class SharedWriter:
    """Appends live messages; thread-safe. `turns` is how it gets the log."""

    turns: Turns
    _queued: "deque[tuple[Message, Mapping[str, Any], Future[Appended]]]" = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, store: Store, clock: Clock, wait_s: float = WAIT_S) -> "SharedWriter":
        """The writer of a store's log; `wait_s` is how long an append waits for another process."""
        return cls(Turns(store, clock, wait_s))

    def append(self, message: Message, kept: Mapping[str, Any] = NOTHING) -> Appended:
        """Append a message with the fields `kept` beside it; it is synced to the disk when this returns.

        Raises `LogInUse` where another process holds the log for `turns.wait_s` seconds, `Refused` and `UserError` as `LogWriter.append` does.
        """
        future: Future[Appended] = Future()
        self._queued.append((message, kept, future))
        with self._lock:
            if not future.done():
                self._write_all()
        return future.result()

    def _write_all(self) -> None:
        group = [self._queued.popleft() for _ in range(len(self._queued))]
        try:
            outcomes = self._written(group)
        except BaseException as failed:
            for _, _, future in group:
                future.set_exception(failed)
            if not isinstance(failed, UserError):
                raise
            return
        for (_, _, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Refused):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _written(self, group: "list[tuple[Message, Mapping[str, Any], Future[Appended]]]") -> list[Appended | Refused]:
        outcomes: list[Appended | Refused] = []
        with self.turns.turn() as writer:
            for message, kept, _ in group:
                try:
                    outcomes.append(writer.append(message, kept))
                except Refused as refused:
                    outcomes.append(refused)
        return outcomes
