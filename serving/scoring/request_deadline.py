"""Limit how long a request waits for the online store: one time budget for all the answers that it needs."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread, local
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redis import Redis

DEADLINE_S: Final = 0.2
"""Seconds that a request waits for the online store: within 250 ms it reports a store that does not respond."""
UNHURRIED_S: Final = 2.0
"""Seconds that the command line waits: a slow answer is better than none, and Redis may have to start first."""


class DeadlineExceeded(Exception):
    """The request's time is used up."""


@dataclass(slots=True)
class RequestDeadline:
    """The time in seconds that one thread's request may wait; each thread has its own."""

    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _of_thread: local = field(default_factory=local)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Share one time budget among all waits inside; a nested use continues the outer budget."""
        if getattr(self._of_thread, "until", None) is not None:
            yield
            return
        self._of_thread.until = self.monotonic() + self.seconds
        self._of_thread.waited = 0.0
        try:
            yield
        finally:
            self._of_thread.until = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent inside as waiting for the online store; a nested wait counts once."""
        if getattr(self._of_thread, "waiting", False):
            yield
            return
        begun = self.monotonic()
        self._of_thread.waiting = True
        try:
            yield
        finally:
            self._of_thread.waiting = False
            self._of_thread.waited = self.waited() + self.monotonic() - begun

    def waited(self) -> float:
        """Seconds of the shared time spent waiting for the online store."""
        waited: float = getattr(self._of_thread, "waited", 0.0)
        return waited

    def left(self) -> float:
        """Seconds left; raises `DeadlineExceeded` at 0."""
        until: float | None = getattr(self._of_thread, "until", None)
        if until is None:
            return self.seconds
        left = until - self.monotonic()
        if left <= 0.0:
            raise DeadlineExceeded(f"not within {1000 * self.seconds:.0f} ms")
        return left


class ClientFinder:
    """Finds the online store in its own thread: a request waits until its deadline, and the next request waits on."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address
        self._asked: Future[str] | None = None
        self._lock = Lock()

    def find(self, deadline: RequestDeadline) -> str:
        """The address; raises `DeadlineExceeded`, or what `address` raises."""
        if deadline.seconds >= UNHURRIED_S:
            return self._address()
        with self._lock:
            asked = self._asked
            if asked is None:
                asked = self._asked = Future()
                Thread(target=self._ask, args=(asked,), daemon=True).start()
        try:
            return asked.result(deadline.left())
        except Late:
            raise DeadlineExceeded("it is being looked for, or started") from None
        finally:
            if asked.done():
                with self._lock:
                    if self._asked is asked:
                        self._asked = None

    def _ask(self, asked: "Future[str]") -> None:
        try:
            asked.set_result(self._address())
        except BaseException as failed:  # noqa: BLE001 passed on to the waiting requests
            asked.set_exception(failed)


def client_of(url: str, deadline: RequestDeadline) -> "Redis":
    """A client whose connections wait no longer than the time `deadline` has left, to connect or to read."""
    from redis import ConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    waits: dict[str, Any] = {"socket_timeout": deadline.seconds, "retry": Retry(NoBackoff(), 0)}
    if not url.startswith("unix://"):
        waits["socket_connect_timeout"] = deadline.seconds
    pool: Any = ConnectionPool.from_url(url, **waits)
    pool.connection_class = _hurried(pool.connection_class, deadline)
    return Redis.from_pool(pool)


def _hurried(kind: Any, deadline: RequestDeadline) -> Any:
    """A connection class (TCP, TLS or Unix) that keeps the deadline."""

    class Hurried(kind):  # type: ignore[misc]  # known only when the URL is
        def connect(self, *args: Any, **kwargs: Any) -> Any:
            self.socket_timeout = self.socket_connect_timeout = _left(deadline)
            with deadline.waiting():
                return super().connect(*args, **kwargs)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if self._sock is not None:
                self._sock.settimeout(_left(deadline))
            with deadline.waiting():
                return super().read_response(*args, **kwargs)

    return Hurried


def _left(deadline: RequestDeadline) -> float:
    from redis.exceptions import TimeoutError as Spent

    try:
        return deadline.left()
    except DeadlineExceeded as spent:
        raise Spent(str(spent)) from None
