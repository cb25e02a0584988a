"""Live messages from many threads, and from processes that take turns: the log's lock is held only while one group is written.

What is asked for while a group is on its way to the disk makes the next group, with one sync for all of it.
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
"""How long another process may hold the log before it is said to be in use."""
_POLL_S: Final = 0.005


@dataclass(slots=True)
class SharedWriter:
    """Appends live messages; safe for threads."""

    store: Store
    clock: Clock
    wait_s: float = WAIT_S
    monotonic: Callable[[], float] = time.monotonic
    _index: Index | None = None
    _asked: "deque[tuple[Message, Future[Appended]]]" = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    def append(self, message: Message) -> Appended:
        """Append a message, on the disk when this returns.

        Raises `LogInUse` where another process keeps the log, `Refused` and `UserError` as `LogWriter.append` does.
        """
        answer: Future[Appended] = Future()
        self._asked.append((message, answer))
        with self._lock:
            if not answer.done():
                self._write_all()
        return answer.result()

    def _write_all(self) -> None:
        group = [self._asked.popleft() for _ in range(len(self._asked))]
        try:
            taken = self._written(group)
        except BaseException as failed:
            for _, answer in group:
                answer.set_exception(failed)
            if not isinstance(failed, UserError):
                raise
            return
        for (_, answer), outcome in zip(group, taken, strict=True):
            if isinstance(outcome, Refused):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _written(self, group: "list[tuple[Message, Future[Appended]]]") -> list[Appended | Refused]:
        writer = self._opened()
        taken: list[Appended | Refused] = []
        try:
            for message, _ in group:
                try:
                    taken.append(writer.append(message))
                except Refused as why:
                    taken.append(why)
            writer.sync()
        except BaseException:
            writer.close()
            raise
        self._index = writer.close_to_go_on()
        return taken

    def _opened(self) -> LogWriter:
        # an index that a failed writer left half told is not used again
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
