"""Live messages from many threads and processes: the log's lock is held only while one group of messages is written.

Messages that arrive while a group is being written form the next group, with one sync for all of them.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from velo.errors import Refused, UserError
from velo.racing.messages import Message
from velo.storage.log.appender import LogInUse
from velo.storage.log.index import Index
from velo.storage.log.writer import Appended, Clock, LogWriter
from velo.storage.store import Store

WAIT_S: Final = 3.0
"""Seconds to wait for another process before `LogInUse` is raised."""
_POLL_S: Final = 0.005


@dataclass(slots=True)
class SharedWriter:
    """Appends live messages; thread-safe."""

    store: Store
    clock: Clock
    wait_s: float = WAIT_S
    monotonic: Callable[[], float] = time.monotonic
    _index: Index | None = None
    _queued: "deque[tuple[Message, Future[Appended]]]" = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    def append(self, message: Message) -> Appended:
        """Append a message; it is synced to the disk when this returns.

        Raises `LogInUse` where another process holds the log for `wait_s` seconds, `Refused` and `UserError` as `LogWriter.append` does.
        """
        future: Future[Appended] = Future()
        self._queued.append((message, future))
        with self._lock:
            if not future.done():
                self._write_all()
        return future.result()

    def _write_all(self) -> None:
        group = [self._queued.popleft() for _ in range(len(self._queued))]
        try:
            outcomes = self._written(group)
        except BaseException as failed:
            for _, future in group:
                future.set_exception(failed)
            if not isinstance(failed, UserError):
                raise
            return
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Refused):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _written(self, group: "list[tuple[Message, Future[Appended]]]") -> list[Appended | Refused]:
        writer = self._opened()
        outcomes: list[Appended | Refused] = []
        try:
            for message, _ in group:
                try:
                    outcomes.append(writer.append(message))
                except Refused as refused:
                    outcomes.append(refused)
            writer.sync()
        except BaseException:
            writer.close()
            raise
        self._index = writer.close_to_go_on()
        return outcomes

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
