"""One thread a process that writes the views' pending rows to Redis, while the engine goes on.

Several views that ask meanwhile are written in one round trip; of the rows of a key only the newest is written.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from velo.streams.dataflow.retry import Retry

STORE: Final = "online"


class Writer(Protocol):
    """Has rows to write to Redis from time to time; compared by identity."""

    def ready(self) -> None:
        """Connect to a server that holds what was written before; safe to call again."""

    def take(self) -> None:
        """Make the pending rows the next write; called with `changing` held."""


W = TypeVar("W", bound=Writer)


class RedisFlusher(Generic[W]):
    """Calls `deliver` for the writers that asked for it, in its own thread, and retries until it succeeds.

    `deliver` raises what `Retry` retries on, and must be safe to repeat. What ends the thread is raised from `ask` and the
    `until_…` methods. Hold `changing` to change pending rows.
    """

    def __init__(self, waiting: Retry, deliver: Callable[[Sequence[W]], None]) -> None:
        self.changing = threading.RLock()
        self._turned = threading.Condition(self.changing)
        self._waiting = waiting
        self._deliver = deliver
        self._pending: dict[W, None] = {}
        self._asking: dict[W, None] = {}
        self._served: Sequence[W] = ()
        self._failed: BaseException | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def enqueue(self, writer: W) -> None:
        """Note that a writer has pending rows, for the next `until_delivered`."""
        with self.changing:
            self._pending[writer] = None

    def ask(self, writer: W) -> None:
        """Write the pending rows of a writer soon."""
        with self.changing:
            self._refuse_failed()
            self._asking[writer] = None
            self._turned.notify_all()
            if self._thread is None:
                # a daemon: after an error of the engine the process must not wait for an unavailable server
                self._thread = threading.Thread(target=self._work, name="velo-redis-flusher", daemon=True)
                self._thread.start()

    def until_taken(self, writer: W) -> None:
        """Wait until the thread has taken a writer's pending rows."""
        with self.changing:
            while writer in self._asking:
                self._refuse_failed()
                self._turned.wait()

    def until_delivered(self, writer: W) -> None:
        """Write the pending rows of all writers, and wait until this writer's are written."""
        with self.changing:
            for each in self._pending:
                self.ask(each)
            self._pending.clear()
            while writer in self._asking or writer in self._served:
                self._refuse_failed()
                self._turned.wait()

    def idle(self) -> bool:
        """Whether all that was asked for is written."""
        with self.changing:
            return not self._asking and not self._served

    def end(self) -> None:
        """End the thread after its current write, or when its retry is stopped."""
        with self.changing:
            self._ended = True
            self._turned.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _refuse_failed(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        try:
            while served := self._next():
                self._waiting.until_done(STORE, lambda: self._serve(served))
                with self.changing:
                    self._served = ()
                    self._turned.notify_all()
        except BaseException as failed:  # noqa: BLE001  raised where the stream asks for it
            with self.changing:
                self._failed = failed
                self._turned.notify_all()

    def _next(self) -> Sequence[W]:
        with self.changing:
            while not self._asking and not self._ended:
                self._turned.wait()
            if self._ended:
                return ()
            self._served = tuple(self._asking)
            self._asking.clear()
            for writer in self._served:
                writer.take()
            self._turned.notify_all()
            return self._served

    def _serve(self, writers: Sequence[W]) -> None:
        for writer in writers:
            writer.ready()
        self._deliver(writers)
