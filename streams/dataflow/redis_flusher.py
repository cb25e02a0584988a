"""One thread of a process that takes to Redis what the views' writers have for it, while the engine goes on.

What has come for several views meanwhile goes in one round trip, and of what came for one key the newest alone.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from streams.dataflow.retry import Retry

STORE: Final = "online"


class Writer(Protocol):
    """What has something to be taken to Redis now and then; told apart by identity."""

    def ready(self) -> None:
        """Be connected to a server that holds what was taken there before; safe to call again."""

    def take(self) -> None:
        """Set aside what waits, to be delivered next; `changing` is held."""


W = TypeVar("W", bound=Writer)


class RedisFlusher(Generic[W]):
    """Calls `deliver` for the writers that asked for it, in a thread of its own, and again until it succeeds.

    `deliver` raises what `Retry` waits for; it must be safe to call again. Whoever asks, or waits, is raised what ended
    the thread. `changing` is held by whoever changes what waits.
    """

    def __init__(self, waiting: Retry, deliver: Callable[[Sequence[W]], None]) -> None:
        self.changing = threading.RLock()
        self._turned = threading.Condition(self.changing)
        self._waiting = waiting
        self._deliver = deliver
        self._laden: dict[W, None] = {}
        self._asking: dict[W, None] = {}
        self._served: Sequence[W] = ()
        self._failed: BaseException | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def lade(self, writer: W) -> None:
        """Have it known that something waits at a writer, for the next `ask_all`."""
        with self.changing:
            self._laden[writer] = None

    def ask(self, writer: W) -> None:
        """Have what waits at a writer delivered soon."""
        with self.changing:
            self._refuse_failed()
            self._asking[writer] = None
            self._turned.notify_all()
            if self._thread is None:
                # a daemon: an error of the engine's does not wait for a server that is away
                self._thread = threading.Thread(target=self._work, name="velo-courier", daemon=True)
                self._thread.start()

    def until_taken(self, writer: W) -> None:
        """Wait until what waited at a writer is on its way."""
        with self.changing:
            while writer in self._asking:
                self._refuse_failed()
                self._turned.wait()

    def until_delivered(self, writer: W) -> None:
        """Have all that waits anywhere delivered, and wait until all of this writer's is."""
        with self.changing:
            for one in self._laden:
                self.ask(one)
            self._laden.clear()
            while writer in self._asking or writer in self._served:
                self._refuse_failed()
                self._turned.wait()

    def idle(self) -> bool:
        """Whether nothing was asked for that is not delivered."""
        with self.changing:
            return not self._asking and not self._served

    def end(self) -> None:
        """End the thread once what it delivers is done, or once it is told to stop waiting for a server."""
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
            for one in self._served:
                one.take()
            self._turned.notify_all()
            return self._served

    def _serve(self, writers: Sequence[W]) -> None:
        for one in writers:
            one.ready()
        self._deliver(writers)
