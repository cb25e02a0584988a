"""How long a request waits for the online store: so long in all, however many answers it needs and however slow each is."""

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

PATIENCE_S: Final = 0.2
"""Of the quarter of a second within which a request is told that the online store does not answer."""
UNHURRIED_S: Final = 2.0
"""At the command line a slow answer is better than none, and a Redis that has to be started is waited for."""


class DeadlineExceeded(Exception):
    """The time is spent."""


@dataclass(slots=True)
class RequestDeadline:
    """The time that what runs in one thread may wait; each thread has its own."""

    seconds: float
    monotonic: Callable[[], float] = time.monotonic
    _of_thread: local = field(default_factory=local)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """All that waits within has the same time; what begins within another goes on with what that one has left."""
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
        """What runs within waits for the online store; a wait within another is part of it."""
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
        """Seconds of the shared time that went into waiting for the online store."""
        waited: float = getattr(self._of_thread, "waited", 0.0)
        return waited

    def left(self) -> float:
        """Seconds left; raises `DeadlineExceeded` where there are none."""
        until: float | None = getattr(self._of_thread, "until", None)
        if until is None:
            return self.seconds
        left = until - self.monotonic()
        if left <= 0.0:
            raise DeadlineExceeded(f"not within {1000 * self.seconds:.0f} ms")
        return left


class ClientFinder:
    """Asks where the online store is in a thread of its own: who asks waits no longer than it may, the next goes on waiting."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address
        self._asked: Future[str] | None = None
        self._lock = Lock()

    def find(self, patience: RequestDeadline) -> str:
        """The address; raises `DeadlineExceeded`, or what `address` raises."""
        if patience.seconds >= UNHURRIED_S:
            return self._address()
        with self._lock:
            asked = self._asked
            if asked is None:
                asked = self._asked = Future()
                Thread(target=self._ask, args=(asked,), daemon=True).start()
        try:
            return asked.result(patience.left())
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
        except BaseException as failed:  # noqa: BLE001 told to whoever waits for it
            asked.set_exception(failed)


def client_of(url: str, patience: RequestDeadline) -> "Redis":
    """A client none of whose connections waits longer than `patience` has left, to connect or for an answer."""
    from redis import ConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    waits: dict[str, Any] = {"socket_timeout": patience.seconds, "retry": Retry(NoBackoff(), 0)}
    if not url.startswith("unix://"):
        waits["socket_connect_timeout"] = patience.seconds
    pool: Any = ConnectionPool.from_url(url, **waits)
    pool.connection_class = _hurried(pool.connection_class, patience)
    return Redis.from_pool(pool)


def _hurried(kind: Any, patience: RequestDeadline) -> Any:
    """A kind of connection, TCP, TLS or Unix, that waits no longer than it may."""

    class Hurried(kind):  # type: ignore[misc]  # known only when the URL is
        def connect(self, *args: Any, **kwargs: Any) -> Any:
            self.socket_timeout = self.socket_connect_timeout = _left(patience)
            with patience.waiting():
                return super().connect(*args, **kwargs)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if self._sock is not None:
                self._sock.settimeout(_left(patience))
            with patience.waiting():
                return super().read_response(*args, **kwargs)

    return Hurried


def _left(patience: RequestDeadline) -> float:
    from redis.exceptions import TimeoutError as Spent

    try:
        return patience.left()
    except DeadlineExceeded as spent:
        raise Spent(str(spent)) from None
