"""Parts written and sealed by a thread beside the engine: a result told meanwhile does not wait for the disk.

What is sealed late is resumed from early: the source has a snapshot say where the one before it was taken, and waits
until all that was handed over by then is sealed. So no snapshot that is kept says more than the tables hold.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

JOBS_WAITING: Final = 4
"""Lots of rows handed over and not yet written, at most: each may be of many thousand rows."""


class Sealing:
    """Does what it is given in its order: in a thread `beside` the engine, or at once."""

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "velo-sealing") if beside else None
        self._given: deque[Future[None]] = deque()
        self._ending = False

    def do(self, job: Callable[[], None]) -> None:
        """Have a job done after those given before; raises what one of them failed with, or this one if done at once."""
        if self._thread is None:
            job()
            return
        self._given.append(self._thread.submit(job))
        self._until_left(0 if self._ending else JOBS_WAITING)

    def wait(self) -> None:
        """Return once all is done that was given; raises what a job failed with."""
        self._until_left(0)

    def at_once(self) -> None:
        """From now on return from each job when it is done: the last snapshot says where the stream ended."""
        self._ending = True

    def end(self) -> None:
        """Leave undone what has not begun, and wait for what has."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _until_left(self, most: int) -> None:
        while self._given and (len(self._given) > most or self._given[0].done()):
            self._given.popleft().result()
